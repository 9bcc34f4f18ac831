"""`status.json`: how far a run is, written by its driver about once a second for whoever wants to look.

The file is small and replaced as a whole, so that a reader on any host that sees the folder finds it complete.
"""

import json
import socket
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

from pipeline.store.durable import write_file
from pipeline.store.lock import process_lives

STATUS_FILE = "status.json"
STALE_SECONDS = 120.0
"""Age after which a status of another host counts as that of a driver that died."""
LISTING, LOADING, RUNNING, STOPPING = "listing", "loading", "running", "stopping"
DONE, INTERRUPTED, ENDED = "done", "interrupted", "ended by an error"
AT_WORK = (LISTING, LOADING, RUNNING, STOPPING)


@dataclass(frozen=True)
class WorkerStatus:
    """One worker process.

    Attributes:
        pid: Its process; 0 while it starts.
        images: In its hands now.
        seconds: Since it was given the oldest of them, or began to load.
        gpu_percent: How busy its GPU was when its last batch ended, 0 to 100; None where it has none or cannot tell.
        gpu_used_bytes: Memory of that GPU in use then, by all processes; None where it has none.
        gpu_memory_bytes: That the GPU has.
    """

    pid: int
    images: int
    seconds: float
    gpu_percent: int | None = None
    gpu_used_bytes: int | None = None
    gpu_memory_bytes: int | None = None


@dataclass(frozen=True)
class RunStatus:
    """How far a run is.

    Attributes:
        state: What the driver does (`AT_WORK`), or how it ended.
        host: Of the driver.
        pid: Of the driver.
        started: When the call began, seconds since 1970.
        updated: When this was written.
        listed: Images found so far.
        listing_done: No more are to be found.
        present: Images that had a row before this call.
        todo: Images to compute in this call, as far as listed.
        done: How many of them have a row now.
        failed: How many of those failed.
        given: Images given to workers; more than done by what is in flight or was given again after a death.
        reasons: Failed images of this call by reason, the numbers in it left out.
        rate: Images/s over the last minute.
        rate_overall: Images/s from when the first image was given to a worker until the last one came back.
        seconds_left: At the present rate; None when that is unknown.
        deaths: Workers that died in this call.
        last_error: Of the last failed image or dead worker; empty when there was none.
        error_time: When that was, seconds since 1970; 0 when there was none.
        workers: One for each.
    """

    state: str
    host: str
    pid: int
    started: float
    updated: float
    listed: int = 0
    listing_done: bool = False
    present: int = 0
    todo: int = 0
    done: int = 0
    failed: int = 0
    given: int = 0
    reasons: Mapping[str, int] = field(default_factory=dict)
    rate: float = 0.0
    rate_overall: float = 0.0
    seconds_left: float | None = None
    deaths: int = 0
    last_error: str = ""
    error_time: float = 0.0
    workers: tuple[WorkerStatus, ...] = ()

    @property
    def at_work(self) -> bool:
        """The driver says that it works, and as far as can be seen from here it lives."""
        if self.state not in AT_WORK:
            return False
        if self.host != socket.gethostname():
            return time.time() - self.updated < STALE_SECONDS
        return process_lives(self.pid)


def write_status(folder: Path, status: RunStatus) -> None:
    """Replace the status of a run.

    Raises:
        OSError: The disk is full or the folder cannot be written.
    """
    write_file(folder / STATUS_FILE, json.dumps(asdict(status)).encode(), durable=False)


def read_status(folder: Path) -> RunStatus | None:
    """Return the status of a run; None where there is none or it is of another version."""
    try:
        values = json.loads((folder / STATUS_FILE).read_bytes())
        workers = tuple(WorkerStatus(**worker) for worker in values.pop("workers"))
        known = {entry.name for entry in fields(RunStatus)}
        return RunStatus(**{name: value for name, value in values.items() if name in known}, workers=workers)
    except (OSError, ValueError, TypeError, KeyError):
        return None
