"""The COCO export: read back with pycocotools, ids, order, what is left out, and the folder's safety."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools.coco import COCO

from jobs.cli import main
from models.detections import Detections, Instances
from models.masks import Rle, decode_mask, encode_mask
from models.ontology import Ontology
from pipeline.config import AnnotateConfig
from pipeline.errors import UserError
from pipeline.export import FORMATS, ExportOptions, export_run
from pipeline.export.coco import write
from pipeline.export.folder import Written, export_folder
from pipeline.records import AnnotatedImage, FailedImage, ImageTiming
from pipeline.store.shards import write_shard
from pipeline.store.writer import RunWriter

Make = Callable[..., Any]


def export(labels: Any, output: Path, **options: Any) -> Written:
    chosen = ExportOptions(ids="count", **options)
    return export_folder(output, "coco", labels.fingerprint, chosen, lambda part: write(labels, part, chosen))


def image_with(path: str, masks: list[np.ndarray], ontology: Ontology) -> AnnotatedImage:
    count = len(masks)
    found = Detections(
        masks[0].shape,
        np.tile([0, 0, 1, 1], (count, 1)),
        np.full(count, 0.123456789),
        np.ones(count),
        np.zeros(count),
    )
    instances = Instances(found, tuple(encode_mask(mask) for mask in masks), np.full(count, 0.5))
    return AnnotatedImage.from_instances("0" * 16, path, instances, ontology)


def test_pycocotools_reads_what_the_records_say(
    scene_labels: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    labels = scene_labels(5)
    labels.rows.insert(2, FailedImage("f" * 16, "sub/broken.jpg", "not a whole image"))
    written = export(labels, tmp_path / "out")
    coco = COCO(tmp_path / "out" / "annotations.json")
    good = [row for row in labels.rows if isinstance(row, AnnotatedImage)]
    assert coco.getImgIds() == [1, 2, 3, 4, 5]
    assert [image["file_name"] for image in coco.loadImgs(coco.getImgIds())] == [row.path for row in good]
    assert {cat["id"]: cat["name"] for cat in coco.loadCats(coco.getCatIds())} == {
        spec.id: spec.name for spec in labels.ontology.classes
    }
    annotation_id = 0
    for image_id, row in enumerate(good, start=1):
        annotations = coco.loadAnns(coco.getAnnIds(imgIds=image_id))
        assert len(annotations) == len(row.instances)
        for index, annotation in enumerate(annotations):
            annotation_id += 1
            assert annotation["id"] == annotation_id
            mask = decode_mask(row.instances.masks[index])
            assert np.array_equal(coco.annToMask(annotation).astype(bool), mask)
            assert annotation["area"] == mask.sum()
            ys, xs = np.nonzero(mask)
            tight = [xs.min(), ys.min(), xs.max() - xs.min() + 1, ys.max() - ys.min() + 1]
            assert annotation["bbox"] == tight
            assert annotation["iscrowd"] == 0
            assert annotation["category_id"] == row.instances.detections.class_ids[index]
            assert annotation["score"] == pytest.approx(row.instances.detections.scores[index], abs=1e-6)
            assert annotation["mask_score"] == pytest.approx(row.instances.mask_scores[index], abs=1e-6)
            assert annotation["prompt"] == row.prompts[index]
            assert annotation["object_id"] == row.instance_ids[index]
    assert (written.images, written.annotations) == (5, annotation_id)
    assert written.failed == [("sub/broken.jpg", "not a whole image")]
    listed = json.loads((tmp_path / "out" / "export.json").read_text())
    assert listed["failed_images"] == [{"path": "sub/broken.jpg", "reason": "not a whole image"}]
    assert capsys.readouterr().out  # pycocotools talks


def test_a_run_without_images_or_objects_is_valid(scene_labels: Make, tmp_path: Path) -> None:
    for count in (0, 2):
        labels = scene_labels(count, max_objects=0) if count else scene_labels(0)
        export(labels, tmp_path / str(count))
        content = json.loads((tmp_path / str(count) / "annotations.json").read_text())
        assert len(content["images"]) == count
        assert content["annotations"] == []
        assert content["licenses"][0]["id"] == 1
        assert content["info"]["fingerprint"] == labels.fingerprint
        (tmp_path / "photos").rename(tmp_path / f"photos{count}")


def test_the_same_labels_give_the_same_bytes(scene_labels: Make, tmp_path: Path) -> None:
    labels = scene_labels(3)
    for name in ("first", "second"):
        export(labels, tmp_path / name)
    first, second = ((tmp_path / name / "annotations.json").read_bytes() for name in ("first", "second"))
    assert first == second


def test_an_empty_mask_is_left_out_and_listed(scene_labels: Make, tmp_path: Path) -> None:
    labels = scene_labels(1)
    full, empty = np.ones((4, 6), bool), np.zeros((4, 6), bool)
    labels.rows = [image_with("sub/000.png", [empty, full], labels.ontology)]
    written = export(labels, tmp_path / "out", images="none")
    content = json.loads((tmp_path / "out" / "annotations.json").read_text())
    assert [(a["id"], a["bbox"], a["score"]) for a in content["annotations"]] == [(1, [0, 0, 6, 4], 0.123457)]
    assert written.empty_masks == [("sub/000.png", labels.rows[0].instance_ids[0])]


def test_one_pixel_and_holes_survive(scene_labels: Make, tmp_path: Path) -> None:
    labels = scene_labels(1)
    pixel, holed = np.zeros((5, 9), bool), np.ones((5, 9), bool)
    pixel[4, 8] = True
    holed[2, 3:5] = False
    labels.rows = [image_with("sub/000.png", [pixel, holed], labels.ontology)]
    export(labels, tmp_path / "out", images="none")
    content = json.loads((tmp_path / "out" / "annotations.json").read_text())
    back = [decode_mask(Rle.from_coco(a["segmentation"])) for a in content["annotations"]]
    assert np.array_equal(back[0], pixel)
    assert np.array_equal(back[1], holed)
    assert content["annotations"][0]["bbox"] == [8, 4, 1, 1]


@pytest.mark.parametrize("mode", ["link", "copy", "none"])
def test_images(scene_labels: Make, tmp_path: Path, mode: str) -> None:
    labels = scene_labels(2)
    export(labels, tmp_path / "out", images=mode)
    placed = tmp_path / "out" / "images" / "sub" / "001.png"
    assert placed.exists() == (mode != "none")
    assert placed.is_symlink() == (mode == "link")
    if mode != "none":
        assert placed.read_bytes() == (labels.folder / "sub" / "001.png").read_bytes()


def test_a_lost_image_leaves_no_export_behind(scene_labels: Make, tmp_path: Path) -> None:
    labels = scene_labels(2)
    (labels.folder / "sub" / "001.png").unlink()
    with pytest.raises(UserError, match=r"001\.png is gone"):
        export(labels, tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []
    assert export(labels, tmp_path / "out", images="none").images == 2


def test_a_path_that_leads_out_is_refused(scene_labels: Make, tmp_path: Path) -> None:
    labels = scene_labels(1)
    labels.rows = [image_with("../photos/sub/000.png", [np.ones((4, 4), bool)], labels.ontology)]
    with pytest.raises(UserError, match="leads out"):
        export(labels, tmp_path / "out")


def test_somebody_elses_folder_is_never_overwritten(scene_labels: Make, tmp_path: Path) -> None:
    labels, output = scene_labels(1), tmp_path / "out"
    output.mkdir()
    (output / "mine.txt").write_text("mine")
    for overwrite in (False, True):
        with pytest.raises(UserError, match="is not empty" if not overwrite else "no earlier export"):
            export(labels, output, overwrite=overwrite)
    assert [entry.name for entry in output.iterdir()] == ["mine.txt"]


def test_overwrite_replaces_an_export_and_nothing_else(scene_labels: Make, tmp_path: Path) -> None:
    labels, output = scene_labels(2), tmp_path / "out"
    export(labels, output)
    with pytest.raises(UserError, match="--overwrite"):
        export(labels, output)
    (output / "notes.txt").write_text("mine")
    labels.rows = labels.rows[:1]
    export(labels, output, overwrite=True, images="none")
    assert sorted(entry.name for entry in output.iterdir()) == ["annotations.json", "export.json", "notes.txt"]
    assert len(json.loads((output / "annotations.json").read_text())["images"]) == 1


def test_a_failed_overwrite_keeps_the_earlier_export(scene_labels: Make, tmp_path: Path) -> None:
    labels, output = scene_labels(2), tmp_path / "out"
    export(labels, output)
    before = (output / "annotations.json").read_bytes()
    (labels.folder / "sub" / "000.png").unlink()
    with pytest.raises(UserError, match="is gone"):
        export(labels, output, overwrite=True)
    assert (output / "annotations.json").read_bytes() == before


def test_the_output_must_be_a_folder_and_the_options_known(scene_labels: Make, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match="is a file"):
        export(scene_labels(1), tmp_path / "file")
    with pytest.raises(UserError, match="images must be one of"):
        ExportOptions(images="move")
    with pytest.raises(UserError, match=f"unknown format 'tensor'; known are {', '.join(FORMATS)}"):
        export_run(tmp_path, tmp_path / "out", "tensor")


@pytest.fixture
def run_folder(scene_labels: Make, tmp_path: Path) -> Path:
    """Write a run of four scenes and a failure, in two shards."""
    labels = scene_labels(4)
    failure = FailedImage("f" * 16, "sub/broken.jpg", "not a whole image")
    output = tmp_path / "run"
    parts = {"detector": {"name": "truth", "weights": "0"}, "segmenter": {"name": "truth", "weights": "0"}}
    with RunWriter(output, parts, labels.ontology, labels.folder, AnnotateConfig()) as writer:
        for rows in (labels.rows[::2], [*labels.rows[1::2], failure]):
            timings = [ImageTiming(row.image_id, 0, 0, 0, 0, "host", "1") for row in rows]
            writer.add(write_shard(output, rows, timings, writer.fingerprint, {}))
    return output


def test_the_commands_read_a_run_folder(run_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = str(tmp_path / "train.coco")
    assert main(["export", str(run_folder), "--format", "coco", "--output", output, "--licence", "CC BY 4.0"]) == 0
    assert "4 images, " in capsys.readouterr().out
    content = json.loads((tmp_path / "train.coco" / "annotations.json").read_text())
    assert [image["file_name"] for image in content["images"]] == [f"sub/{index:03d}.png" for index in range(4)]
    assert content["licenses"][0]["name"] == "CC BY 4.0"
    assert content["info"]["made_with"]["detector"]["name"] == "truth"
    assert main(["export", str(run_folder), "--output", output]) == 2
    assert f"{output} is not empty" in capsys.readouterr().err
    assert main(["preview", str(run_folder), "--n", "3", "--output", str(tmp_path / "sheet.jpg")]) == 0
    assert "3 images" in capsys.readouterr().out
    assert main(["export", str(tmp_path / "photos"), "--output", output]) == 2
    assert "not a run" in capsys.readouterr().err
