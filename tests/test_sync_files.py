"""Corrections read from files of COCO, CVAT and Label Studio: what they change in a run, and what is refused."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

import jobs.cli
from pipeline.export.coco_labels import OBJECT_ID
from pipeline.reviewed.layer import read_changes
from tests.corrected_labels import coco_of, exported, write_coco
from tests.review_runs import HW, a_photo, odd_records, write_run

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")


def kinds(run: Path) -> list[str]:
    return [str(change.kind) for change in read_changes(run) if not str(change.kind).endswith("taken")]


@pytest.mark.parametrize("keeps_ids", [True, False])
def test_a_file_that_a_person_edited_is_compared_object_by_object(tmp_path: Path, keeps_ids: bool) -> None:
    run = write_run(tmp_path, [a_photo("sub/a.png"), a_photo("sub/b.png"), a_photo("c.png")])
    content = coco_of(run, tmp_path)
    images = {image["file_name"]: image for image in content["images"]}
    a, b = (
        [row for row in content["annotations"] if row["image_id"] == images[name]["id"]]
        for name in ("sub/a.png", "sub/b.png")
    )
    a[0]["category_id"] = 2
    a.pop(1)
    b[1] |= {"segmentation": [[60, 30, 75, 30, 75, 45, 60, 45]], "bbox": [60, 30, 15, 15], "area": 225}
    b.append(
        {
            "id": 99,
            "image_id": images["sub/b.png"]["id"],
            "category_id": 1,
            "bbox": [1.5, 1, 5, 6],
            "area": 30,
            "iscrowd": 0,
        }
    )
    if not keeps_ids:
        for row in (*a, *b):
            row.pop(OBJECT_ID, None)
        for image in images.values():
            image.pop("groundlabel_id")
            image["file_name"] = f"upload/{image['file_name']}"
        b[1]["segmentation"] = [[45, 25, 70, 25, 70, 45, 45, 45]]
        b[1]["bbox"] = [45, 25, 25, 20]
    edited = {**content, "images": [images["sub/a.png"], images["sub/b.png"]], "annotations": [*a, *b]}
    file = write_coco(tmp_path / "edited.json", edited)
    assert jobs.cli.main(["sync", str(run), "--from", str(file)]) == 0
    assert sorted(kinds(run)) == ["added", "box", "deleted", "mask", "relabelled"]
    found = exported(run)
    assert sorted(found) == ["sub/a.png", "sub/b.png"]
    assert [item.class_name for item in found["sub/a.png"]] == ["square", "round thing"]
    assert found["sub/b.png"][-1].box_xyxy == (1.5, 1.0, 6.5, 7.0)
    assert found["sub/b.png"][-1].provenance == "human"
    count = len(read_changes(run))
    assert jobs.cli.main(["sync", str(run), "--from", str(file)]) == 0
    assert len(read_changes(run)) == count


def submitted(tasks: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return Label Studio's tasks as they are after a person looked at each prediction and submitted it."""
    for task in tasks:
        regions = [region for one in task.pop("predictions", ()) for region in one["result"]]
        task["annotations"] = [
            {"was_cancelled": False, "updated_at": "2026-01-02", "result": regions},
            {"was_cancelled": False, "updated_at": "2026-01-01", "result": []},
            {"was_cancelled": True, "updated_at": "2026-01-03", "result": []},
        ]
    return tasks


@pytest.mark.parametrize("name", ["coco", "cvat", "label-studio"])
def test_an_export_that_nobody_edited_changes_nothing(tmp_path: Path, name: str) -> None:
    from pipeline.export import export_run

    run = write_run(tmp_path, odd_records())
    export_run(run, tmp_path / "out", name)
    assert jobs.cli.main(["sync", str(run), "--from", str(tmp_path / "out")]) == 0
    if name == "label-studio":
        tasks = tmp_path / "out" / "tasks.json"
        tasks.write_text(json.dumps(submitted(json.loads(tasks.read_text()))))
        assert jobs.cli.main(["sync", str(run), "--from", str(tasks)]) == 0
    assert read_changes(run) == []


def edit_in_cvat(out: Path) -> Path:
    """Relabel, delete, draw a polygon, a turned box and a plain one, as CVAT writes them."""
    file = out / "annotations.xml"
    document = ElementTree.parse(file)
    a, b = (document.find(f"image[@name='{name}']") for name in ("sub/a.png", "b.png"))
    assert a is not None
    assert b is not None
    a[0].set("label", "square")
    a.remove(a[1])
    for tag, values in (
        ("polygon", {"label": "beetle", "points": "60,2;76,2;76,10;60,10"}),
        ("box", {"label": "beetle", "xtl": "1.5", "ytl": "1", "xbr": "6.5", "ybr": "7"}),
        ("box", {"label": "square", "xtl": "30", "ytl": "40", "xbr": "50", "ybr": "50", "rotation": "90"}),
        ("polyline", {"label": "square", "points": "0,0;5,5"}),
    ):
        ElementTree.SubElement(b, tag, values)
    document.write(file)
    return file


def edit_in_label_studio(out: Path) -> Path:
    """Do the same in Label Studio, which keeps neither our id of a region nor the image's path."""
    file = out / "tasks.json"
    tasks = {task["data"]["path"]: task for task in submitted(json.loads(file.read_text()))}
    a, b = (tasks[name]["annotations"][0]["result"] for name in ("sub/a.png", "b.png"))
    a[0]["value"]["brushlabels"] = ["square"]
    del a[1]
    for row, region in enumerate((*a, *b)):
        region["id"] = f"region{row}"
    size = {"original_width": HW[1], "original_height": HW[0]}
    corners = [[75, 100 / 30], [95, 100 / 30], [95, 100 / 6], [75, 100 / 6]]
    plain = {"x": 1.875, "y": 100 / 60, "width": 6.25, "height": 10, "rotation": 0, "rectanglelabels": ["beetle"]}
    turned = {"x": 56.25, "y": 100 * 35 / 60, "width": 25, "height": 100 / 6, "rotation": 90}
    b += [
        {"id": "p", "type": "polygonlabels", "value": {"points": corners, "polygonlabels": ["beetle"]}, **size},
        {"id": "r", "type": "rectanglelabels", "value": plain, **size},
        {"id": "t", "type": "rectanglelabels", "value": turned | {"rectanglelabels": ["square"]}, **size},
        {"id": "c", "type": "choices", "value": {"choices": ["good"]}},
    ]
    tasks["sub/a.png"]["data"] = {"image": "/data/upload/3/0a1b2c3d-a.png"}
    tasks["b.png"]["data"] = {"image": "/data/local-files/?d=images%2Fb.png"}
    tasks["c.png"].pop("annotations")
    file.write_text("\ufeff" + json.dumps([*tasks.values()]), encoding="utf-8")
    return file


@pytest.mark.parametrize(("name", "edit"), [("cvat", edit_in_cvat), ("label-studio", edit_in_label_studio)])
def test_corrections_come_back_from_cvat_and_label_studio(
    tmp_path: Path, name: str, edit: Callable[[Path], Path]
) -> None:
    from pipeline.export import export_run

    run = write_run(tmp_path, [a_photo("sub/a.png"), a_photo("b.png"), a_photo("c.png")])
    export_run(run, tmp_path / "out", name)
    file = edit(tmp_path / "out")
    assert jobs.cli.main(["sync", str(run), "--from", str(file)]) == 0
    assert sorted(kinds(run)) == ["added", "added", "added", "deleted", "relabelled"]
    found = exported(run)
    assert sorted(found) == ["b.png", "sub/a.png"]
    assert [item.class_name for item in found["sub/a.png"]] == ["square", "round thing"]
    assert found["sub/a.png"][0].provenance == "model+human"
    polygon, plain, turned = found["b.png"][3:]
    assert (polygon.class_name, polygon.provenance, polygon.box_xyxy) == ("beetle", "human", (60, 2, 76, 10))
    assert (plain.class_name, plain.mask) == ("beetle", None)
    np.testing.assert_allclose(plain.box_xyxy, (1.5, 1, 6.5, 7), atol=1e-6)
    np.testing.assert_allclose(turned.box_xyxy, (35, 35, 45, 55), atol=1)
    count = len(read_changes(run))
    assert jobs.cli.main(["sync", str(run), "--from", str(file)]) == 0
    assert len(read_changes(run)) == count


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("<annotations><track id='0'/></annotations>", "CVAT for images 1.1"),
        ("<annotations><image name='a.png' width='80' height='wide'/></annotations>", "height='wide'"),
        ("<annotations><image name='a.png' width='80' height='60'><cuboid/></image></annotations>", "<cuboid>"),
        (
            "<annotations><image name='a.png' width='80' height='60'>"
            "<mask rle='3, 2' left='0' top='0' width='3' height='3'/></image></annotations>",
            "5 in its rle",
        ),
        ("<annotations>", "cannot be read"),
        ("[1, 2]", "Label Studio"),
        (
            '[{"data": {"image": "a.png"}, "annotations": [{"result": [{"type": "brushlabels", "value": '
            '{"brushlabels": ["x"], "rle": [1]}, "id": "1", "original_width": 80, "original_height": 60}]}]}]',
            "a.png",
        ),
    ],
)
def test_a_file_that_is_damaged_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, message: str
) -> None:
    run = write_run(tmp_path, [a_photo("a.png")])
    file = tmp_path / "edited"
    file.write_text(text)
    assert jobs.cli.main(["sync", str(run), "--from", str(file)]) == 2
    assert message in capsys.readouterr().err
    assert read_changes(run) == []


def test_wrong_files_are_refused_in_one_message(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = write_run(tmp_path, [a_photo("a.png")])
    content = coco_of(run, tmp_path)
    image = content["images"][0]
    strange = {**content, "images": [{**image, "file_name": "z.png", "groundlabel_id": ""}]}
    larger = {**content, "images": [{**image, "width": 800}], "annotations": []}
    for wrong, message in ((strange, "none of its 1 images"), (larger, "800 × 60")):
        assert jobs.cli.main(["sync", str(run), "--from", str(write_coco(tmp_path / "wrong.json", wrong))]) == 2
        assert message in capsys.readouterr().err
    assert read_changes(run) == []
