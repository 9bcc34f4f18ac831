"""One run folder, opened for writing: the only place that changes it, besides the workers' shards."""

import json
import os
import time
from collections.abc import Callable, Collection, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any, Self

import numpy as np

from models.ontology import Ontology
from pipeline.addresses import root_to_address
from pipeline.config import AnnotateConfig
from pipeline.file_state import read_state
from pipeline.paths import path_to_stored, stored_to_path
from pipeline.records import FailedImage, ImageTiming
from pipeline.store.durable import write_file
from pipeline.store.fingerprint import parts_to_fingerprint
from pipeline.store.heal import Healed, clear_leftovers, heal, remove_surplus
from pipeline.store.index import IdIndex, Ids, number_to_id
from pipeline.store.lock import RunLock
from pipeline.store.log import RunLog
from pipeline.store.manifest import ManifestWriter, ShardEntry, read_manifest, removal_line
from pipeline.store.output import REPLACED_FILES, check_output, explain_os_error, settings_to_config
from pipeline.store.rewrite import group_small, join_shards, shard_without
from pipeline.store.run import RUN_FILE, SHARDS_FOLDER, TIMINGS_FOLDER, Run
from pipeline.store.shards import remove_shards, write_shard
from pipeline.store.status import RunStatus, write_status
from pipeline.store.summary import Outcome, write_summary

SYNC_SECONDS = 1.0
"""Lines of new shards reach the disk at least this often; one that is lost is made again from its shard."""
_OPTIONS = ("detector", "segmenter", "pixel_limit", "device")


def package_version() -> str:
    """Return the version of this package, for people who look at a run later."""
    try:
        return metadata.version("groundlabel")
    except metadata.PackageNotFoundError:
        return "from a checkout that is not installed"


class RunWriter:
    """Holds a run folder and adds shards to it, as a context manager.

    Args:
        output: The run folder; it is made where it is missing.
        parts: What makes the rows (`fingerprint_parts`).
        ontology: Of the run.
        root: Where the images' paths start from.
        config: The options; `overwrite` removes a run that is there (only files of ours).

    Attributes:
        index: The images that the run had when it was opened.
        healed: What was put right then.
        added: Images whose rows were added since.

    Raises:
        UserError: The folder cannot be written, is something else, is in use, or belongs to another run.
    """

    def __init__(
        self, output: Path, parts: Mapping[str, Any], ontology: Ontology, root: Path, config: AnnotateConfig
    ) -> None:
        self.output = output
        self.fingerprint = parts_to_fingerprint(parts)
        self._ontology = ontology
        self.added = 0
        check_output(output, parts, root, config.overwrite)
        try:
            output.mkdir(parents=True, exist_ok=True)
            self.lock = RunLock(output)
        except OSError as error:
            raise explain_os_error(error, output) from error
        try:
            if check_output(output, parts, root, config.overwrite) is None:
                self._clear()
            self._start(parts, root, config)
        except OSError as error:
            self.lock.release()
            raise explain_os_error(error, output) from error
        except BaseException:
            self.lock.release()
            raise

    @classmethod
    def reopen(cls, folder: str | Path) -> Self:
        """Open the run in a folder to change it as it is.

        Raises:
            UserError: There is no run, it is in use or cannot be written.
        """
        run = Run.open(folder)
        config = settings_to_config(run.settings, AnnotateConfig(device=run.settings["options"]["device"]))
        return cls(run.folder, run.settings["parts"], run.ontology, run.images_root, config)

    def _start(self, parts: Mapping[str, Any], root: Path, config: AnnotateConfig) -> None:
        for name in (SHARDS_FOLDER, TIMINGS_FOLDER):
            (self.output / name).mkdir(exist_ok=True)
        settings = {
            "groundlabel": package_version(),
            "fingerprint": self.fingerprint,
            "parts": parts,
            "images_root": path_to_stored(root_to_address(str(root)) or str(root)),
            "ontology": self._ontology.to_dict(),
            "options": {name: getattr(config, name) for name in _OPTIONS},
        }
        write_file(self.output / RUN_FILE, json.dumps(settings, indent=2, allow_nan=False).encode())
        self._manifest = ManifestWriter(self.output)
        self._synced = time.monotonic()
        self.healed: Healed
        self.index: IdIndex
        self.healed, self.index = heal(self.output, self._manifest, self.fingerprint)
        self._log = RunLog(self.output)

    def _clear(self) -> None:
        """Remove the files of a run that is replaced."""
        for name in (SHARDS_FOLDER, TIMINGS_FOLDER):
            for path in (self.output / name).glob("*.parquet"):
                path.unlink()
        for name in REPLACED_FILES:
            (self.output / name).unlink(missing_ok=True)

    def _guarded(self, change: Callable[[], Any]) -> Any:
        """Change the run; what the system has against it becomes a message."""
        try:
            return change()
        except OSError as error:
            raise explain_os_error(error, self.output) from error

    def add(self, entry: ShardEntry) -> None:
        """Make a committed shard part of the run.

        Raises:
            UserError: The manifest cannot be written.
        """
        self._guarded(lambda: self._manifest.append(entry.to_line()))
        self.added += entry.rows

    def commit_failure(self, failure: FailedImage, root: str) -> ShardEntry:
        """Commit one failed image from here, for a worker that cannot; `add` makes it part of the run.

        Args:
            failure: What to say of it.
            root: Where the image's path starts from.

        Raises:
            UserError: The run cannot be written.
        """
        state = read_state(os.path.join(root, stored_to_path(failure.path)), with_content=False)
        times = (0, 0, 0, 0, os.uname().nodename, str(os.getpid()))
        timing = ImageTiming(failure.image_id, *times, state.size, state.mtime_ns, state.content)
        entry: ShardEntry = self._guarded(lambda: write_shard(self.output, [failure], [timing], self.fingerprint, {}))
        return entry

    def record(self, event: str, **values: Any) -> None:
        """Write an event into the log.

        Raises:
            UserError: The log cannot be written.
        """
        self._guarded(lambda: self._log.write(event, **values))

    def report(self, status: RunStatus) -> None:
        """Replace `status.json`.

        Raises:
            UserError: It cannot be written.
        """
        self._guarded(lambda: write_status(self.output, status))

    def tick(self) -> None:
        """Show that the writer lives, and bring what was added to the disk; to be called about once a second.

        Raises:
            UserError: The manifest cannot be written.
        """
        self.lock.touch()
        if time.monotonic() - self._synced >= SYNC_SECONDS:
            self._guarded(self._manifest.sync)
            self._synced = time.monotonic()

    def drop_rows(self, numbers: Ids) -> int:
        """Take images out of the run, so that they can be computed again.

        Args:
            numbers: (N,) image ids as in `index`; those that the run does not have are passed over.

        Returns:
            How many there were.

        Raises:
            UserError: A shard cannot be read or the run cannot be written; the other rows are all there.
        """
        places = self.index.find(numbers)
        places = places[places >= 0]
        for shard in np.unique(self.index.shards[places]).tolist():
            rows = places[self.index.shards[places] == shard]
            image_ids = {number_to_id(number) for number in self.index.ids[rows].tolist()}
            self._guarded(lambda: self._drop(self.index.names[shard], image_ids))  # noqa: B023 - called at once
        self.refresh()
        return len(places)

    def refresh(self) -> None:
        """Read `index` anew, with what was added."""
        self.index = IdIndex.read(self.output)

    def _drop(self, shard: str, image_ids: Collection[str]) -> None:
        entry = shard_without(self.output, shard, image_ids)
        if entry is None:
            self._remove([shard])
        else:
            self._exchange(entry)

    def _remove(self, shards: list[str]) -> None:
        """Take whole shards out; the files go first, as a line whose file is gone does not count at the next start."""
        remove_shards(self.output, shards)
        self._manifest.append(removal_line(shards))
        self._manifest.sync()

    def _exchange(self, entry: ShardEntry) -> None:
        self._manifest.append(entry.to_line())
        self._manifest.sync()
        remove_shards(self.output, [name for name in entry.replaces if name != entry.shard])

    def remove(self, shards: list[str]) -> None:
        """Take whole shards out of the run, their files too.

        Raises:
            UserError: The run cannot be written.
        """
        if shards:
            self._guarded(lambda: self._remove(shards))
            self.refresh()

    def restamp(self, stamps: Mapping[int, int]) -> None:
        """Note new sizes and times of image files whose content is unchanged.

        Args:
            stamps: Stamp by image id, both as numbers; all of them ids of the run.

        Raises:
            UserError: The manifest cannot be written.
        """
        if not stamps:
            return
        places = self.index.find(np.array(list(stamps), np.uint64))
        wanted = {self.index.names[shard] for shard in np.unique(self.index.shards[places]).tolist()}
        for entry in read_manifest(self.output):  # of the lines that were there at first
            if entry.shard in wanted:
                self._guarded(lambda: self._manifest.append(entry.restamped(stamps).to_line()))  # noqa: B023
        self._guarded(self._manifest.sync)

    def compact(self, rows: int) -> tuple[int, int]:
        """Join small shards, and write the manifest anew without lines that don't count.

        Args:
            rows: Most rows of a joined shard.

        Returns:
            Shards before and after.

        Raises:
            UserError: A shard cannot be read or the run cannot be written; nothing is lost.
        """
        before = len(self.index.names)
        for group in list(group_small(read_manifest(self.output), rows)):
            self._guarded(lambda: self._exchange(join_shards(self.output, group)))  # noqa: B023 - called at once
        self.rewrite_manifest()
        self.refresh()
        return before, len(self.index.names)

    def rewrite_manifest(self) -> None:
        """Write the manifest anew with the lines that count, complete or not at all.

        Raises:
            UserError: The run cannot be written.
        """
        self._guarded(self._manifest.rewrite)

    def finish(self, seconds: float, computed: int, profile: Mapping[str, Any] | None = None) -> Outcome:
        """Clear late shards of dead workers and write the summary; no worker may write any more.

        Args:
            seconds: Wall-clock time of this call.
            computed: Images that it labelled or found to be failed; with 0 a summary that is there stays as it is.
            profile: Where the workers' time went; None where it was not measured.

        Returns:
            What the run came to.

        Raises:
            UserError: The run cannot be written.
        """
        self._guarded(self._manifest.sync)
        if computed:  # without, no worker was there that could have left something
            self._guarded(lambda: remove_surplus(self.output))
            self._guarded(lambda: clear_leftovers(self.output))
        outcome: Outcome = self._guarded(lambda: write_summary(self.output, seconds, computed, profile))
        return outcome

    def close(self) -> None:
        """Close the manifest and give the run free."""
        self._manifest.close()
        self._log.close()
        self.lock.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
