"""What all formats share: classes, empty images, ids, sides, names, checksums, what plugs in, and what is refused."""

import hashlib
import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from jobs.export import FORMATS as NAMES
from pipeline.errors import UserError
from pipeline.export import FORMATS, ExportOptions, Written, export_labels, export_run, load_format
from pipeline.export.classes import identity_map, read_class_map
from pipeline.export.empties import EmptyRule
from pipeline.export.names import FileNames
from pipeline.export.objects import ExportImage, LabelRecord
from pipeline.paths import path_to_image_id
from tests.export_labels import ONTOLOGY, Labels, boxed, image, make_labels, masked, pixel, ring

SIDES = {"leer.jpg": "val", "zzz.jpg": "test"}


def side_of(record: ExportImage) -> str | None:
    return SIDES.get(record.path, "train")


@pytest.fixture
def labels(tmp_path: Path) -> Labels:
    return make_labels(tmp_path / "photos")


def read(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / "annotations.json").read_text())
    return content


def test_the_command_offers_every_format() -> None:
    assert tuple(FORMATS) == NAMES
    for name in FORMATS:
        assert (load_format(name).__doc__ or "").startswith(("Writes", "As `CocoWriter`"))


@pytest.mark.parametrize("name", FORMATS)
def test_each_format_counts_splits_and_sums_up(labels: Labels, tmp_path: Path, name: str) -> None:
    out = tmp_path / "out"
    written = export_labels(labels, out, name, assign=side_of)
    assert written.images == 5
    assert written.image_counts == {"train": 3, "val": 1, "test": 1}
    assert written.failed == [("kaputt.jpg", "not a whole image")]
    assert written.annotations == 5 - sum(written.not_expressible.values())
    assert sum(written.class_counts["train"].values()) == written.annotations
    marker = json.loads((out / "export.json").read_text())
    assert marker["sides"]["val"] == {"images": 1, "objects": {}}
    files = {str(path.relative_to(out)): path for path in out.rglob("*") if path.is_file() and not path.is_symlink()}
    del files["export.json"]
    assert marker["sha256"] == {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in files.items()}
    again = export_labels(labels, tmp_path / "again", name, assign=side_of)
    assert again.annotations == written.annotations
    assert json.loads((tmp_path / "again" / "export.json").read_text())["sha256"] == marker["sha256"]


def test_sides_have_their_places(labels: Labels, tmp_path: Path) -> None:
    places = {
        "coco": ["train/annotations.json", "val/annotations.json", "val/images/leer.jpg", "test/images/zzz.jpg"],
        "yolo": ["labels/val/leer.txt", "images/test/zzz.jpg", "labels/train/straße/001 ß.txt"],
        "voc": ["Annotations/leer.xml", "JPEGImages/leer.jpg"],
        "webdataset": ["train-000000.tar", "val-000000.tar", "test-000000.tar"],
        "cvat": ["train/annotations.xml", "val/annotations.xml"],
    }
    for name, files in places.items():
        export_labels(labels, tmp_path / name, name, assign=side_of)
        for file in files:
            assert (tmp_path / name / file).is_file(), (name, file)
    data = (tmp_path / "yolo" / "data.yaml").read_text().splitlines()[:3]
    assert data == ["train: images/train", "val: images/val", "test: images/test"]
    assert (tmp_path / "voc" / "ImageSets" / "Main" / "val.txt").read_text() == "leer\n"


def test_an_image_without_a_side_is_left_out(labels: Labels, tmp_path: Path) -> None:
    written = export_labels(labels, tmp_path / "out", assign=lambda record: None)
    assert (written.images, written.unassigned) == (0, 5)
    assert read(tmp_path / "out")["images"] == []


def test_what_comes_after_an_export_is_part_of_it(labels: Labels, tmp_path: Path) -> None:
    def finish(folder: Path, written: Written) -> None:
        (folder / "NOTES.md").write_text(f"{written.annotations} objects, {written.provenance['human']} by hand")

    export_labels(labels, tmp_path / "out", finish=finish)
    assert (tmp_path / "out" / "NOTES.md").read_text() == "5 objects, 1 by hand"
    marker = json.loads((tmp_path / "out" / "export.json").read_text())
    assert "NOTES.md" in marker["files"]
    assert "NOTES.md" in marker["sha256"]
    export_labels(labels, tmp_path / "out", options=ExportOptions(overwrite=True))
    assert not (tmp_path / "out" / "NOTES.md").exists()


def test_checksums_fit_what_sha256sum_says(labels: Labels, tmp_path: Path) -> None:
    export_labels(labels, tmp_path / "out", "yolo", ExportOptions("copy"))
    sums = json.loads((tmp_path / "out" / "export.json").read_text())["sha256"]
    assert "images/straße/001 ß.jpg" in sums
    lines = "".join(f"{digest}  {path}\n" for path, digest in sums.items())
    command = ["sha256sum", "--check", "--strict", "--quiet"]
    subprocess.run(command, input=lines, text=True, cwd=tmp_path / "out", check=True)


def test_stable_ids_do_not_move_when_images_are_added(labels: Labels, tmp_path: Path) -> None:
    def ids(rows: list[LabelRecord], name: str, kind: str) -> dict[str, list[int]]:
        more = Labels(labels.folder, rows)
        export_labels(more, tmp_path / name, options=ExportOptions("none", ids=kind))
        content = read(tmp_path / name)
        found = {row["id"]: [row["file_name"], row["id"]] for row in content["images"]}
        for row in content["annotations"]:
            found[row["image_id"]].append(row["id"])
        return {path: numbers for path, *numbers in found.values()}

    rows = list(labels.rows)
    grown = [image("aaa.jpg", masked("n0", 1, ring())), *rows, image("zzzz.jpg", boxed("n1", 2, (1, 1, 9, 9)))]
    before, after = ids(rows, "before", "stable"), ids(grown, "after", "stable")
    assert len(after) == len(before) + 2
    assert all(after[path] == numbers for path, numbers in before.items())
    assert max(max(numbers) for numbers in after.values()) < 2**53
    counted = ids(rows, "counted", "count")
    assert counted["leer.jpg"] == [1]
    assert ids(grown, "recounted", "count")["leer.jpg"] == [2]


def test_shards_of_coco_go_on_counting(labels: Labels, tmp_path: Path) -> None:
    export_labels(labels, tmp_path / "out", options=ExportOptions("none", ids="count", shard_size=3))
    parts = [json.loads((tmp_path / "out" / f"annotations-{n:05d}.json").read_text()) for n in range(2)]
    assert [[row["id"] for row in part["images"]] for part in parts] == [[1, 2, 3], [4, 5]]
    assert [[row["id"] for row in part["annotations"]] for part in parts] == [[1, 2, 3], [4, 5]]
    assert sorted(path.name for path in (tmp_path / "out").glob("annotations*")) == [
        "annotations-00000.json",
        "annotations-00001.json",
    ]


def class_file(folder: Path, text: str) -> Path:
    (folder / "map.yaml").write_text(text, encoding="utf-8")
    return folder / "map.yaml"


def test_classes_are_renamed_merged_and_dropped(labels: Labels, tmp_path: Path) -> None:
    file = class_file(tmp_path, "street: straße\nthing:\n  - Round Thing\n")
    written = export_labels(labels, tmp_path / "out", options=ExportOptions("none", classes=file, empty="drop"))
    content = read(tmp_path / "out")
    assert [(row["id"], row["name"]) for row in content["categories"]] == [(1, "street"), (2, "thing")]
    assert [row["category_id"] for row in content["annotations"]] == [1, 2, 2]
    assert written.dropped_classes == {"dot & <dash>": 2}
    assert [row["file_name"] for row in content["images"]] == ["other/001.jpg", "straße/001 ß.jpg"]
    assert written.dropped_empty == 3  # one of them held nothing but a dropped class
    merged = read_class_map(class_file(tmp_path, "all: [Straße, 'dot & <dash>']\nround thing:\n"), ONTOLOGY)
    assert merged.new_ids == {3: 1, 2: 1, 1: 2}
    assert [found.color for found in merged.classes] == [ONTOLOGY.colors[2], ONTOLOGY.colors[0]]
    assert identity_map(ONTOLOGY).new_ids == {1: 1, 2: 2, 3: 3}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [", "no YAML"),
        ("- a", "must hold a line a class"),
        ("", "must hold a line a class"),
        ("a: rund thing", "'rund thing', which the labels do not have; did you mean 'round thing'"),
        ("a: x9", "there are round thing"),
        ("a: round thing\nb: round thing", "'round thing' stands under two new classes"),
        ("a: round thing\nA: straße", "given twice"),
        ("a: []", "made of one or more names"),
    ],
)
def test_a_wrong_class_file_is_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        read_class_map(class_file(tmp_path, text), ONTOLOGY)


def test_a_share_of_empty_images_depends_on_their_ids_alone() -> None:
    ids = [path_to_image_id(f"{number}.jpg") for number in range(2000)]
    tenth, half = (EmptyRule.parse(text) for text in ("10%", "50%"))
    kept = {image_id for image_id in ids if tenth.keeps(image_id)}
    assert 140 < len(kept) < 260
    assert kept <= {image_id for image_id in ids if half.keeps(image_id)}
    assert all(EmptyRule.parse("keep").keeps(image_id) for image_id in ids)
    assert not any(EmptyRule.parse("drop").keeps(image_id) for image_id in ids)
    for text in ("10", "some", "101%", "-1%", "nan%"):
        with pytest.raises(UserError, match="--empty must be"):
            EmptyRule.parse(text)


def test_empty_images_are_kept_by_choice(labels: Labels, tmp_path: Path) -> None:
    for rule, count in (("keep", 5), ("drop", 3)):
        written = export_labels(labels, tmp_path / rule, "yolo", ExportOptions("none", empty=rule))
        assert (written.images, written.dropped_empty) == (count, 5 - count)
        assert len(list((tmp_path / rule / "labels").rglob("*.txt"))) == count


def test_names_meet_only_where_a_label_file_would() -> None:
    names = FileNames()
    paths = ["a.b.jpg", "a.jpg", "a.jpg.png", "a.png", "a/a.jpg", "b", "b.jpg"]
    new = {path: names.unique(path, path_to_image_id(path)) for path in paths}
    renamed = {"a.png": f"a-{path_to_image_id('a.png')}.png", "b.jpg": f"b-{path_to_image_id('b.jpg')}.jpg"}
    assert new == {path: renamed.get(path, path) for path in paths}
    assert names.renamed == list(renamed.items())
    with pytest.raises(ValueError, match="in the order of their paths"):
        names.unique("a.jpg", "0")
    for path in ("../x.jpg", "/x.jpg"):
        with pytest.raises(UserError, match="leads out"):
            FileNames().unique(path, "0")


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("yolo", {"epsilon": 1.0}, "--epsilon has no meaning for the format yolo"),
        ("voc", {"compression": "gzip"}, "--compression has no meaning"),
        ("cvat", {"shard_size": 5}, "--shard-size has no meaning"),
        ("labelme", {"ids": "count"}, "--ids has no meaning"),
        ("hf-datasets", {"images": "none"}, "take --images link or copy"),
    ],
)
def test_options_that_a_format_cannot_use_are_refused(
    labels: Labels, tmp_path: Path, name: str, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        export_labels(labels, tmp_path / "out", name, ExportOptions(**options))
    assert not list((tmp_path / "out").glob("*"))


@pytest.mark.parametrize("options", [{"epsilon": -1.0}, {"shard_size": -1}, {"ids": "x"}, {"compression": "zip"}])
def test_options_out_of_range_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="must be"):
        ExportOptions(**options)


def test_dota_refuses_names_that_become_one(tmp_path: Path) -> None:
    from models.ontology import Ontology

    labels = Labels(tmp_path, [], Ontology.from_names(["a b", "a-b"]))
    with pytest.raises(UserError, match="two class names are the same with '-' for spaces"):
        export_labels(labels, tmp_path / "out", "dota")


def test_a_gone_image_leaves_nothing_behind(labels: Labels, tmp_path: Path) -> None:
    (labels.folder / "zzz.jpg").unlink()
    for name in FORMATS:
        with pytest.raises(UserError, match=r"zzz\.jpg is gone"):
            export_labels(labels, tmp_path / "out", name)
        assert list((tmp_path / "out").iterdir()) == []
        options = {} if name == "hf-datasets" else {"images": "none"}
        if options:
            assert export_labels(labels, tmp_path / name, name, ExportOptions(**options)).images == 5


def test_a_single_pixel_is_an_object_everywhere(tmp_path: Path) -> None:
    labels = make_labels(tmp_path / "photos", [image("p.jpg", masked("p", 1, pixel()))])
    for name in FORMATS:
        assert export_labels(labels, tmp_path / name, name).annotations == 1


def test_an_unknown_source_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="unknown format 'tensor'"):
        export_run(tmp_path, tmp_path / "out", "tensor")
