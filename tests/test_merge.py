"""Merging runs of parts of the images."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from jobs.cli import main
from pipeline.errors import UserError
from pipeline.export.objects import ExportImage
from pipeline.reviewed.base import read_base
from pipeline.reviewed.changes import Change, Kind, take_labels
from pipeline.reviewed.labels import reviewed_records
from pipeline.reviewed.layer import ReviewedLayer
from pipeline.store.lock import LOCK_NAME
from pipeline.store.merge import merge_runs
from pipeline.store.run import SHARDS_FOLDER, Run
from pipeline.store.verify import verify_run
from pipeline.store.writer import RunWriter
from tests.store_runs import CONFIG, PARTS, label, open_writer, rows, save_images
from tests.stub_models import ONTOLOGY, save_image


@pytest.fixture
def parts(tmp_path: Path) -> list[Path]:
    """Make the runs of three parts of the same images."""
    images = save_images(tmp_path / "images", 14, bad=[3])
    return [
        label(images, tmp_path / f"part{part}", config=CONFIG.merged({"shard": f"{part}/3"})).folder
        for part in (1, 2, 3)
    ]


def test_parts_become_the_whole(parts: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole = label(tmp_path / "images", tmp_path / "whole")
    assert main(["merge", *map(str, parts), "--output", str(tmp_path / "merged")]) == 0
    assert "14 images brought in, 14 in all, 1 failed" in capsys.readouterr().out
    merged = Run.open(tmp_path / "merged")
    assert rows(merged) == rows(whole)
    assert merged.counts() == whole.counts()
    assert (tmp_path / "merged/failed.csv").exists()
    found = verify_run(merged.folder)
    assert found.problems == found.notes == []
    again = merge_runs(parts, tmp_path / "merged")
    assert (again.added, again.twice, again.outcome.counts.total) == (0, 0, 14)
    assert rows(label(tmp_path / "images", merged.folder)) == rows(whole)


def test_a_merge_that_was_cut_off_goes_on(parts: list[Path], tmp_path: Path) -> None:
    merge_runs(parts[:1], tmp_path / "merged")
    merge_runs(parts, tmp_path / "merged")
    assert rows(Run.open(tmp_path / "merged")) == rows(label(tmp_path / "images", tmp_path / "whole"))


def test_images_in_two_runs_come_once_and_labelled_ones_win(parts: list[Path], tmp_path: Path) -> None:
    save_image(tmp_path / "images/003.png")
    whole = label(tmp_path / "images", tmp_path / "whole", size=5)
    merged = merge_runs([parts[0], whole.folder, *parts[1:]], tmp_path / "merged")
    assert merged.twice == 14
    assert merged.outcome.counts.failed == 0
    assert rows(Run.open(tmp_path / "merged")) == rows(whole)
    assert verify_run(tmp_path / "merged").problems == []


def test_runs_that_contradict_each_other(parts: list[Path], tmp_path: Path) -> None:
    shutil.copytree(tmp_path / "images", tmp_path / "other")
    save_image(tmp_path / "other/000.png", hw=(30, 30))
    other = label(tmp_path / "other", tmp_path / "else", size=3)
    with pytest.raises(UserError, match=r"labels '000.png' in another way"):
        merge_runs([*parts, other.folder], tmp_path / "merged")


def correct(run: Path, path: str, class_name: str) -> None:
    """Correct the class of an image's first object, or add it again, as a sync would write it."""
    opened = Run.open(run)
    (image_id,) = [record.image_id for record in opened.records() if record.path == path]
    base = read_base(opened, [image_id])[image_id]
    layer = ReviewedLayer(run)
    taken = [] if image_id in layer.images else take_labels(base.image, base.objects, base.digest)
    objects = layer.images[image_id].objects if image_id in layer.images else base.objects
    assert objects
    after = replace(objects[0], class_name=class_name)
    layer.add([*taken, Change(base.image, Kind.RELABELLED, after.object_id, objects[0], after)])


def corrected(run: Path) -> dict[str, str]:
    """Return the class of the first object of each corrected image."""
    states = ReviewedLayer(run).images.values()
    return {state.image.path: state.objects[0].class_name for state in states if state.objects}


def test_what_people_corrected_comes_along_or_the_merge_is_refused(
    parts: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with_objects = {
        part: [record.path for record in Run.open(part).annotated() if len(record.instances)] for part in parts
    }
    (first, *_), (second, *_) = with_objects[parts[0]], with_objects[parts[1]]
    merged = tmp_path / "merged"
    copy = Path(shutil.copytree(parts[0], tmp_path / "copy"))
    correct(parts[0], first, "beetle")
    correct(parts[1], second, "moth")
    for count in (2, 0):
        assert merge_runs([*parts, copy], merged).corrected == count
        assert corrected(merged) == {first: "beetle", second: "moth"}
    exported = [record for record in reviewed_records(merged) if isinstance(record, ExportImage)]
    assert {record.path: record.objects[0].class_name for record in exported} == corrected(merged)

    correct(parts[0], first, "ant")
    correct(merged, second, "wasp")
    assert main(["merge", *map(str, parts), "--output", str(merged)]) == 0
    assert "corrections by people came along for 1 images" in capsys.readouterr().out
    assert corrected(merged) == {first: "ant", second: "wasp"}

    correct(copy, first, "fly")
    layers = [list((run / "reviewed").iterdir()) for run in (merged, copy, *parts[:2])]
    assert main(["merge", *map(str, parts), str(copy), "--output", str(merged)]) == 2
    said = capsys.readouterr().err
    assert f"{first}: {parts[0]} and {copy}" in said
    assert [list((run / "reviewed").iterdir()) for run in (merged, copy, *parts[:2])] == layers


def test_what_cannot_be_merged(parts: list[Path], tmp_path: Path) -> None:
    with RunWriter(tmp_path / "odd", PARTS | {"size": 99}, ONTOLOGY, tmp_path / "images", CONFIG):
        pass
    with pytest.raises(UserError, match="size: default → 99"):
        merge_runs([parts[0], tmp_path / "odd"], tmp_path / "merged")
    with pytest.raises(UserError, match="into itself"):
        merge_runs(parts, parts[0])
    with (
        open_writer(tmp_path / "images", parts[1]),
        pytest.raises(UserError, match="still being written"),
    ):
        merge_runs(parts, tmp_path / "merged")
    (parts[1] / LOCK_NAME).write_text('{"host": "elsewhere", "pid": 1}')
    with pytest.raises(UserError, match="process 1 on elsewhere"):
        merge_runs(parts, tmp_path / "merged")
    (parts[1] / LOCK_NAME).write_text("")
    shard = next((parts[2] / SHARDS_FOLDER).iterdir())
    shard.write_bytes(shard.read_bytes() + b"x")
    with pytest.raises(UserError, match="is damaged; `groundlabel verify`"):
        merge_runs(parts, tmp_path / "merged")
    shard.unlink()
    with pytest.raises(UserError, match="cannot be read"):
        merge_runs(parts, tmp_path / "merged")
