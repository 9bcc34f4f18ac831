"""Listing in the background: new, changed, unchanged and vanished images, parts, and the index of ids."""

import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.config import AnnotateConfig
from pipeline.errors import UserError
from pipeline.file_state import ABSENT_STAMP, read_stamp, read_stamps, read_state
from pipeline.listing import Listing, Spool
from pipeline.paths import path_to_image_id
from pipeline.sources import ImageRef, ImageSource, open_images
from pipeline.store.index import IdIndex, IdSet, ids_to_numbers, number_to_id, paths_to_numbers
from pipeline.store.run import Run
from tests.store_runs import CONFIG, label, open_writer, rows, save_images
from tests.stub_models import save_image


def counts(images: Path, run: Path, config: AnnotateConfig = CONFIG) -> tuple[int, int, int, int]:
    """Label, and return how many images were new, changed, unchanged and vanished."""
    seen = []
    label(images, run, config=config, look=lambda x: seen.append((x.new, x.changed, x.unchanged, x.vanished)))
    return seen[0]


def test_new_changed_unchanged_and_vanished(tmp_path: Path) -> None:
    images, run = save_images(tmp_path / "images", 6, bad=[5]), tmp_path / "run"
    assert counts(images, run) == (6, 0, 0, 0)
    assert counts(images, run) == (0, 0, 6, 0)
    save_image(images / "new.png")
    save_image(images / "001.png", green=True)
    (images / "002.png").unlink()
    assert counts(images, run) == (1, 1, 4, 1)
    assert Run.open(run).counts().per_class == {"red thing": 6, "green thing": 3}
    assert counts(images, run) == (0, 0, 6, 1)
    save_image(images / "005.png")  # it had failed: the same rule mends it
    assert counts(images, run) == (0, 1, 5, 1)
    assert Run.open(run).counts().failed == 0
    fresh = label(images, tmp_path / "fresh")
    assert set(rows(fresh)) < set(rows(Run.open(run)))


def test_a_changed_image_has_one_row(tmp_path: Path) -> None:
    images, run = save_images(tmp_path / "images", 5), tmp_path / "run"
    label(images, run)
    for name in ("000.png", "001.png", "002.png", "003.png"):
        save_image(images / name, hw=(20, 20))
    assert counts(images, run) == (0, 4, 1, 0)
    assert rows(Run.open(run)) == rows(label(images, tmp_path / "fresh"))


def test_copied_images_are_not_computed_again(tmp_path: Path) -> None:
    images, run = save_images(tmp_path / "images", 3), tmp_path / "run"
    before = rows(label(images, run))
    copied = tmp_path / "copied"
    shutil.copytree(images, copied, copy_function=shutil.copyfile)  # without the times
    assert read_stamp(copied / "000.png") != read_stamp(images / "000.png")
    assert counts(copied, run) == (0, 0, 3, 0)
    assert {entry.stamps[:16] for entry in Run.open(run).entries} == {f"{read_stamp(copied / '000.png'):016x}"}
    assert rows(Run.open(run)) == before


def test_content_is_compared_when_asked_for(tmp_path: Path) -> None:
    images, run = save_images(tmp_path / "images", 2), tmp_path / "run"
    save_image(images / "000.png", hw=(12, 16))
    label(images, run)
    status = (images / "000.png").stat()
    content = bytearray((images / "000.png").read_bytes())
    content[-1] ^= 1  # of the CRC behind the last chunk
    (images / "000.png").write_bytes(content)
    os.utime(images / "000.png", ns=(status.st_atime_ns, status.st_mtime_ns))
    assert counts(images, run) == (0, 0, 2, 0)
    assert counts(images, run, CONFIG.merged({"verify_content": True})) == (0, 1, 1, 0)


def test_parts_are_disjoint_and_complete(tmp_path: Path) -> None:
    images = save_images(tmp_path / "images", 20)
    whole = rows(label(images, tmp_path / "whole"))
    parts = [rows(label(images, tmp_path / f"part{i}", config=CONFIG.merged({"shard": f"{i}/3"}))) for i in (1, 2, 3)]
    assert all(parts)
    assert sorted(row for part in parts for row in part) == sorted(whole)


@pytest.mark.parametrize("text", ["0/3", "4/3", "3", "a/b", "1/0"])
def test_parts_that_are_none(text: str) -> None:
    with pytest.raises(UserError, match="--shard"):
        AnnotateConfig(shard=text)


def test_limit_and_double_entries(tmp_path: Path) -> None:
    images = save_images(tmp_path / "images", 4)
    (tmp_path / "list.txt").write_text(
        "images/003.png\nimages/001.png\nimages/003.png\n./images/001.png\nimages/000.png"
    )
    run = label(images, tmp_path / "run").folder
    with Listing(open_images([images / "003.png"] * 3), IdIndex.read(run), run, CONFIG) as listing:
        assert listing.wait(1) == 0
        assert (listing.listed, listing.unchanged) == (1, 1)
    with Listing(open_images(tmp_path / "list.txt"), IdIndex([]), tmp_path, CONFIG.merged({"limit": 2})) as listing:
        assert [ref.path for ref in listing.all_todo()] == ["images/003.png", "images/001.png"]
    with Listing(open_images(tmp_path / "list.txt"), IdIndex([]), tmp_path, CONFIG) as listing:
        assert listing.wait(100) == 3
        assert [ref.path[-7:] for ref in listing.all_todo()] == ["003.png", "001.png", "000.png"]
    assert images.is_dir()


def test_a_mistake_late_in_a_list_ends_the_listing(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("\n".join(f"{row}.png" for row in range(3000)) + "\n../x.png\n")
    with (
        Listing(open_images(tmp_path / "list.txt"), IdIndex([]), tmp_path, CONFIG) as listing,
        pytest.raises(UserError, match=r"entry 3001: '\.\./x\.png' lies outside"),
    ):
        list(listing.all_todo())


def test_nothing_found(tmp_path: Path) -> None:
    (tmp_path / "notes.md").touch()
    with (
        Listing(open_images(tmp_path), IdIndex([]), tmp_path, CONFIG) as listing,
        pytest.raises(UserError, match=r"no images found \(1 other files"),
    ):
        listing.wait(1)
    empty = ImageSource(tmp_path, "nothing", iter(()), may_be_empty=True)
    with Listing(empty, IdIndex([]), tmp_path, CONFIG) as listing:
        assert listing.wait(1) == 0


def test_batches_come_while_the_listing_goes_on(tmp_path: Path) -> None:
    images = save_images(tmp_path / "images", 3)
    listed = iter(f"{row}.png" for row in range(1024 + 2048))
    gate: list[int] = []

    def slow() -> Iterator[str]:
        yield from listed
        while not gate:
            time.sleep(0.01)
        yield "last.png"

    source = ImageSource(images, "slow", slow())
    with (
        open_writer(images, tmp_path / "run") as writer,
        Listing(source, writer.index, tmp_path / "run", CONFIG) as listing,
    ):
        batches = listing.batches(1000, writer)
        assert listing.wait(1000) >= 1000
        first = [next(batch for batch in batches if batch is not None) for _ in range(3)]
        assert [batch.refs[0].path for batch in first] == ["0.png", "1000.png", "2000.png"]
        assert next(batches) is None
        assert not listing.done
        gate.append(1)
        (rest,) = [batch for batch in batches if batch is not None]
        assert [rest.refs[0].path, rest.refs[-1].path, len(rest.refs)] == ["3000.png", "last.png", 73]


def test_a_call_that_goes_on_makes_the_same_batches(tmp_path: Path) -> None:
    images, run = save_images(tmp_path / "images", 14), tmp_path / "run"
    whole = label(images, tmp_path / "whole", size=4)
    with (
        open_writer(images, run) as writer,
        Listing(open_images(images), writer.index, run, CONFIG) as listing,
    ):
        batches = [batch for batch in listing.batches(4, writer) if batch is not None]
    assert [len(batch.refs) for batch in batches] == [4, 4, 4, 2]
    label(images, run, config=CONFIG.merged({"limit": 4}))
    (images / "008.png").rename(images / "hidden")
    (images / "009.png").rename(images / "hidden2")
    later = {entry.shard for entry in whole.entries}
    label(images, run, size=4)
    assert len({entry.shard for entry in Run.open(run).entries} & later) == 2
    (images / "hidden").rename(images / "008.png")
    (images / "hidden2").rename(images / "009.png")
    assert rows(label(images, run, size=4)) == rows(whole)


def test_spool(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    blocks = [
        [(0, ImageRef.from_path("a\nb.png")), (1, ImageRef.from_path("ü 🦊.png"))],
        [(10**7, ImageRef.from_path("c.png"))],
    ]
    assert not spool.take()
    for block in blocks:
        spool.put(block)
    assert [spool.take(), spool.take(), spool.take()] == [*blocks, []]
    assert not list(tmp_path.iterdir())
    spool.close()


@given(st.lists(st.lists(st.integers(0, 50), max_size=20), max_size=12))
def test_id_set_knows_what_it_was_given(chunks: list[list[int]]) -> None:
    ids, known = IdSet(), set()
    for chunk in chunks:
        new = ids.add(np.array(chunk, np.uint64))
        for number, is_new in zip(chunk, new.tolist(), strict=True):
            assert is_new == (number not in known)
            known.add(number)
        assert len(ids) == len(known)


def test_index_of_a_run(tmp_path: Path) -> None:
    run = label(save_images(tmp_path / "images", 9), tmp_path / "run")
    index = IdIndex(run.entries)
    assert len(index) == 9
    for rank, entry in enumerate(run.entries):
        places = index.find(ids_to_numbers(entry.ids))
        assert (index.shards[places] == rank).all()
        assert [number_to_id(number) for number in index.ids[places].tolist()] == list(entry.ids)
    assert index.find(np.array([1, 2], np.uint64)).tolist() == [-1, -1]
    assert IdIndex([]).find(np.array([1], np.uint64)).tolist() == [-1]
    assert len(IdIndex([*run.entries, run.entries[0]])) == 9
    save_image(tmp_path / "images/001.png", green=True, hw=(20, 20))  # its shard is replaced by two
    again = label(tmp_path / "images", run.folder)
    read, made = IdIndex.read(run.folder), IdIndex(again.entries)
    assert (len(again.entries), len(read)) == (len(run.entries) + 1, 9)
    assert read.names == made.names == [entry.shard for entry in again.entries]
    for one, other in ((read.ids, made.ids), (read.stamps, made.stamps), (read.shards, made.shards)):
        assert one.tolist() == other.tolist()


def test_state_of_files(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    os.mkfifo(tmp_path / "pipe")
    state = read_state(tmp_path / "a")
    assert (state.size, len(state.content), state.stamp) == (3, 32, read_stamp(tmp_path / "a"))
    assert read_state(tmp_path / "a", with_content=False).content == ""
    assert read_state(tmp_path / "pipe").content == ""
    assert read_state(tmp_path / "none").stamp == read_stamp(tmp_path / "none") == ABSENT_STAMP


def test_many_stamps_and_ids_are_those_of_each(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"text")
    (tmp_path / "b").touch()
    os.utime(tmp_path / "b", ns=(-5, -5))
    names = ["a", "b", "gone", "é/\udce9"]
    paths = [str(tmp_path / name) for name in names]
    assert read_stamps(paths).tolist() == [read_stamp(path) for path in paths]
    assert read_stamps([]).shape == (0,)
    assert [number_to_id(number) for number in paths_to_numbers(names).tolist()] == list(map(path_to_image_id, names))
