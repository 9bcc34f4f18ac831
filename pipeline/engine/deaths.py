"""How a worker died: it leaves a note where it can, and its driver reads that.

A fatal signal (segmentation fault, abort, …) makes Python's `faulthandler` write its name and where it happened into a
file in the run's folder. The same machinery ends a worker in which no image makes progress, also when it hangs in
foreign code. What leaves no note was killed: by the kernel for want of memory, or by somebody.
"""

import faulthandler
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pipeline.store.durable import TEMPORARY

_SIGNALS = {
    "Segmentation fault": "SIGSEGV",
    "Aborted": "SIGABRT",
    "Bus error": "SIGBUS",
    "Illegal instruction": "SIGILL",
    "Floating": "SIGFPE",
}
_NOTE_CHARACTERS = 2000


@dataclass(frozen=True)
class Death:
    """How a worker died.

    Attributes:
        signal: Name of the signal; for one that hung, "hang".
        note: What it left, cut to a few lines; may be empty.
    """

    signal: str
    note: str

    @property
    def hung(self) -> bool:
        """It made no progress and ended itself."""
        return self.signal == "hang"

    def describe(self, limit: float | None, attempts: int) -> str:
        """Return the reason of an image that it happened to."""
        if self.hung:
            return f"no result within {limit:g} s (--image-timeout)"
        cause = " (from outside, or for want of memory)" if self.signal == "SIGKILL" else ""
        return f"its worker process was killed by {self.signal}{cause} {attempts} times while it held this image alone"


def note_path(run_folder: Path, name: str) -> Path:
    """Return where a worker leaves its note; the run's next writer clears it away."""
    return run_folder / f"{TEMPORARY}death-{name}"


def read_death(run_folder: Path, name: str) -> Death:
    """Read and remove the note of a worker that died."""
    path = note_path(run_folder, name)
    try:
        text = path.read_text(encoding="utf-8", errors="replace")[:_NOTE_CHARACTERS]
    except OSError:
        text = ""
    path.unlink(missing_ok=True)
    if text.startswith("Timeout"):
        return Death("hang", text)
    found = [signal for words, signal in _SIGNALS.items() if f"Fatal Python error: {words}" in text]
    return Death(found[0] if found else "SIGKILL", text)


class Watchdog:
    """Leaves a note when this process dies of a signal, and ends it when no image makes progress.

    Args:
        name: Of the worker.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._path: Path | None = None
        self._descriptor = -1
        self._limit: float | None = None
        self._active = 0
        self._lock = threading.Lock()

    @contextmanager
    def watching(self, run_folder: Path, limit: float | None) -> Iterator[None]:
        """Watch while a batch is worked on; several threads may do so at once.

        Args:
            run_folder: Where the note goes.
            limit: Seconds without progress; None for no limit.
        """
        path = note_path(run_folder, self._name)
        with self._lock:
            self._active += 1
            self._limit = limit
            if self._path != path:
                descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
                faulthandler.enable(descriptor, all_threads=False)
                if self._path is not None:
                    os.close(self._descriptor)
                self._path, self._descriptor = path, descriptor
        self.progress(1)
        try:
            yield
        finally:
            with self._lock:
                self._active -= 1
                if not self._active:
                    faulthandler.cancel_dump_traceback_later()

    def progress(self, images: int) -> None:
        """Start the time limit anew, for a step that works on so many images at once."""
        with self._lock:
            if self._active and self._limit is not None:
                faulthandler.dump_traceback_later(self._limit * images, exit=True, file=self._descriptor)
