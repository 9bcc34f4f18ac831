"""Compacting, and that a run is whole wherever its writer is killed."""

import io
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from jobs.cli import main
from pipeline.store import durable, manifest
from pipeline.store.index import ids_to_numbers
from pipeline.store.manifest import MANIFEST_NAME
from pipeline.store.run import SHARDS_FOLDER, Run
from pipeline.store.verify import verify_run
from pipeline.store.writer import RunWriter
from tests.store_runs import label, rows, save_images


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine stays on here: what was written stays, synced or not."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


class Killed(BaseException):
    """Stands for SIGKILL: from here on the process changes nothing."""


@contextmanager
def killed_after(changes: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Let the writer make so many changes to the disk; every later one raises and does nothing.

    Yields:
        The changes that were asked for.
    """
    made: list[str] = []

    def guard(name: str, do: Callable[..., Any]) -> Callable[..., Any]:
        def guarded(*words: Any, **options: Any) -> Any:
            made.append(name)
            if len(made) > changes:
                raise Killed
            return do(*words, **options)

        return guarded

    class TornFile(io.FileIO):
        """Of the write during which the writer is killed, a part arrives."""

        def write(self, content: Any) -> int:
            made.append("write")
            if len(made) == changes + 1:
                super().write(bytes(content)[: len(content) // 2])
            if len(made) > changes:
                raise Killed
            return super().write(content)

        def truncate(self, size: int | None = None) -> int:
            if len(made) > changes:
                raise Killed
            return super().truncate(size)

    with monkeypatch.context() as patch:
        for name in ("replace", "fsync"):
            patch.setattr(os, name, guard(name, getattr(os, name)))
        patch.setattr(Path, "unlink", guard("unlink", Path.unlink))
        opener = lambda path, mode, **_: TornFile(path, mode.replace("b", ""))  # noqa: E731
        patch.setattr(durable, "open", opener, raising=False)
        patch.setattr(manifest, "open", opener, raising=False)
        yield made


def each_kill(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: Path, change: Callable[[RunWriter], Any]
) -> Iterator[tuple[int, Path]]:
    """Yield a copy of a run for each change at which its writer can be killed."""
    total = 0
    while True:
        folder = tmp_path / f"killed{total}"
        shutil.copytree(source, folder)
        writer = RunWriter.reopen(folder)
        with killed_after(total, monkeypatch) as made, suppress(Killed):
            change(writer)
        writer.close()
        yield total, folder
        if len(made) <= total:
            return
        total += 1


def test_compact(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = label(save_images(tmp_path / "images", 11, bad=[5]), tmp_path / "run", size=1)
    before, counts = rows(run), run.counts()
    assert len(run.entries) == 11
    assert main(["compact", str(run.folder), "--rows", "4"]) == 0
    assert "11 shards are 3 now" in capsys.readouterr().out
    compacted = Run.open(run.folder)
    assert rows(compacted) == before
    assert compacted.counts() == counts
    assert [entry.rows for entry in compacted.entries] == [4, 4, 3]
    assert len((run.folder / MANIFEST_NAME).read_bytes().splitlines()) == 3
    assert len(list((run.folder / SHARDS_FOLDER).iterdir())) == 3
    found = verify_run(run.folder)
    assert found.problems == found.notes == []
    assert main(["compact", str(run.folder), "--rows", "4"]) == 0
    assert Run.open(run.folder).entries == compacted.entries
    seen = []
    label(run.images_root, run.folder, look=lambda listing: seen.append((listing.unchanged, listing.todo)))
    assert seen == [(11, 0)]
    assert main(["compact", str(run.folder), "--rows", "1"]) == 2


def test_compact_may_be_killed_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = label(save_images(tmp_path / "images", 3), tmp_path / "run", size=1)
    before = rows(run)
    kills = 0
    for kills, folder in each_kill(tmp_path, monkeypatch, run.folder, lambda writer: writer.compact(2)):  # noqa: B007
        assert rows(Run.open(folder)) == before
        RunWriter.reopen(folder).close()
        found = verify_run(folder)
        assert (found.problems, found.notes, found.images) == ([], [], 3)
    assert kills > 15


def test_dropping_rows_may_be_killed_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = label(save_images(tmp_path / "images", 5), tmp_path / "run", size=4)
    before = rows(run)
    dropped = [run.entries[0].ids[1], run.entries[1].ids[0]]
    kept = [row for row in before if not any(image_id in row for image_id in dropped)]
    seen = set()
    for _, folder in each_kill(
        tmp_path, monkeypatch, run.folder, lambda writer: writer.drop_rows(ids_to_numbers(dropped))
    ):
        RunWriter.reopen(folder).close()
        left = rows(Run.open(folder))
        assert set(kept) <= set(left) <= set(before)
        assert len(set(left)) == len(left)
        assert verify_run(folder).problems == verify_run(folder).notes == []
        seen.add(len(left))
        assert rows(label(run.images_root, folder)) == before
    assert seen == {3, 4, 5}
