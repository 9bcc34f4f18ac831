"""`groundlabel train` from files to files: what it reads, what it refuses, what it prints."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from jobs.cli import build_parser, main
from jobs.train import describe
from models.training.evaluate import Precision
from models.training.finetune_plan import FinetuneResult
from pipeline.errors import UserError
from pipeline.export import ExportOptions, export_run
from pipeline.training import train
from pipeline.training_data import read_training_data, refuse_problems
from pipeline.training_split import coco_text, count_boxes, split_by_hash
from tests.review_runs import disc, labelled, odd_records, write_run
from tests.tiny_training import PAIRS, write_scenes, write_small_detector

Edit = Callable[[dict[str, Any]], object]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_scenes(tmp_path_factory.mktemp("scenes"), 8)


@pytest.fixture(scope="module")
def detector(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_small_detector(tmp_path_factory.mktemp("detector"))


def _edited(data: Path, folder: Path, edit: Edit) -> Path:
    content = json.loads(data.read_text())
    edit(content)
    file = folder / "edited.json"
    file.write_text(json.dumps(content))
    return file


def _content(text: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(text)
    return content


def test_the_command_trains_splits_and_prints_a_table(
    data: Path, detector: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    words = ["train", str(data), "--detector", str(detector), "--output", str(out), "--device", "cpu"]
    assert main([*words, "--epochs", "1", "--batch-size", "3"]) == 0
    printed = capsys.readouterr().out
    assert "AP50 before" in printed
    assert "2 steps; on the 2 validation images:" in printed
    assert f"--detector {out / 'model'} --output run/" in printed
    halves = [_content((out / name).read_text()) for name in ("train.json", "val.json")]
    assert [len(half["images"]) for half in halves] == [6, 2]
    assert all(Path(record["file_name"]).is_file() for half in halves for record in half["images"])
    assert main(words) == 2
    assert "holds a training already; go on with --resume, or start anew with --overwrite" in capsys.readouterr().err
    assert main([*words, "--epochs", "2", "--resume"]) == 2
    assert "begun with --epochs 1.0, not 2.0" in capsys.readouterr().err
    assert main([*words, "--epochs", "1", "--batch-size", "3", "--resume", "--seed", "1"]) == 2
    assert "begun with other data; start anew with --overwrite" in capsys.readouterr().err
    assert main([*words, "--epochs", "1", "--batch-size", "3", "--resume"]) == 0
    assert main([*words, "--epochs", "1", "--batch-size", "8", "--overwrite"]) == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--freeze", "backbone,head"], "freeze knows backbone and text, not 'head'"),
        (["--epochs", "1", "--minutes", "1"], "give --epochs or --minutes, not both"),
        (["--resume", "--overwrite"], "give --resume or --overwrite, not both"),
        (["--workers", "0"], "workers must be at least 1"),
        (["--detector", "tinny"], "did you mean"),
        (["--images", "nowhere"], "nowhere: no such folder of images"),
        (["--val", "nowhere.json"], "nowhere.json: no such file or folder"),
    ],
)
def test_wrong_options_are_one_message(
    words: list[str], message: str, data: Path, detector: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["train", str(data), "--output", str(tmp_path / "out"), "--detector", str(detector), *words]
    assert main(given) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_folder_of_somebody_else_is_not_touched(data: Path, detector: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("x")
    with pytest.raises(UserError, match="is not empty and no training; choose another --output"):
        train(data, str(detector), tmp_path, overwrite=True)
    with pytest.raises(UserError, match="is a file; --output must be a folder"):
        train(data, str(detector), tmp_path / "thesis.txt")


def _set_box(box: list[object]) -> Edit:
    return lambda content: content["annotations"][0].update(bbox=box)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (
            _set_box([90, 90, 30, 4]),
            r"annotation 1 of 001\.png: the box \[90, 90, 30, 4\] reaches out of the image of 96",
        ),
        (_set_box([-9, 0, 30, 4]), r"annotation 1 of 001\.png: the box .* reaches out"),
        (_set_box([5, 5, 0, 9]), r"annotation 1 of 001\.png: the box \[5, 5, 0, 9\] has no area"),
        (_set_box([1, 2, 3]), "annotation 1 of 001.png has no bbox of four numbers"),
        (lambda c: c["annotations"][0].update(category_id=77), "annotation 1 of 001.png is of category 77"),
        (lambda c: c["annotations"][0].update(image_id=77), "annotation 1 is of image 77"),
        (lambda c: c["images"][0].update(file_name="gone.png"), r"gone\.png is missing; say where .*--images"),
        (lambda c: c["images"][0].update(width=12), r"001\.png is 96 × 96 \(upright\), its labels say 12 × 96"),
    ],
)
def test_bad_data_is_named_and_can_be_skipped(edit: Edit, message: str, data: Path, tmp_path: Path) -> None:
    file = _edited(data, tmp_path, edit)
    found = read_training_data(file, data.parent / "images")
    with pytest.raises(UserError, match=f"1 problems in the data; .*--skip-bad(?s:.*){message}"):
        refuse_problems(found, skip_bad=False)
    refuse_problems(found, skip_bad=True)
    assert len(found.notes) == 1
    whole = read_training_data(data)
    assert count_boxes(found.files).total() < count_boxes(whole.files).total()


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda c: c.pop("images"), "not COCO: it must be an object with the lists"),
        (lambda c: c["images"].append(c["images"][0]), "two images have the same id"),
        (lambda c: c["categories"][0].update(name="St. Bernard"), "class name 'st. bernard' cannot be a prompt"),
        (lambda c: c["categories"][0].update(name="Blue  Square"), "two classes are called 'blue square'"),
        (lambda c: c["categories"][0].pop("name"), "an image or category lacks 'name'"),
    ],
)
def test_damaged_files_are_refused(edit: Edit, message: str, data: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        read_training_data(_edited(data, tmp_path, edit), data.parent / "images")


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda c: c.update(annotations=[]), "no annotation to learn from in 8 images"),
        (lambda c: c.update(annotations=[], images=[]), "no annotation to learn from in 0 images"),
    ],
)
def test_data_without_annotations_is_refused(
    edit: Edit, message: str, data: Path, detector: Path, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=message):
        train(_edited(data, tmp_path, edit), str(detector), tmp_path / "out", images=data.parent / "images")


def test_odd_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "broken.json").write_text("{")
    with pytest.raises(UserError, match=r"broken\.json: not JSON"):
        read_training_data(tmp_path / "broken.json")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="neither a run nor an export: it has no annotations"):
        read_training_data(tmp_path / "empty")


def test_classes_without_annotations_are_left_out_and_named(
    data: Path, detector: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = _edited(data, tmp_path, lambda c: c["categories"].insert(0, {"id": 0, "name": "things"}))
    words = [
        "train",
        str(file),
        "--images",
        str(data.parent / "images"),
        "--val",
        str(data),
        "--detector",
        str(detector),
    ]
    assert main([*words, "--output", str(tmp_path / "out"), "--epochs", "1", "--device", "cpu"]) == 0
    assert "left out: classes without an annotation to learn from: things" in capsys.readouterr().out
    assert [c["name"] for c in _content((tmp_path / "out" / "train.json").read_text())["categories"]] == list(PAIRS)


def test_a_run_and_its_export_are_the_same_data(tmp_path: Path) -> None:
    boxes = [
        (disc((90, 160), (60, 45), 30), (30, 15, 91, 76), 0),
        (disc((90, 160), (130, 40), 9), (121, 31, 140, 50), 2),
    ]
    run = write_run(tmp_path, [labelled("sub/one.png", (90, 160), boxes), *odd_records()[:2]])
    export_run(run, tmp_path / "coco", options=ExportOptions("link"))
    from_run, from_export = read_training_data(run), read_training_data(tmp_path / "coco")
    assert from_run.names == from_export.names == ["round thing", "square"]
    assert from_run.notes == ["left out: 1 images that failed in the run"]
    for found in (from_run, from_export):
        assert found.problems == []
        assert count_boxes(found.files) == {"round thing": 1, "square": 1}
        assert [file.size for file in found.files] == [(48, 64), (160, 90)]
    assert [file.key for file in from_run.files] == [file.key for file in from_export.files]
    assert from_run.files[1].boxes[0].box_xywh == (30, 15, 61, 61)


def test_the_frame_is_that_of_the_upright_image(data: Path, tmp_path: Path) -> None:
    picture = Image.new("RGB", (96, 50))
    exif = picture.getexif()
    exif[0x0112] = 6
    picture.save(tmp_path / "001.png", exif=exif)
    keep = {"images": [{"id": 1, "file_name": "001.png", "width": 50, "height": 96}], "annotations": []}
    assert read_training_data(_edited(data, tmp_path, lambda c: c.update(keep))).files[0].size == (50, 96)


def test_the_split_depends_on_the_image_alone(data: Path) -> None:
    files = read_training_data(data).files
    learned, held_back = split_by_hash(files, 0)
    again = split_by_hash(files[::-1], 0)
    assert {file.key for file in held_back} == {file.key for file in again[1]}
    assert (len(learned), len(held_back)) == (6, 2)
    assert any(split_by_hash(files, seed)[1] != held_back for seed in range(1, 6))
    with pytest.raises(UserError, match="1 image cannot be split into training and validation"):
        split_by_hash(files[:1], 0)


def test_the_files_for_training_are_the_same_each_time(data: Path) -> None:
    texts = {coco_text(read_training_data(data).files, PAIRS[:2]) for _ in range(2)}
    assert len(texts) == 1
    content = _content(texts.pop())
    assert {annotation["category_id"] for annotation in content["annotations"]} == {1, 2}
    assert hashlib.sha256(json.dumps(content["images"]).encode()).hexdigest()


def test_the_table_has_a_row_a_class_and_says_when_nothing_was_gained() -> None:
    before, after = Precision(0.5, 0.4, {"cat": 0.4}, {"cat": 0.5}), Precision(0.3, 0.2, {"cat": 0.2}, {"cat": 0.3})
    result = FinetuneResult(Path("out/model"), {"cat": 3, "dog": 0}, before, after, (), 10, 8, 2)
    lines = describe(result).splitlines()
    assert lines[1].split() == ["class", "boxes", "AP50", "before", "after", "AP", "before", "after"]
    assert lines[2].split() == ["cat", "3", "0.500", "0.300", "0.400", "0.200"]
    assert lines[3].split() == ["dog", "0", "–", "–", "–", "–"]
    assert lines[4].split() == ["all", "3", "0.500", "0.300", "0.400", "0.200"]
    assert "It is no better than before" in lines[5]


def test_options_have_the_defaults_of_the_configuration() -> None:
    given = build_parser("train").parse_args(["train", "run", "--output", "out", "--no-look-forward-twice"])
    assert (given.look_forward_twice, given.closed_set, given.freeze, given.max_prompts) == (False, False, (), 40)
    given = build_parser("train").parse_args(["train", "run", "--output", "out", "--freeze", "backbone, text"])
    assert given.freeze == ("backbone", "text")
