"""YOLO exports through the loader of their trainer, Ultralytics, which tests/readers.txt brings."""

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

from pipeline.export import ExportOptions, export_labels
from tests.export_labels import HW, ONTOLOGY, image, make_labels, masked, ring, two_parts

TASKS = {"yolo": "detect", "yolo-seg": "segment", "yolo-obb": "obb"}
READ = """
import json, sys
from pathlib import Path
from ultralytics.data.dataset import YOLODataset
from ultralytics.data.utils import check_det_dataset

found = {}
for name, task in json.loads(sys.argv[1]).items():
    data = check_det_dataset(f"{sys.argv[2]}/{name}/data.yaml", autodownload=False)
    rows = YOLODataset(img_path=data["train"], data=data, task=task, augment=False, imgsz=64).labels
    labels = {Path(row["im_file"]).name: [row["cls"].ravel().tolist(), row["bboxes"].tolist()] for row in rows}
    found[name] = [data["names"], labels, sum(len(row["segments"]) for row in rows)]
Path(sys.argv[3]).write_text(json.dumps(found))
"""


def test_ultralytics_reads_every_label(tmp_path: Path) -> None:
    rows = [
        image("a.jpg", masked("a0", 1, ring()), masked("a1", 2, two_parts())),
        image("b.jpg"),
        image("c ü.jpg", masked("c0", 3, ring()), masked("c1", 2, two_parts())),
    ]
    labels = make_labels(tmp_path / "photos", rows)
    for name in TASKS:
        export_labels(labels, tmp_path / name, name, ExportOptions("copy"))
    output = tmp_path / "found.json"
    settings = {"YOLO_CONFIG_DIR": str(tmp_path), "YOLO_OFFLINE": "true", "YOLO_AUTOINSTALL": "false"}
    command = [sys.executable, "-c", READ, json.dumps(TASKS), str(tmp_path), str(output)]
    done = subprocess.run(command, env=settings, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{done.stderr[-2000:]}\npip install --no-deps -r tests/readers.txt"
    expected = {row.path: Counter(found.class_id - 1 for found in row.objects) for row in rows}
    for name, (names, read, segments) in json.loads(output.read_text()).items():
        assert list(names.values()) == [spec.name for spec in ONTOLOGY.classes]
        assert {path: Counter(classes) for path, (classes, _) in read.items()} == expected, name
        assert segments == (0 if name == "yolo" else 4)
    left, top, right, bottom = rows[0].objects[0].box_xyxy
    boxes = json.loads(output.read_text())["yolo"][1]["a.jpg"]
    x, y, width, height = boxes[1][boxes[0].index(0)]
    found = ((x - width / 2) * HW[1], (y - height / 2) * HW[0], (x + width / 2) * HW[1], (y + height / 2) * HW[0])
    assert max(abs(a - b) for a, b in zip(found, (left, top, right, bottom), strict=True)) < 0.01
