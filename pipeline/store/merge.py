"""Runs of parts of the images, made apart with one fingerprint, put together into one."""

import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pipeline.config import AnnotateConfig
from pipeline.errors import UserError
from pipeline.reviewed.merge import carry_corrections, corrections_to_carry
from pipeline.store.durable import write_file
from pipeline.store.fingerprint import describe_differences
from pipeline.store.index import Ids, IdSet, ids_to_numbers
from pipeline.store.lock import holder_of
from pipeline.store.manifest import ShardEntry, read_manifest
from pipeline.store.output import explain_os_error, settings_to_config
from pipeline.store.rewrite import shard_without
from pipeline.store.run import SHARDS_FOLDER, TIMINGS_FOLDER, Run
from pipeline.store.shards import read_shard
from pipeline.store.summary import Outcome
from pipeline.store.writer import RunWriter


@dataclass(frozen=True)
class Merged:
    """What a merge made.

    Attributes:
        outcome: What the new run came to.
        added: Images that this call brought in.
        twice: Images that more than one of the runs had.
        corrected: Images whose corrections by people this call brought in.
    """

    outcome: Outcome
    added: int
    twice: int
    corrected: int


def merge_runs(folders: Sequence[str | Path], output: str | Path) -> Merged:
    """Put runs together; a merge that was cut off goes on.

    An image that two runs have comes once: the labelled row before the failed one. What people corrected comes along.

    Args:
        folders: At least one run; none is changed.
        output: The run to make, or to go on with.

    Raises:
        UserError: A folder is no run, is being written, or made with another fingerprint; two runs label an image in
            different ways, or people corrected it in different ways; a shard is damaged; or the output cannot be
            written.
    """
    start = time.monotonic()
    runs = [Run.open(folder) for folder in folders]
    first = runs[0]
    for run in runs:
        _check(run, first, Path(output))
    config = settings_to_config(first.settings, AnnotateConfig(device=first.settings["options"]["device"]))
    folder = Path(output).absolute()
    corrections = corrections_to_carry([run.folder for run in runs], folder)
    with RunWriter(folder, first.settings["parts"], first.ontology, first.images_root, config) as writer:
        merge = _Merge(writer)
        for run in runs:
            for entry in read_manifest(run.folder):
                merge.bring(run, entry)
        corrected = carry_corrections(corrections, folder)
        outcome = writer.finish(time.monotonic() - start, writer.added)
    return Merged(outcome, writer.added, merge.twice, corrected)


def _check(run: Run, first: Run, output: Path) -> None:
    if run.folder.resolve() == output.resolve():
        raise UserError(f"{output}: cannot be merged into itself; give another --output folder")
    if holder := holder_of(run.folder):
        raise UserError(f"{run.folder}: is still being written ({holder}); merge it when it is done")
    if lines := describe_differences(first.settings["parts"], run.settings["parts"]):
        listed = "\n  ".join(lines)
        raise UserError(
            f"{run.folder}: was made in another way than {first.folder}:\n  {listed}\n"
            "Only runs of one kind can be merged"
        )


class _Merge:
    """The state of a merge.

    Attributes:
        twice: Images met so far that were there already, from another run or an earlier call.
    """

    def __init__(self, writer: RunWriter) -> None:
        self.twice = 0
        self._writer = writer
        self._ids = IdSet()
        self._ids.add(writer.index.ids)
        self._present = set(writer.index.names)

    def bring(self, run: Run, entry: ShardEntry) -> None:
        """Bring a shard of a run into the output."""
        if entry.shard in self._present and self._has(entry):
            return
        numbers = ids_to_numbers(entry.ids)
        new = self._ids.add(numbers)
        self._writer.tick()
        try:
            if new.all():
                self._copy(run, entry)
            else:
                self._bring_rest(run, entry, numbers[~new])
        except OSError as error:
            raise explain_os_error(error, self._writer.output) from error

    def _has(self, entry: ShardEntry) -> bool:
        """Tell whether the output has this very shard, from an earlier call."""
        path = self._writer.output / SHARDS_FOLDER / entry.shard
        return path.exists() and hashlib.sha256(path.read_bytes()).hexdigest() == entry.sha256

    def _copy(self, run: Run, entry: ShardEntry) -> None:
        content = _read(run.folder / SHARDS_FOLDER / entry.shard)
        if hashlib.sha256(content).hexdigest() != entry.sha256:
            raise UserError(f"{run.folder}: the shard {entry.shard} is damaged; `groundlabel verify` it with --repair")
        times = run.folder / TIMINGS_FOLDER / entry.shard
        if times.exists():
            write_file(self._writer.output / TIMINGS_FOLDER / entry.shard, times.read_bytes())
        write_file(self._writer.output / SHARDS_FOLDER / entry.shard, content)
        self._writer.add(replace(entry, replaces=()))

    def _bring_rest(self, run: Run, entry: ShardEntry, again: Ids) -> None:
        """Bring a shard of which some images are there already."""
        self.twice += len(again)
        self._writer.refresh()
        places = self._writer.index.find(again)
        shards = {self._writer.index.names[shard] for shard in self._writer.index.shards[places].tolist()}
        there = {row["image_id"]: row for name in shards for row in read_shard(self._writer.output, name).to_pylist()}
        worse, left_out = [], set()
        for row in read_shard(run.folder, entry.shard).to_pylist():
            old = there.get(row["image_id"])
            if old is None:
                continue
            if old["status"] == "failed" and row["status"] == "ok":
                worse.append(row["image_id"])
                continue
            if row["status"] == "ok" and old != row:
                raise UserError(
                    f"{run.folder}: labels {row['path']!r} in another way than the runs before it; its file differs "
                    "between them. Annotate it again in one of them, or merge without one"
                )
            left_out.add(row["image_id"])
        self._writer.drop_rows(ids_to_numbers(worse))
        rest = shard_without(run.folder, entry.shard, left_out, self._writer.output)
        if rest is not None:
            self._writer.add(rest)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(
            f"{path}: cannot be read ({error.strerror}); `groundlabel verify` its run with --repair"
        ) from error
