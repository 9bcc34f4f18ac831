"""What a worker process does with a batch. Knows no Ray: `actors` runs it as an actor, tests call it."""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from pipeline.annotator import Annotator
from pipeline.engine.deaths import Watchdog
from pipeline.engine.profile import WAIT, WRITE, WorkerClock
from pipeline.sources import ImageRef
from pipeline.store.manifest import ShardEntry
from pipeline.store.shards import write_shard


@dataclass(frozen=True)
class Task:
    """What the batches of one call have in common.

    Attributes:
        root: Folder that the images' paths start from.
        run_folder: Where shards go.
        fingerprint: Of the run.
        image_timeout: Seconds without progress on any image after which a worker ends itself; None for never.
    """

    root: str
    run_folder: Path
    fingerprint: str
    image_timeout: float | None = None


class Worker:
    """One annotator in a process of its own; each batch ends as a shard.

    Args:
        build: Makes the annotator; called in this process at the first use.
        threads: CPU threads of the models.
        name: Of this worker, for the file that says how it died (`pipeline.engine.deaths`).
    """

    def __init__(self, build: Callable[[], Annotator], threads: int, name: str = "worker") -> None:
        # Read by OpenMP and MKL when torch is first imported, which is after this.
        os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = str(threads)
        self._build = build
        self._annotator: Annotator | None = None
        self._watchdog = Watchdog(name)
        self._clock = WorkerClock()

    def prepare(self) -> int:
        """Load the models; returns the process id."""
        if self._annotator is None:
            self._annotator = self._build()
            self._annotator.watch = self._watchdog.progress
            self._clock = WorkerClock()
        return os.getpid()

    def annotate(self, refs: tuple[ImageRef, ...], task: Task) -> ShardEntry | None:
        """Label a batch and commit it as a shard; None when it was stopped before the first image."""
        if self._annotator is None:
            raise RuntimeError("annotate was called before prepare")
        with self._clock.working(), self._watchdog.watching(task.run_folder, task.image_timeout):
            done = self._annotator(refs, task.root)
            if not done.records:
                return None
            start = time.perf_counter()
            entry = write_shard(task.run_folder, done.records, done.timings, task.fingerprint, done.drops)
            spent = {WAIT: round(done.waited, 4), WRITE: round(time.perf_counter() - start, 4)}
        return replace(entry, seconds={**entry.seconds, **spent, **self._clock.take()})

    def cpu_seconds(self) -> float:
        """Return the CPU time that this process has used."""
        return time.process_time()

    def stop(self) -> None:
        """Let running batches end early with what they have."""
        if self._annotator is not None:
            self._annotator.stop()
