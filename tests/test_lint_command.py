"""`groundlabel lint`: what it prints in each format, its exit status, and the file that --fix writes."""

import gzip
import json
import os
from pathlib import Path
from typing import Any

import pytest
from pycocotools.coco import COCO

from jobs.cli import main
from tests.sound_coco import sound

Capture = pytest.CaptureFixture[str]


def write(folder: Path, content: Any, name: str = "labels.json") -> str:
    path = folder / name
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return str(path)


@pytest.fixture
def faulty(tmp_path: Path) -> str:
    """A file with a fault of an annotation, an image and a category, and one that can be mended."""
    content = sound(tmp_path)
    content["annotations"][3]["image_id"] = 7
    content["annotations"][0]["area"] = 5
    content["images"][1]["file_name"] = "gone, 100%\n.png"
    content["categories"].append({"id": 3, "name": "Käfer"})
    return write(tmp_path, content)


def test_a_line_a_finding(faulty: str, capsys: Capture) -> None:
    assert main(["lint", faulty]) == 1
    shown = capsys.readouterr()
    assert shown.out.splitlines() == [
        f"{faulty}:category 3: C401 no annotation is of 'Käfer'",
        f"{faulty}:image 2: I501 there is no file 'gone, 100%\\n.png'",
        f"{faulty}:1: M301 area is 5, its mask's is 400",
        f"{faulty}:4: S105 image_id 7 is no image of this file",
    ]
    assert shown.err == f"{faulty}: 4 findings (C401 1, I501 1, M301 1, S105 1)\n"


def test_a_finding_on_the_file_and_on_what_has_no_id(tmp_path: Path, capsys: Capture) -> None:
    content = sound(tmp_path)
    content["annotations"] = [{**content["annotations"][0], "segmentation": []} for _ in range(2)]
    del content["annotations"][1]["id"]
    path = write(tmp_path, content)
    assert main(["lint", path, "--select", "M307,S101"]) == 1
    assert capsys.readouterr().out.splitlines() == [
        f"{path}: M307 all 2 segmentations are empty: a file of boxes leaves the key out",
        f"{path}:annotation[1]: S101 it has no id that is a number or a text",
    ]


def test_json(faulty: str, capsys: Capture) -> None:
    assert main(["lint", faulty, "--format", "json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert found[2] == {
        "file": faulty,
        "kind": "annotation",
        "id": 1,
        "row": 0,
        "code": "M301",
        "text": "area is 5, its mask's is 400",
    }
    assert [entry["code"] for entry in found] == ["C401", "I501", "M301", "S105"]


def test_json_of_nothing(tmp_path: Path, capsys: Capture) -> None:
    assert main(["lint", write(tmp_path, sound(tmp_path)), "--format", "json"]) == 0
    assert json.loads(capsys.readouterr().out) == []


def test_github(tmp_path: Path, capsys: Capture) -> None:
    content = sound(tmp_path)
    content["categories"].append({"id": 3, "name": "50%\nowl"})
    content["annotations"][0]["area"] = 5
    path = write(tmp_path, content, "a,b:c.json")
    assert main(["lint", path, "--format", "github"]) == 1
    name = path.replace(",", "%2C").replace(":", "%3A")
    assert capsys.readouterr().out.splitlines() == [
        f"::warning file={name},title=C401 unused category::category 3: no annotation is of '50%25\\nowl'",
        f"::error file={name},title=M301 area is not the mask's::1: area is 5, its mask's is 400",
    ]


def test_codes_are_selected_and_ignored(faulty: str, capsys: Capture) -> None:
    assert main(["lint", faulty, "--select", "S,C", "--ignore", "C401"]) == 1
    assert capsys.readouterr().out == f"{faulty}:4: S105 image_id 7 is no image of this file\n"
    assert main(["lint", faulty, "--ignore", "S105,m,C,I"]) == 0
    assert capsys.readouterr().out == ""


def test_fix_says_what_it_changed_and_what_is_left(faulty: str, tmp_path: Path, capsys: Capture) -> None:
    before = Path(faulty).read_bytes()
    fixed = tmp_path / "fixed.json"
    assert main(["lint", faulty, "--fix", str(fixed)]) == 1
    shown = capsys.readouterr()
    assert [line.split(": ")[1].split()[0] for line in shown.out.splitlines()] == ["C401", "I501", "S105"]
    assert shown.err.splitlines() == [
        f"{faulty}:1: M301 fixed: area is the mask's, 400",
        f"{fixed}: written with 1 changes",
        f"{faulty}: 3 findings left (C401 1, I501 1, S105 1)",
    ]
    assert Path(faulty).read_bytes() == before
    expected = json.loads(before)
    expected["annotations"][0]["area"] = 400
    assert json.loads(fixed.read_text()) == expected
    assert main(["lint", str(fixed), "--select", "M"]) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "b.png", "fixed.json", "labels.json"]
    mask = os.umask(0)
    os.umask(mask)
    assert fixed.stat().st_mode & 0o777 == 0o666 & ~mask


def test_a_fixed_file_that_is_whole_ends_with_status_0(tmp_path: Path) -> None:
    content = sound(tmp_path)
    content["annotations"][0] |= {"bbox": [float("nan")] * 4, "area": float("nan")}
    fixed = tmp_path / "fixed.json"
    assert main(["lint", write(tmp_path, content), "--fix", str(fixed)]) == 0
    assert main(["lint", str(fixed)]) == 0
    assert len(COCO(fixed).anns) == 4


@pytest.mark.parametrize("name", ["labels.json", "fixed.json"])
def test_fix_never_writes_over_a_file(tmp_path: Path, capsys: Capture, name: str) -> None:
    path = write(tmp_path, sound(tmp_path))
    (tmp_path / "fixed.json").write_text("mine")
    before = (tmp_path / name).read_bytes()
    assert main(["lint", path, "--fix", str(tmp_path / name)]) == 2
    assert "is there already; --fix writes a new file" in capsys.readouterr().err
    assert (tmp_path / name).read_bytes() == before


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not JSON"),
        ("{", "not JSON"),
        ("[]", "not COCO: it must be an object with the lists images, annotations, categories, and has a list"),
        (
            '{"shapes": [], "version": 5}',
            "not COCO: it must be an object with the lists images, annotations, categories",
        ),
        ('{"images": [], "annotations": {}, "categories": []}', "not COCO"),
        ("[" * 100_000, "not JSON"),
    ],
)
def test_what_is_no_coco_is_one_error(tmp_path: Path, capsys: Capture, text: str, message: str) -> None:
    path = write(tmp_path, text)
    assert main(["lint", path]) == 2
    shown = capsys.readouterr()
    assert f"{path}: {message}" in shown.err
    assert "Traceback" not in shown.err
    assert shown.out == ""


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["gone.json"], "gone.json: no such file or folder"),
        (["{file}", "--images", "nowhere"], "nowhere: no such folder of images"),
        (["{file}", "--select", "Z"], "no code begins with 'Z'"),
        (["{file}", "--fix", "nowhere/fixed.json"], "nowhere: no such folder to write fixed.json into"),
    ],
)
def test_wrong_use_is_one_message(tmp_path: Path, capsys: Capture, words: list[str], message: str) -> None:
    path = write(tmp_path, sound(tmp_path))
    assert main(["lint", *(word.format(file=path) for word in words)]) == 2
    assert message in capsys.readouterr().err


def test_bytes_that_are_no_text_are_one_error(tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "labels.json").write_bytes(b"\x80\x81")
    assert main(["lint", str(tmp_path / "labels.json")]) == 2
    assert "labels.json: not JSON" in capsys.readouterr().err


def test_images_that_are_not_beside_the_file(tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "photos").mkdir()
    path = write(tmp_path, sound(tmp_path / "photos"))
    assert main(["lint", path]) == 0
    assert "were not looked at; --images says where" in capsys.readouterr().err
    (tmp_path / "photos" / "a.png").unlink()
    assert main(["lint", path, "--images", str(tmp_path / "photos")]) == 1
    assert "image 1: I501" in capsys.readouterr().out


def test_compressed_files_are_read_and_written(tmp_path: Path) -> None:
    content = sound(tmp_path)
    content["annotations"][0]["area"] = 5
    (tmp_path / "labels.json.gz").write_bytes(gzip.compress(json.dumps(content).encode()))
    fixed = tmp_path / "fixed.json.gz"
    assert main(["lint", str(tmp_path / "labels.json.gz"), "--fix", str(fixed)]) == 0
    assert json.loads(gzip.decompress(fixed.read_bytes())) == sound(tmp_path)


def test_a_compressed_file_that_is_cut_off_is_one_error(tmp_path: Path, capsys: Capture) -> None:
    whole = gzip.compress(json.dumps(sound(tmp_path)).encode())
    for number, damaged in enumerate((whole[:-20], b"no gzip", whole[:20] + b"xx" + whole[22:])):
        (tmp_path / f"{number}.json.gz").write_bytes(damaged)
        assert main(["lint", str(tmp_path / f"{number}.json.gz")]) == 2
        assert f"{number}.json.gz: not JSON" in capsys.readouterr().err
