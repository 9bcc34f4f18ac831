"""`groundlabel split`: COCO files of each side from COCO and from runs, and the search for leaks."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from pycocotools.coco import COCO

from jobs.cli import main
from tests.distinct_pictures import photo
from tests.review_runs import odd_records, write_run

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def coco(tmp_path: Path) -> Path:
    """A COCO file of 24 images, beside its images, with keys that only its maker knows."""
    content: dict[str, Any] = {
        "info": {"year": 2020},
        "licenses": [{"id": 3, "name": "CC0"}],
        "categories": [{"id": 5, "name": "thing", "keypoints": ["nose"]}, {"id": 9, "name": "Käfer"}],
        "images": [],
        "annotations": [],
    }
    (tmp_path / "images").mkdir()
    for index in range(24):
        name = f"v{index % 6}_{index}.png"
        photo(index).save(tmp_path / "images" / name)
        content["images"].append({"id": 100 + index, "file_name": name, "width": 128, "height": 128, "camera": "x"})
        entry = {"id": 7 * index, "image_id": 100 + index, "category_id": 9 if index % 8 == 0 else 5}
        content["annotations"].append({**entry, "bbox": [1, 2, 3, 4], "area": 12, "iscrowd": 0, "keypoints": [1, 2, 2]})
    path = tmp_path / "labels.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def test_sides_hold_every_entry_once_and_unchanged(coco: Path, tmp_path: Path, capsys: Capture) -> None:
    assert main(["split", str(coco), "--split", "50/25/25", "--seed", "3", "--output", str(tmp_path / "sets")]) == 0
    out = capsys.readouterr().out
    whole = json.loads(coco.read_text())
    parts = [json.loads((tmp_path / "sets" / f"{side}.json").read_text()) for side in ("train", "val", "test")]
    assert all(part["images"] for part in parts)
    for name in ("images", "annotations"):
        assert sorted((entry for part in parts for entry in part[name]), key=lambda entry: entry["id"]) == whole[name]
    for part in parts:
        assert {key: part[key] for key in ("info", "licenses", "categories")} == {
            key: whole[key] for key in ("info", "licenses", "categories")
        }
        ids = {image["id"] for image in part["images"]}
        assert {annotation["image_id"] for annotation in part["annotations"]} == ids
    assert "images of each class (seed 3):" in out
    assert "Käfer" in out
    counts = [str(len(part["images"])) for part in parts]
    assert next(line for line in out.splitlines() if line.startswith("all images")).split()[2:] == counts
    COCO(tmp_path / "sets" / "train.json")


def test_a_run_and_its_export_fall_the_same_way(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", odd_records())
    assert main(["export", str(run), "--output", str(tmp_path / "coco"), "--images", "none"]) == 0
    options = ["--split", "50/50", "--near-duplicates", "off", "--seed", "1"]
    assert main(["split", str(run), *options, "--output", str(tmp_path / "a")]) == 0
    assert main(["split", str(tmp_path / "coco"), *options, "--output", str(tmp_path / "b")]) == 0
    for side in ("train", "val"):
        first, second = (json.loads((tmp_path / name / f"{side}.json").read_text()) for name in "ab")
        assert first["images"] == second["images"] != []
        assert first["annotations"] == second["annotations"]


def test_a_split_has_no_leaks(coco: Path, tmp_path: Path, capsys: Capture) -> None:
    for index in range(6):
        photo(index).resize((80, 80)).save(tmp_path / "images" / f"w{index}.png")
    content = json.loads(coco.read_text())
    content["images"] += [{"id": index, "file_name": f"w{index}.png", "width": 80, "height": 80} for index in range(6)]
    coco.write_text(json.dumps(content))
    rule = ["--group-by", r"regex:^(v\d+)_"]
    assert main(["split", str(coco), "--split", "50/25/25", *rule, "--output", str(tmp_path / "sets")]) == 0
    assert "kept together: 6 groups" in capsys.readouterr().out
    sets = [str(tmp_path / "sets" / f"{side}.json") for side in ("train", "val", "test")]
    assert main(["split", "--check", *sets, *rule, "--images", str(tmp_path / "images")]) == 0
    assert capsys.readouterr().out == ""


def write_set(folder: Path, name: str, pictures: dict[str, Image.Image]) -> str:
    (folder / name).mkdir()
    for file_name, picture in pictures.items():
        picture.save(folder / name / file_name)
    images = [
        {"id": index, "file_name": file_name, "width": picture.width, "height": picture.height}
        for index, (file_name, picture) in enumerate(pictures.items())
    ]
    path = folder / name / "set.json"
    path.write_text(json.dumps({"images": images, "annotations": [], "categories": []}))
    return str(path)


def test_leaks_are_named_by_what_is_shared(tmp_path: Path, capsys: Capture) -> None:
    train = write_set(tmp_path, "train", {"a_1.png": photo(1), "b_2.png": photo(2), "c_3.png": photo(3)})
    val = write_set(tmp_path, "val", {"d_1.png": photo(1), "e_2.png": photo(2).resize((90, 90)), "c_9.png": photo(9)})
    assert main(["split", "--check", train, val, "--group-by", "regex:^(.)_"]) == 1
    shown = capsys.readouterr()
    lines = shown.out.splitlines()
    assert [line.removeprefix(f"{val}:").rsplit(": ", 1)[0] for line in lines] == [
        f"d_1.png: same-file as a_1.png of {train}",
        f"e_2.png: near-duplicate as b_2.png of {train}",
        f"c_9.png: same-group as c_3.png of {train}",
    ]
    assert lines[2].endswith("group 'c'")
    assert shown.err == "3 leaks between 2 sets\n"


def test_every_two_of_several_sets_are_compared(tmp_path: Path, capsys: Capture) -> None:
    sets = [write_set(tmp_path, name, {f"{name}.png": photo(seed)}) for name, seed in (("a", 1), ("b", 2), ("c", 1))]
    assert main(["split", "--check", *sets]) == 1
    assert [line.split(":")[1] for line in capsys.readouterr().out.splitlines()] == ["c.png"]


def test_an_earlier_split_is_replaced_only_when_asked(coco: Path, tmp_path: Path, capsys: Capture) -> None:
    words = ["split", str(coco), "--near-duplicates", "off", "--split", "50/50", "--output", str(tmp_path / "sets")]
    assert main(words) == 0
    before = (tmp_path / "sets" / "train.json").read_bytes()
    assert main([*words, "--seed", "4"]) == 2
    assert (
        "has train.json, val.json; choose another --output, or replace them with --overwrite" in capsys.readouterr().err
    )
    assert (tmp_path / "sets" / "train.json").read_bytes() == before
    assert main([*words, "--seed", "4", "--overwrite"]) == 0
    assert (tmp_path / "sets" / "train.json").read_bytes() != before
    assert sorted(path.name for path in (tmp_path / "sets").iterdir()) == ["train.json", "val.json"]


def test_seed_auto_says_which_it_took(coco: Path, tmp_path: Path, capsys: Capture) -> None:
    words = ["split", str(coco), "--near-duplicates", "off", "--split", "50/50"]
    assert main([*words, "--seed", "auto", "--output", str(tmp_path / "a")]) == 0
    seed = capsys.readouterr().out.split("seed ")[1].split(")")[0]
    assert main([*words, "--seed", seed, "--output", str(tmp_path / "b")]) == 0
    assert (tmp_path / "a" / "val.json").read_bytes() == (tmp_path / "b" / "val.json").read_bytes()


def _without_images(path: Path) -> None:
    shutil.rmtree(path.parent / "images")


def _dangling(path: Path) -> None:
    content = json.loads(path.read_text())
    content["annotations"][3]["image_id"] = 999
    path.write_text(json.dumps(content))


def _nameless(path: Path) -> None:
    content = json.loads(path.read_text())
    del content["images"][1]["file_name"]
    path.write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("damage", "words", "message"),
    [
        (_without_images, [], "24 of 24 image files are not there (first: v0_0.png)"),
        (_dangling, [], "an annotation of image 999, which the file does not have"),
        (_nameless, [], "an image without id or file_name"),
        (None, ["--images", "nowhere"], "nowhere: no such folder of images"),
        (None, ["--seed", "x"], "'x' is neither a whole number nor auto"),
        (None, ["--near-duplicates", "few"], "'few' is neither a whole number nor off"),
        (None, ["--check"], "--check writes nothing"),
        (None, ["--split", "a/b"], "'a/b' is no split"),
    ],
)
def test_wrong_use_is_one_message(
    coco: Path, tmp_path: Path, capsys: Capture, damage: Callable[[Path], None] | None, words: list[str], message: str
) -> None:
    if damage is not None:
        damage(coco)
    assert main(["split", str(coco), "--output", str(tmp_path / "sets"), *words]) == 2
    shown = capsys.readouterr()
    assert message in shown.err
    assert shown.out == ""
    assert not (tmp_path / "sets").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["{coco}"], "--output FOLDER is missing"),
        (["{coco}", "{coco}", "--output", "x"], "one SOURCE is split at a time, not 2"),
        (["--check", "{coco}"], "between two or more sets"),
        (["--check", "{coco}", "{coco}", "--near-duplicates", "off"], "nothing to compare"),
        (["{coco}/images", "--output", "x"], "cannot be read"),
    ],
)
def test_wrong_sources_are_one_message(coco: Path, capsys: Capture, words: list[str], message: str) -> None:
    assert main(["split", *(word.format(coco=coco) for word in words)]) == 2
    assert message in capsys.readouterr().err


def test_a_folder_without_labels_is_named(tmp_path: Path, capsys: Capture) -> None:
    assert main(["split", str(tmp_path), "--output", str(tmp_path / "sets")]) == 2
    assert "neither a run nor an export" in capsys.readouterr().err
