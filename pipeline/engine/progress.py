"""How far a run is: a bar on a terminal, else a plain line every half a minute; and numbers for `status.json`."""

import sys
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Self, TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
from rich.progress import Progress as RichProgress

from pipeline.store.status import LOADING, WorkerStatus
from pipeline.store.summary import reason_kind

LINE_SECONDS = 30.0
REPORT_SECONDS = 1.0
WINDOW_SECONDS = 60.0
"""The shown rate is that of the last minute."""


class Progress:
    """Counts, and shows images done, images/s, the time that is left and the failed images, on stderr.

    Args:
        total: Images to do in this call; may grow while they are listed.
        stream: Where to; a bar is drawn when it is a terminal.
        shown: False shows nothing.
        clock: Seconds, for tests.
        report: Called with this object when it is time to tell others; also about once a second.

    Attributes:
        total: As given; the caller may raise it.
        done: Images with a row, failed ones included.
        failed: How many of them failed.
        given: Images given to workers; one that is given again counts again.
        deaths: Workers that died.
        reasons: Failed images by the kind of reason.
        last_error: Of the last failed image or dead worker.
        error_time: When that was, seconds since 1970; 0 when there was none.
        seconds: What the workers spent, by stage (`pipeline.engine.profile`).
        state: What the driver does, as in `status.json`.
        workers: What each does.
    """

    def __init__(
        self,
        total: int,
        stream: TextIO | None = None,
        shown: bool = True,
        clock: Callable[[], float] = time.monotonic,
        report: Callable[["Progress"], None] = lambda progress: None,
    ) -> None:
        self.total = total
        self.done = self.failed = self.given = self.deaths = 0
        self.reasons: Counter[str] = Counter()
        self.last_error = ""
        self.error_time = 0.0
        self.seconds: Counter[str] = Counter()
        self.state = LOADING
        self.workers: tuple[WorkerStatus, ...] = ()
        self._report = report
        self._last_report = clock()
        self._first_given: float | None = None
        self._clock = clock
        self._stream = stream or sys.stderr
        self._shown = shown
        self._history: deque[tuple[float, int]] = deque([(self._clock(), 0)])
        self._last_line = self._clock()
        self._bar: RichProgress | None = None

    def __enter__(self) -> Self:
        self._history = deque([(self._clock(), 0)])
        if self._shown and self._stream.isatty():
            columns = (TextColumn("labelling"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rest]}"))
            self._bar = RichProgress(*columns, console=Console(file=self._stream), refresh_per_second=4)
            self._task = self._bar.add_task("", total=self.total, rest="starting")
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def give(self, images: int) -> None:
        """Count images that were given to a worker."""
        self.given += images
        if self._first_given is None:
            self._first_given = self._clock()
            self._history = deque([(self._first_given, 0)])

    def lose(self, what: str) -> None:
        """Count a worker that died, and of what."""
        self.deaths += 1
        self._note_error(what)

    def _note_error(self, what: str) -> None:
        self.last_error, self.error_time = what, time.time()

    def advance(self, done: int, failures: Sequence[tuple[str, str]] = ()) -> None:
        """Count images.

        Args:
            done: With a row since the last call, failed ones included.
            failures: (stored path, reason) of those that failed.
        """
        self.done += done
        self.failed += len(failures)
        self.reasons.update(reason_kind(reason) for _, reason in failures)
        if failures:
            path, reason = failures[-1]
            self._note_error(f"{path}: {reason}")
        now = self._clock()
        self._history.append((now, self.done))
        while len(self._history) > 2 and now - self._history[0][0] > WINDOW_SECONDS:
            self._history.popleft()
        self.tick()

    def tick(self) -> None:
        """Show the state, when it is time; to be called about once a second."""
        now = self._clock()
        if now - self._last_report >= REPORT_SECONDS:
            self._last_report = now
            self._report(self)
        if self._bar is not None:
            self._bar.update(self._task, completed=self.done, total=self.total, rest=self._rest())
        elif self._shown and self._clock() - self._last_line >= LINE_SECONDS:
            self._last_line = self._clock()
            print(f"{self.done} of {self.total} images, {self._rest()}", file=self._stream, flush=True)

    @property
    def rate(self) -> float:
        """Images/s over the last minute."""
        (start, before), (_, after) = self._history[0], self._history[-1]
        elapsed = self._clock() - start
        return (after - before) / elapsed if elapsed > 0 else 0.0

    @property
    def rate_overall(self) -> float:
        """Images/s from when the first one was given to a worker until the last one came back."""
        elapsed = self._history[-1][0] - self._first_given if self._first_given is not None else 0.0
        return self.done / elapsed if elapsed > 0 else 0.0

    def _rest(self) -> str:
        if self.done == 0:
            return "starting"
        rate = self.rate
        left = format_duration((self.total - self.done) / rate) if rate > 0 else "unknown"
        return f"{rate:.2f} images/s, {left} left, {self.failed} failed"


def format_duration(seconds: float) -> str:
    """Return seconds as text with at most two units: "41 s", "3 min 20 s", "5 h 12 min", "2 d 3 h"."""
    total = max(round(seconds), 0)
    for size, unit, part_size, part_unit in ((86400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s")):
        if total >= size:
            rest = total % size // part_size
            return f"{total // size} {unit}" + (f" {rest} {part_unit}" if rest else "")
    return f"{total} s"
