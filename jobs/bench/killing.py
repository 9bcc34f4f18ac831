"""Runs that are killed at random times, and the comparison with one that is not: what `bench chaos` does."""

import os
import random
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path

from pipeline.errors import UserError
from pipeline.store.manifest import MANIFEST_NAME, read_manifest
from pipeline.store.run import is_run
from pipeline.store.shards import read_shard
from pipeline.store.status import read_status
from pipeline.store.verify import verify_run

_ROOT = Path(__file__).parents[2]
_POLL_SECONDS = 0.02
_PATIENCE_SECONDS = 3600.0
_EARLY, _EARLY_SECONDS = 0.3, 10.0
"""Share of the driver's kills that come at any time after its start; all others wait for a number of new shards."""
_RAYLET_SHARE, _WORKER_SHARE = 0.1, 0.6
"""A tenth of the kills are of Ray's own process, half of a worker, the rest of the driver."""


class Chaos:
    """Kills runs and counts what came of it.

    Args:
        command: Of annotate, without its output.
        folder: For the runs.
        quiet: Rows of the quiet run by image id.
        shards: That it has.
        chance: Who is killed when.

    Attributes:
        identical: Kills after which all rows that were there equalled the quiet run's.
        lost: Images without a row in runs that said that they were done.
        double: Rows too many, whenever looked for.
        broken: Runs that `verify` found something wrong with at their end.
        computed: Images of all runs together.
        recomputed: Images that were given to a worker again, whether or not work on them had begun.
        runs: Started.
    """

    def __init__(
        self, command: list[str], folder: Path, quiet: dict[str, str], shards: int, chance: random.Random
    ) -> None:
        self.identical = self.lost = self.double = self.broken = self.computed = self.recomputed = self.runs = 0
        self._command = command
        self._folder = folder
        self._quiet = quiet
        self._chance = chance
        self._shards = shards
        self._killed = 0

    def go(self, kills: int) -> None:
        """Kill so many times, in as many runs as that takes, and let the last one come to its end."""
        while self._killed < kills:
            self.runs += 1
            output = self._folder / f"run{self.runs}"
            given = 0
            while True:
                call = start_call(self._command, output)
                try:
                    self._disturb(call, output, kills)
                    status = call.wait(_PATIENCE_SECONDS)
                finally:
                    end_session(call.pid)
                given += _given(call, output)
                if status == 0:
                    break
            self._close(output, given)

    def _disturb(self, call: subprocess.Popen[bytes], output: Path, kills: int) -> None:
        """Kill while the call lives and there are kills left."""
        while self._killed < kills and (victim := self._choose(call, output)) is not None:
            name, pid = victim
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
            self._killed += 1
            if name == "driver":
                call.wait()
            self._look(name, output)

    def _choose(self, call: subprocess.Popen[bytes], output: Path) -> tuple[str, int] | None:
        """Choose whom to kill and wait for a random moment; None when the call came to its end before."""
        share, shards = self._chance.random(), _shards(output)
        early = share >= _WORKER_SHARE and self._chance.random() < _EARLY
        due = time.monotonic() + self._chance.uniform(0, _EARLY_SECONDS)
        wanted = shards + self._chance.randint(1, max(self._shards - shards, 1))
        while call.poll() is None and (time.monotonic() < due if early else _shards(output) < wanted):
            time.sleep(_POLL_SECONDS)
        if call.poll() is not None:
            return None
        status = read_status(output)
        workers = [worker.pid for worker in status.workers if worker.pid] if status and status.pid == call.pid else []
        raylets = [pid for pid, name in session_processes(call.pid) if name == "raylet"]
        if share < _RAYLET_SHARE and raylets:
            return "raylet", raylets[0]
        if _RAYLET_SHARE <= share < _WORKER_SHARE and workers:
            return "worker", self._chance.choice(workers)
        return "driver", call.pid

    def _look(self, name: str, output: Path) -> None:
        """Compare what is there with the quiet run, and count rows that are there twice."""
        rows: dict[str, str] = {}
        if is_run(output):
            rows, double = _rows(output)
            self.double += double
        wrong = [image_id for image_id, row in rows.items() if self._quiet.get(image_id) != row]
        self.identical += not wrong
        state = "identical" if not wrong else f"{len(wrong)} rows differ"
        print(f"kill {self._killed}, {name}: {len(rows)} of {len(self._quiet)} rows there, {state}", flush=True)

    def _close(self, output: Path, given: int) -> None:
        """Look at a run that says that it is done."""
        rows, double = _rows(output)
        self.double += double
        self.lost += len(self._quiet.keys() - rows.keys())
        self.broken += rows != self._quiet or bool(verify_run(output).problems)
        self.computed += len(self._quiet)
        self.recomputed += max(given - len(self._quiet), 0)


def run_quietly(command: list[str], output: Path) -> tuple[dict[str, str], int]:
    """Label without any kill; returns the rows by image id, and the number of shards.

    Raises:
        UserError: The run did not come to its end.
    """
    call = start_call(command, output)
    if status := call.wait(_PATIENCE_SECONDS):
        said = _errors(output).read_text(encoding="utf-8", errors="replace")[-1000:]
        raise UserError(f"the quiet run ended with status {status}: {said}")
    return _rows(output)[0], _shards(output)


def start_call(command: list[str], output: Path) -> subprocess.Popen[bytes]:
    """Start annotate in a session of its own, so that all its processes can be found."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(_ROOT), os.environ.get("PYTHONPATH", "")])}
    with _errors(output).open("ab") as errors:
        return subprocess.Popen(
            [*command, "--output", str(output)],
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=errors,
            start_new_session=True,
        )


def _errors(output: Path) -> Path:
    """Return the file with what the calls of a run say on stderr."""
    return output.with_suffix(".errors")


def session_processes(session: int) -> list[tuple[int, str]]:
    """Return (process, name) of all processes of a session."""
    found = []
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        try:
            name, rest = (folder / "stat").read_text(encoding="utf-8", errors="replace").split("(", 1)[1].rsplit(")", 1)
        except (OSError, IndexError):
            continue
        if int(rest.split()[3]) == session:
            found.append((int(folder.name), name))
    return found


def end_session(session: int) -> None:
    """Kill what is left of a session: processes of Ray that outlive their driver."""
    for pid, _ in session_processes(session):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def _shards(output: Path) -> int:
    """Return how many lines the manifest of a run has."""
    path = output / MANIFEST_NAME
    return path.read_bytes().count(b"\n") if path.exists() else 0


def _given(call: subprocess.Popen[bytes], output: Path) -> int:
    status = read_status(output)
    return status.given if status is not None and status.pid == call.pid else 0


def _rows(output: Path) -> tuple[dict[str, str], int]:
    """Return the rows of a run by image id, and how many there are too many."""
    rows: dict[str, str] = {}
    count = 0
    for entry in read_manifest(output):
        for row in read_shard(output, entry.shard).to_pylist():
            rows[row["image_id"]] = repr(row)
            count += 1
    return rows, count - len(rows)
