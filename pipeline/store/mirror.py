"""A copy of a run on an object store, which is a whole run at every moment: shards first, then the manifest.

A thread of the driver sends what has come since. Its order is what makes the promise:

1. A shard whose name stays and whose content changed is first taken out of the mirror's manifest.
2. Timings and shards are written, each as one object.
3. The manifest is replaced by the run's own, as far as it was read before.
4. Shards that it no longer names are removed.

So each shard that the mirror's manifest names is there with its SHA-256, wherever the driver dies. Nothing locks an
object store: a second call that writes to the same mirror is noticed when the manifest is not the one that was sent.
"""

import tempfile
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

from pipeline.errors import UserError
from pipeline.images import describe_error
from pipeline.store.durable import TEMPORARY
from pipeline.store.fingerprint import describe_differences
from pipeline.store.log import RunLog
from pipeline.store.manifest import MANIFEST_NAME, removal_line
from pipeline.store.mirror_files import (
    NOTES,
    SETTINGS,
    NamedShards,
    copy_start,
    fetch_missing,
    is_shard,
    reviewed_files,
    sha256,
)
from pipeline.store.output import OUR_NAMES, check_output
from pipeline.store.remote import RemoteError, RemoteFolder, run_together
from pipeline.store.run import REVIEWED_FOLDER, RUN_FILE, SHARDS_FOLDER, TIMINGS_FOLDER, Run

SEND_SECONDS = 30.0
"""Between two manifests."""
_SHARE = 10.0
"""Sending the manifest takes at most one part in so many of the time: that of ten million images is large."""
_FOLDERS = (TIMINGS_FOLDER, SHARDS_FOLDER)


class Mirror:
    """The mirror of one run folder, as a context manager.

    Args:
        address: Where it is (`pipeline.store.remote`).
        output: The run folder; it need not exist.

    Raises:
        UserError: Nothing can be kept there, it cannot be read, or it holds something else.
    """

    def __init__(self, address: str, output: Path) -> None:
        self._remote = RemoteFolder(address)
        self.address = self._remote.address
        self._output = output
        if self._remote.is_within(output):
            raise UserError(f"--mirror {address}: is in the run folder itself; give another place")
        self._scratch = tempfile.TemporaryDirectory(prefix="groundlabel-mirror-")
        self._glance = Path(self._scratch.name) / "run"
        self._run: Run | None = None
        self._kept: dict[str, str] = {}
        self._strays: set[str] = set()
        self._reviewed: dict[str, int] = {}
        self._offset = -1
        self._taken = False
        self._pause = SEND_SECONDS
        self._ended = threading.Event()
        self._given_up = threading.Event()
        self._thread: threading.Thread | None = None
        try:
            self._look()
        except BaseException:
            self._scratch.cleanup()
            raise

    def _look(self) -> None:
        """Read what the mirror holds, without its shards."""
        (self._glance / SHARDS_FOLDER).mkdir(parents=True)
        names = self._remote.sizes()
        if strangers := sorted(name for name in names if name not in OUR_NAMES and not name.startswith(TEMPORARY)):
            raise UserError(
                f"{self.address}: is not empty and not a run (it has {', '.join(strangers[:3])}); "
                "give an empty or another --mirror"
            )
        self._look_at_manifest()
        for name in SETTINGS:
            self._remote.read_into(name, self._glance / name)
        if (self._glance / RUN_FILE).exists():
            with suppress(UserError):  # without it the mirror is refused, or overwritten
                self._run = Run.open(self._glance)

    def _look_at_manifest(self) -> None:
        """Read the manifest that the mirror has now."""
        path = self._glance / MANIFEST_NAME
        path.unlink(missing_ok=True)
        self._mark: str | None = self._remote.mark(MANIFEST_NAME)
        self._remote.read_into(MANIFEST_NAME, path)
        named = NamedShards(path)
        named.advance()
        self._named = named.shards

    @property
    def glance(self) -> Path | None:
        """A folder with the mirror's settings, to take them from where the output has no run; None without any."""
        return None if self._run is None or (self._output / RUN_FILE).exists() else self._glance

    def prepare(self, parts: Mapping[str, Any], root: Path, overwrite: bool) -> int:
        """Fetch what the mirror has and the run folder lacks, before that is opened for writing.

        Args:
            parts: What is asked for (`fingerprint_parts`).
            root: Where the images' paths start from.
            overwrite: What the mirror holds is to be replaced.

        Returns:
            How many shards came.

        Raises:
            UserError: The mirror or the folder holds something else, cannot be read or written, or is in use.
        """
        check_output(self._output, parts, root, overwrite)
        if overwrite or self._run is None:
            if self._mark and not overwrite:
                raise UserError(
                    f"{self.address}: has the shards of a run, but its {RUN_FILE} is gone or damaged; put it back, "
                    "use --overwrite to replace the run, or give another --mirror"
                )
            return 0
        if lines := describe_differences(self._run.settings.get("parts", {}), parts):
            listed = "\n  ".join(lines)
            raise UserError(
                f"{self.address}: mirrors a run made in another way:\n  {listed}\n"
                "Use --overwrite to replace it there and in the output folder, or give another --mirror"
            )
        try:
            return fetch_missing(self._remote, self._glance, self._output)
        except OSError as error:
            raise UserError(f"{self._output}: cannot be written ({error.strerror or error})") from error

    def begin(self, overwrite: bool) -> None:
        """Send the settings of the run, which is open for writing, and start to send its shards as they come.

        Args:
            overwrite: What the mirror holds is replaced.

        Raises:
            UserError: The mirror cannot be written.
        """
        listed = {folder: self._remote.sizes(folder) for folder in _FOLDERS}
        sizes = listed[SHARDS_FOLDER]
        self._here = NamedShards(self._output / MANIFEST_NAME)
        if overwrite and self._mark:
            self._send_manifest(0)
        self._kept = {name: digest for name, (digest, size) in self._named.items() if sizes.get(name) == size}
        self._strays = {name for names in listed.values() for name in names if is_shard(name)} - set(self._kept)
        self._reviewed = self._remote.sizes(REVIEWED_FOLDER)
        self._remote.remove(
            f"{folder}/{name}" for folder, names in listed.items() for name in names if name.startswith(TEMPORARY)
        )
        for name in SETTINGS:
            if (self._output / name).exists():
                self._remote.write_from(name, self._output / name)
        self._thread = threading.Thread(target=self._work, name="mirror", daemon=True)
        self._thread.start()

    def _work(self) -> None:
        log, told = RunLog(self._output), ""
        while not self._ended.wait(self._pause):
            problem = ""
            try:
                self.send()
            except Exception as error:  # the run goes on, and `finish` tries once more
                problem = describe_error(error)
            if problem not in ("", told):
                log.write("mirror behind", reason=problem)
            told = problem
        log.close()

    def send(self) -> None:
        """Bring the mirror into line with the run as it is now; one thread at a time.

        Raises:
            UserError: The mirror cannot be written or was taken over; or a shard of the run is damaged.
            OSError: The run cannot be read.
        """
        self._check_taken()
        if self._mark is None:
            self._look_at_manifest()
        self._here.advance()
        here, offset = self._here.shards, self._here.offset
        changed = [name for name, (digest, _) in self._named.items() if here.get(name, (digest,))[0] != digest]
        if changed:
            with (self._glance / MANIFEST_NAME).open("ab") as file:
                file.write(removal_line(changed))
            self._replace_manifest(self._glance / MANIFEST_NAME)
            self._named = {name: named for name, named in self._named.items() if name not in changed}
        run_together([name for name, (digest, _) in here.items() if self._kept.get(name) != digest], self._send_shard)
        if offset != self._offset:
            self._send_manifest(offset)
        surplus = (self._strays | self._kept.keys()) - here.keys()
        if surplus:
            self._remote.remove(f"{folder}/{name}" for name in sorted(surplus) for folder in _FOLDERS)
            self._strays -= surplus
            self._kept = {name: digest for name, digest in self._kept.items() if name not in surplus}
        for path in reviewed_files(self._output):
            if path.stat().st_size > self._reviewed.get(path.name, -1):
                content = path.read_bytes()
                self._remote.write(f"{REVIEWED_FOLDER}/{path.name}", content)
                self._reviewed[path.name] = len(content)

    def _send_shard(self, name: str) -> None:
        if self._given_up.is_set():
            raise RemoteError(f"{self.address}: the call was broken off")
        path = self._output / SHARDS_FOLDER / name
        digest = self._here.shards[name][0]
        content = path.read_bytes() if path.exists() else b""
        if sha256(content) != digest:
            raise UserError(f"{path}: is not what the manifest says; `groundlabel verify --repair` mends the run")
        self._strays.add(name)
        self._kept.pop(name, None)
        if (times := self._output / TIMINGS_FOLDER / name).exists():
            self._remote.write_from(f"{TIMINGS_FOLDER}/{name}", times)
        self._remote.write(f"{SHARDS_FOLDER}/{name}", content)
        self._kept[name] = digest
        self._strays.discard(name)

    def _send_manifest(self, offset: int) -> None:
        """Make the start of the run's manifest that of the mirror."""
        start = time.monotonic()
        sent = Path(self._scratch.name) / MANIFEST_NAME
        if offset:
            copy_start(self._output / MANIFEST_NAME, offset, sent)
        else:
            sent.write_bytes(b"")
        self._replace_manifest(sent)
        sent.replace(self._glance / MANIFEST_NAME)
        self._named = dict(self._here.shards)
        self._offset = offset
        self._pause = max(SEND_SECONDS, _SHARE * (time.monotonic() - start))

    def _replace_manifest(self, path: Path) -> None:
        mark = self._remote.mark(MANIFEST_NAME)
        if self._mark is not None and mark != self._mark:
            self._taken = True
            self._check_taken()
        self._mark = None  # what is there is unknown until both have succeeded
        self._remote.write_from(MANIFEST_NAME, path)
        self._mark = self._remote.mark(MANIFEST_NAME)

    def _check_taken(self) -> None:
        if self._taken:
            raise RemoteError(
                f"{self.address}: another call has written to it since; once that has ended, the same command again "
                "puts both together"
            )

    def finish(self) -> str:
        """Send what is left, with the summary; for the end of a call, while the run is still held.

        Returns:
            Why the mirror is behind; empty where it holds the run.
        """
        self._stop()
        try:
            self.send()
            for name in NOTES:
                if (self._output / name).exists():
                    self._remote.write_from(name, self._output / name)
                else:
                    self._remote.remove([name])
        except UserError as error:
            return str(error)
        except OSError as error:
            return describe_error(error)
        return ""

    def _stop(self) -> None:
        self._ended.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            self._given_up.set()
        self._stop()
        self._scratch.cleanup()
