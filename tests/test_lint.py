"""Lint: each code on a file with just that fault, what is mended, and that a sound file has no findings."""

import json
import math
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from models.masks import encode_mask
from pipeline.errors import UserError
from pipeline.lint import CHECKS, FILE_CODES, LintResult, choose_codes, fix_file, lint_file, read_coco
from pipeline.lint.codes import CODES
from tests.sound_coco import HEIGHT, WIDTH, Content, annotation, rle, sound

ROOT = Path(__file__).parents[1]
Fault = Callable[[Content, Path], None]


def lint(content: Content, folder: Path, codes: frozenset[str] | None = None) -> LintResult:
    path = folder / "labels.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    return lint_file(read_coco(path), choose_codes() if codes is None else codes)


def change(kind: str, row: int, **values: Any) -> Fault:
    """Make a fault: other values in an entry; None takes the key away."""

    def apply(content: Content, _: Path) -> None:
        for key, value in values.items():
            if value is None:
                del content[kind][row][key]
            else:
                content[kind][row][key] = value

    return apply


def add(kind: str, **entry: Any) -> Fault:
    return lambda content, _: content[kind].append(entry)


def repeat(kind: str, row: int, **values: Any) -> Fault:
    """Make a fault: an entry once more, with other values."""
    return lambda content, _: content[kind].append({**content[kind][row], **values})


def _turned(content: Content, folder: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (WIDTH, HEIGHT), (7, 7, 7)).save(folder / "a.png", exif=exif)


def _copied(content: Content, folder: Path) -> None:
    shutil.copy(folder / "a.png", folder / "b.png")


def _cut_off(content: Content, folder: Path) -> None:
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)).save(
        folder / "a.png"
    )
    (folder / "a.png").write_bytes((folder / "a.png").read_bytes()[:3000])


def _crowds_only(content: Content, _: Path) -> None:
    content["annotations"] = [
        {**content["annotations"][2], "category_id": category, "id": category} for category in (1, 2)
    ]


SQUARE = [10, 5, 30, 5, 30, 25, 10, 25]
FAULTS: list[tuple[str, str, Fault, str]] = [
    ("S101", "", change("images", 0, width=None), "image 1: width and height are not whole numbers over 0"),
    ("S101", "unfixed", change("annotations", 3, bbox=[1, 2, 3]), "4: it has a bbox that is not four numbers"),
    ("S101", "", change("annotations", 0, bbox=None), "1: it has no bbox"),
    ("S101", "unfixed", change("annotations", 3, bbox=None), "4: it has no bbox"),
    ("S101", "unfixed", change("annotations", 3, id=None), "annotation[3]: it has no id"),
    ("S101", "unfixed", change("images", 0, file_name=None), "image 1: it has no file_name"),
    ("S101", "unfixed", change("categories", 0, name=None), "category 1: it has no name"),
    ("S101", "unfixed", lambda content, _: content["annotations"].append("cat"), "the entry is a str, not an object"),
    ("S102", "", change("annotations", 3, id=2), "2: annotation 3 of the list has the id of 1: another entry"),
    ("S102", "", repeat("annotations", 2), "3: annotation 4 of the list has the id of 2: all is the same"),
    ("S103", "", repeat("images", 0), "image 1: image 2 of the list has the id of 0: all is the same"),
    ("S103", "unfixed", add("images", id=1, file_name="c.png", width=9, height=9), "another entry"),
    ("S104", "", repeat("categories", 1), "category 2: category 2 of the list has the id of 1: all is the same"),
    ("S104", "unfixed", add("categories", id=2, name="owl"), "another entry"),
    ("S105", "unfixed", change("annotations", 3, image_id=77), "4: image_id 77 is no image of this file"),
    ("S105", "unfixed", change("annotations", 3, image_id="2"), "4: image_id '2' is no image of this file"),
    ("S105", "unfixed", change("annotations", 3, image_id=None), "4: it has no image_id"),
    ("S106", "unfixed", change("annotations", 3, category_id=3), "4: category_id 3 is no category of this file"),
    ("S107", "", change("annotations", 0, bbox=[math.nan, 5, 20, 20]), "1: NaN or infinity in bbox"),
    (
        "S107",
        "",
        change("annotations", 0, bbox=[10, 5, 20, math.inf], area=math.nan),
        "1: NaN or infinity in bbox, area",
    ),
    ("S107", "", change("annotations", 3, area=math.nan), "4: NaN or infinity in area"),
    ("S107", "unfixed", change("annotations", 3, score=math.nan), "4: NaN or infinity in score"),
    ("S107", "unfixed", change("images", 0, gps=[1, math.nan]), "image 1: NaN or infinity in gps"),
    (
        "S107",
        "unfixed",
        change("annotations", 0, segmentation=[[*SQUARE[:-1], math.nan]]),
        "1: NaN or infinity in segmentation",
    ),
    ("B201", "", change("annotations", 3, bbox=[60, 20, 10.5, 10]), "reaches 6.5 px out of the image of 64 × 48"),
    ("B201", "unfixed", change("annotations", 3, bbox=[70, 20, 10.5, 10]), "lies outside of the image of 64 × 48"),
    ("B202", "", change("annotations", 0, bbox=[10, 5, 20, 0]), "1: the box [10, 5, 20, 0] has no area"),
    ("B202", "unfixed", change("annotations", 3, bbox=[20, 20, -3, 5]), "4: the box [20, 20, -3, 5] has no area"),
    ("B203", "", repeat("annotations", 3, id=9), "9: nearly the box of annotation 4, of the same image and class"),
    ("B203", "unfixed", repeat("annotations", 3, id=9, bbox=[20, 20.2, 10.5, 10]), "class: IoU 0.961"),
    ("B204", "unfixed", change("annotations", 3, bbox=[0, 0.2, 64, 47.8], area=3059), "is the whole image of 64 × 48"),
    (
        "B204",
        "unfixed",
        change("annotations", 3, bbox=[0, 0, 64, 48], area=3072, segmentation=rle(0, 0, 64, 48)),
        "4: the box [0, 0, 64, 48] is the whole image",
    ),
    ("M301", "", change("annotations", 0, area=500), "1: area is 500, its mask's is 400"),
    ("M301", "", change("annotations", 1, area=80), "2: area is 80, its mask's is 96"),
    ("M301", "", change("annotations", 0, area=None), "1: it has no area; its mask's is 400"),
    ("M301", "", change("annotations", 3, area=200), "4: area is 200, its box's is 105"),
    ("M301", "", change("annotations", 3, area=None), "4: it has no area; its box's is 105"),
    (
        "M302",
        "",
        change("annotations", 0, bbox=[10, 5, 20, 25]),
        "bbox is [10, 5, 20, 25], its mask's is [10, 5, 20, 20]",
    ),
    ("M302", "", change("annotations", 1, bbox=[4, 8, 12, 8]), "bbox is [4, 8, 12, 8], its mask's is [4, 6, 12, 8]"),
    ("M302", "unfixed", change("annotations", 0, bbox=[30, 25, 20, 20]), "bbox is [30, 25, 20, 20]"),
    ("M303", "unfixed", change("annotations", 0, segmentation=[SQUARE[:-1]]), "polygon 0 has 7 numbers"),
    (
        "M303",
        "unfixed",
        change("annotations", 0, segmentation=[SQUARE, ["1"] * 6]),
        "polygon 1 is not a list of numbers",
    ),
    ("M303", "unfixed", change("annotations", 0, segmentation=SQUARE), "polygon 0 is not a list of numbers"),
    ("M303", "unfixed", change("annotations", 0, segmentation="10,5"), "1: the segmentation is a str"),
    ("M304", "", change("annotations", 0, segmentation=[SQUARE, [12, 8, 15, 9]]), "polygon 1 encloses nothing"),
    ("M304", "", change("annotations", 0, segmentation=[SQUARE, []]), "polygon 1 encloses nothing: it has no point"),
    (
        "M304",
        "unfixed",
        change("annotations", 0, segmentation=[[10, 5, 20, 15, 30, 25]]),
        "it has 3 points on one line",
    ),
    (
        "M305",
        "unfixed",
        change("annotations", 1, segmentation=rle(4, 6, 12, 8, (WIDTH, HEIGHT))),
        "2: the RLE is 48 × 64, the image 64 × 48, its height and width exchanged",
    ),
    (
        "M306",
        "unfixed",
        change("annotations", 1, segmentation={"size": [HEIGHT, WIDTH], "counts": [5, 5]}),
        "2: the RLE is broken: its runs have 10 pixels in place of 48 × 64",
    ),
    ("M306", "unfixed", change("annotations", 1, segmentation={"counts": "00"}), "its size is None"),
    (
        "M306",
        "unfixed",
        change("annotations", 1, segmentation={"size": [HEIGHT, WIDTH], "counts": "ü"}),
        "characters that packed runs have not",
    ),
    ("M307", "unfixed", change("annotations", 0, segmentation=[]), "1: the segmentation is empty"),
    ("M307", "unfixed", change("annotations", 1, segmentation=rle(0, 0, 0, 0)), "2: the mask has no pixel"),
    ("M308", "", change("annotations", 0, iscrowd=None), "1: it has no iscrowd"),
    ("M308", "", change("annotations", 3, iscrowd=True), "4: iscrowd is True, neither 0 nor 1"),
    ("M308", "unfixed", change("annotations", 1, iscrowd=None), "2: it has no iscrowd"),
    ("M308", "unfixed", change("annotations", 3, iscrowd=2), "4: iscrowd is 2, neither 0 nor 1"),
    ("M308", "unfixed", change("annotations", 0, iscrowd=1), "1: iscrowd is 1 and the mask polygons"),
    ("M308", "unfixed", _crowds_only, "iscrowd is 1 on all 2 annotations"),
    ("C401", "unfixed", add("categories", id=3, name="owl"), "category 3: no annotation is of 'owl'"),
    (
        "C402",
        "unfixed",
        change("categories", 1, name=" Cat"),
        "category 2: ' Cat' is the name of category 1 ('cat'), too",
    ),
    ("I501", "unfixed", change("images", 0, file_name="gone.png"), "image 1: there is no file 'gone.png'"),
    ("I501", "unfixed", change("images", 0, file_name="a\0.png"), "image 1: there is no file"),
    ("I502", "unfixed", _cut_off, "image 1: 'a.png' cannot be read"),
    (
        "I503",
        "unfixed",
        _turned,
        "'a.png' is said to be 64 × 48 and is 48 × 64 upright; the labels are of the pixels as",
    ),
    ("I504", "unfixed", _copied, "image 2: 'b.png' has the content of 'a.png' (image 1)"),
]
"""Code, whether it can be mended, a fault, and what is said of it."""


def _only_of(code: str, text: str) -> frozenset[str]:
    """Return all codes, less the one that the same fault cannot help having."""
    cannot_help = {
        # A second image of an id is there, but has no file.
        ("S103", "another entry"): {"I501"},
        # An image twice is a file twice.
        ("S103", "image 1: image 2 of the list has the id of 0: all is the same"): {"I504"},
        # The second category of an id is never reached by an annotation.
        ("S104", "another entry"): {"C401"},
        ("S104", "category 2: category 2 of the list has the id of 1: all is the same"): {"C401", "C402"},
    }
    return choose_codes(ignore=sorted(cannot_help.get((code, text), ())))


def test_a_sound_file_has_no_findings(tmp_path: Path) -> None:
    result = lint(sound(tmp_path), tmp_path)
    assert result.files is not None
    assert result.findings == []
    assert fix_file(result, choose_codes()) == (result, [])


@pytest.mark.parametrize(("code", "way", "fault", "text"), FAULTS, ids=[f"{code}-{t}" for code, _, _, t in FAULTS])
def test_a_file_with_one_fault(tmp_path: Path, code: str, way: str, fault: Fault, text: str) -> None:
    content = sound(tmp_path)
    fault(content, tmp_path)
    codes = _only_of(code, text)
    result = lint(content, tmp_path, codes)
    assert [finding.code for finding in result.findings] == [code]
    (finding,) = result.findings
    assert text in f"{finding.place}: {finding.text}"
    before = json.dumps(result.coco.content)
    fixed, changes = fix_file(result, codes)
    assert json.dumps(result.coco.content) == before, "the file that was looked at has changed"
    if way == "unfixed":
        assert (fixed.findings, changes) == (result.findings, [])
    else:
        assert fixed.findings == []
        assert {entry.finding.code for entry in changes} == {code}
        assert lint(fixed.coco.content, tmp_path, codes).findings == []


def test_every_code_has_such_a_file_and_a_check() -> None:
    assert {code for code, *_ in FAULTS} == set(CODES)
    assert {code for codes, _ in CHECKS for code in codes} | FILE_CODES == set(CODES)


def test_the_page_describes_every_code_and_no_other() -> None:
    page = (ROOT / "docs" / "lint.md").read_text(encoding="utf-8")
    described = dict(re.findall(r"^\| `([A-Z]\d{3})` \| ([^|]+?) \|", page, re.MULTILINE))
    assert described == {code.name: code.title for code in CODES.values()}
    mended = {code for code, way, *_ in FAULTS if way != "unfixed"}
    never = set(re.findall(r"^\| `([A-Z]\d{3})` \|.*\| never \|$", page, re.MULTILINE))
    assert never == set(CODES) - mended


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("segmentation", [[10.0, 5.0, 30.0, 5.0, 30.0, 25.0, 10.0, 25.0, 10.0, 5.0]]),
        ("segmentation", [[10, 5, 20, 5, 20, 25, 10, 25], [20, 5, 30, 5, 30, 25, 20, 25]]),
        ("bbox", [10, 5, 19, 19]),
        ("area", 405.2),
        ("score", 0.5),
    ],
)
def test_what_is_no_fault(tmp_path: Path, key: str, value: Any) -> None:
    content = sound(tmp_path)
    content["annotations"][0][key] = value
    assert lint(content, tmp_path).findings == []


def test_polygons_that_overlap_or_reach_out_may_count_pixels(tmp_path: Path) -> None:
    content = sound(tmp_path)
    content["annotations"][0]["segmentation"] = [SQUARE, [10, 5, 30, 5, 30, 15, 10, 15]]
    content["annotations"][3] = annotation(
        4, 2, 2, [50, 20, 14, 10], 140, segmentation=[[50, 20, 70, 20, 70, 30, 50, 30]]
    )
    assert lint(content, tmp_path).findings == []


def test_a_drawn_polygon_may_be_the_whole_image_and_an_rle_with_corners_out(tmp_path: Path) -> None:
    content = sound(tmp_path)
    corners = [0, 0, 64, 0, 64, 48, 0, 48]
    content["annotations"][3] = annotation(4, 2, 2, [0, 0, 64, 48], 3072, segmentation=[corners])
    mask = np.ones((HEIGHT, WIDTH), bool)
    mask[:10, :10] = False
    content["annotations"].append(annotation(5, 1, 2, [0, 0, 64, 48], 2972, segmentation=encode_mask(mask).to_coco()))
    assert lint(content, tmp_path).findings == []


def test_boxes_of_different_masks_classes_or_crowds_are_no_twins(tmp_path: Path) -> None:
    content = sound(tmp_path)
    upper, lower = [20, 20, 30, 20, 20, 30], [30, 20, 30, 30, 20, 30]
    content["annotations"][3] = annotation(4, 2, 2, [20, 20, 10, 10], 50, segmentation=[upper])
    content["annotations"] += [
        annotation(5, 2, 2, [20, 20, 10, 10], 50, segmentation=[lower]),
        annotation(6, 2, 1, [20, 20, 10, 10], 50, segmentation=[upper]),
        annotation(7, 2, 2, [20, 20, 10, 10], 100, iscrowd=1),
    ]
    assert lint(content, tmp_path).findings == []


def test_twins_are_found_as_comparing_all_pairs_would(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    content = sound(tmp_path)
    content["annotations"] = []
    for number in range(200):
        image, category = int(rng.integers(1, 3)), int(rng.integers(1, 3))
        box = [*rng.uniform(0, 20, 2), *rng.uniform(8, 20, 2)]
        for copy in range(int(rng.integers(1, 3))):
            shifted = [float(side + copy * rng.uniform(-0.3, 0.3)) for side in box]
            content["annotations"].append(
                annotation(2 * number + copy, image, category, shifted, shifted[2] * shifted[3])
            )

    def iou(first: Content, second: Content) -> float:
        (ax, ay, aw, ah), (bx, by, bw, bh) = first["bbox"], second["bbox"]
        inside = max(min(ax + aw, bx + bw) - max(ax, bx), 0) * max(min(ay + ah, by + bh) - max(ay, by), 0)
        return float(inside / (aw * ah + bw * bh - inside))

    expected = {
        later["id"]
        for row, later in enumerate(content["annotations"])
        for earlier in content["annotations"][:row]
        if all(later[key] == earlier[key] for key in ("image_id", "category_id")) and iou(later, earlier) >= 0.95
    }
    found = lint(content, tmp_path, choose_codes(["B203"])).findings
    assert 10 < len(expected) < 100
    assert [finding.id for finding in found] == sorted(expected)


def test_equal_boxes_are_named_once_each(tmp_path: Path) -> None:
    content = sound(tmp_path)
    content["annotations"] += [{**content["annotations"][3], "id": number} for number in range(10, 40)]
    result = lint(content, tmp_path)
    assert [(finding.code, finding.id) for finding in result.findings] == [("B203", number) for number in range(10, 40)]
    fixed, changes = fix_file(result, choose_codes())
    assert len(changes) == 30
    assert fixed.coco.content == sound(tmp_path)


def test_a_file_of_boxes_with_empty_segmentations_has_one_finding(tmp_path: Path) -> None:
    content = sound(tmp_path)
    content["annotations"] = [annotation(1, 1, 1, [1, 1, 5, 5], 25), annotation(2, 2, 2, [1, 1, 5, 5], 25)]
    assert lint(content, tmp_path).findings == []
    for entry in content["annotations"]:
        entry["segmentation"] = []
    (finding,) = lint(content, tmp_path).findings
    assert (finding.kind, finding.code, finding.place) == ("file", "M307", "")


def test_a_box_is_not_cut_off_where_no_file_confirms_the_size(tmp_path: Path) -> None:
    content = sound(tmp_path)
    content["annotations"][3]["bbox"] = [60, 20, 10.5, 10]
    for name in ("a.png", "b.png"):
        (tmp_path / name).unlink()
    result = lint(content, tmp_path)
    assert result.files is None
    assert [finding.code for finding in result.findings] == ["B201"]
    assert fix_file(result, choose_codes())[1] == []


def test_many_faults_are_mended_together(tmp_path: Path) -> None:
    content = sound(tmp_path)
    content["annotations"][0] |= {"bbox": [math.nan] * 4, "area": 1, "segmentation": [SQUARE, [1, 1]]}
    content["annotations"][1]["id"] = 1
    content["annotations"][3] |= {"bbox": [60, 20, 10.5, 10], "iscrowd": False}
    content["annotations"].append({**content["annotations"][3], "id": 8})
    fixed, changes = fix_file(lint(content, tmp_path), choose_codes())
    assert fixed.findings == []
    assert {entry.finding.code for entry in changes} == {"S102", "S107", "B201", "B203", "M301", "M304", "M308"}
    assert [entry["id"] for entry in fixed.coco.content["annotations"]] == [1, 9, 3, 4]
    assert fixed.coco.content["annotations"][0]["bbox"] == [10, 5, 20, 20]
    assert fixed.coco.content["annotations"][3] | {"area": 0} == annotation(4, 2, 2, [60, 20, 4, 10], 0)


@pytest.mark.parametrize("number", ["1e999", "-1e999"])
def test_numbers_that_read_as_infinity_are_found(tmp_path: Path, number: str) -> None:
    content = sound(tmp_path)
    text = json.dumps(content).replace("[20, 20, 10.5, 10]", f"[20, 20, {number}, 10]")
    (tmp_path / "labels.json").write_text(text)
    found = lint_file(read_coco(tmp_path / "labels.json"), choose_codes()).findings
    assert [(finding.code, finding.id) for finding in found] == [("S107", 4)]


@pytest.mark.parametrize("kind", ["images", "annotations", "categories"])
def test_empty_lists_and_lists_of_anything(tmp_path: Path, kind: str) -> None:
    assert lint({"images": [], "annotations": [], "categories": []}, tmp_path).findings == []
    content = sound(tmp_path)
    content[kind] = [None, 3, "x", [], {}, {"id": []}, {"id": True}]
    found = lint(content, tmp_path).findings
    singular = {"images": "image", "annotations": "annotation", "categories": "category"}[kind]
    rows = {finding.row for finding in found if finding.kind == singular and finding.code == "S101"}
    assert rows == set(range(7))
    changes = fix_file(lint(content, tmp_path), choose_codes())[1]
    assert {entry.finding.code for entry in changes} <= {"M308"}


def test_codes_are_chosen_by_their_beginnings() -> None:
    assert choose_codes() == set(CODES)
    assert choose_codes(["b", "M301"]) == {"B201", "B202", "B203", "B204", "M301"}
    assert choose_codes(["M30"], ["M301", "M302"]) == {f"M30{digit}" for digit in range(3, 9)}
    for wrong in ("X", "", "M999"):
        with pytest.raises(UserError, match="no code begins with"):
            choose_codes([wrong])


def test_image_files_are_not_read_for_other_codes(tmp_path: Path) -> None:
    assert lint(sound(tmp_path), tmp_path, choose_codes(ignore=["I"])).files is None


def test_the_folder_with_most_images_is_taken(tmp_path: Path) -> None:
    content = sound(tmp_path)
    (tmp_path / "images").mkdir()
    for name in ("a.png", "b.png"):
        (tmp_path / name).rename(tmp_path / "images" / name)
    shutil.copy(tmp_path / "images" / "b.png", tmp_path / "a.png")
    assert lint(content, tmp_path).findings == []
