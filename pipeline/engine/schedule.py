"""Which worker gets which batch, and what becomes of batches whose worker died. Knows neither Ray nor files.

- A worker has at most `in_flight` batches, so that it prepares one while it computes another.
- Of a worker that died, each batch in flight is a suspect. A suspect runs with nothing else on its worker, so that a
  death blames the right one.
- A suspect of several images is tried again as it is, because images that share a batch of the detector share the last
  bits of their scores: a worker that was killed from outside changes no row. Only after `WHOLE_ATTEMPTS` deaths of its
  own is it split into single images.
- A single image is given up after `attempts` deaths; its neighbours were never blamed for it.
"""

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from pipeline.sources import ImageRef

WHOLE_ATTEMPTS = 2
"""Deaths of its own after which a batch of several images is split."""


def split_batches(refs: Iterable[ImageRef], size: int) -> Iterator["Batch"]:
    """Yield batches of consecutive images; the last one may be smaller.

    Args:
        refs: May be empty.
        size: Images in a batch, at least 1.
    """
    part: list[ImageRef] = []
    for ref in refs:
        part.append(ref)
        if len(part) == size:
            yield Batch(tuple(part))
            part = []
    if part:
        yield Batch(tuple(part))


@dataclass(frozen=True)
class Batch:
    """A unit of work.

    Attributes:
        refs: Its images, at least one.
        deaths: How often a worker died on exactly this batch alone.
        suspect: It was in flight when a worker died.
    """

    refs: tuple[ImageRef, ...]
    deaths: int = 0
    suspect: bool = False


@dataclass
class _Worker:
    batches: list[Batch] = field(default_factory=list)

    @property
    def has_suspect(self) -> bool:
        return any(batch.suspect for batch in self.batches)


class Schedule:
    """The queue of one run.

    Args:
        batches: Taken from lazily, one when a worker has room; None says that there is none just now.
        in_flight: Most batches at a worker.
        attempts: Deaths on a single image before it is given up.
    """

    def __init__(self, batches: Iterable[Batch | None], in_flight: int = 2, attempts: int = 3) -> None:
        self._fresh = iter(batches)
        self._suspects: deque[Batch] = deque()
        self._workers: dict[int, _Worker] = {}
        self._in_flight = in_flight
        self._attempts = attempts
        self._exhausted = False
        self._stopped = False

    def add_worker(self, worker: int) -> None:
        """Let a worker take part; it has no batches yet."""
        self._workers[worker] = _Worker()

    def stop(self) -> None:
        """Give out nothing more; what is in flight may still be finished."""
        self._stopped = True

    @property
    def workers(self) -> tuple[int, ...]:
        """The workers that take part."""
        return tuple(self._workers)

    @property
    def pending(self) -> int:
        """Batches in flight."""
        return sum(len(worker.batches) for worker in self._workers.values())

    def take(self, worker: int) -> Batch | None:
        """Return the next batch for a worker, or None when it should get none now.

        Suspects go first, each to a worker without batches, which then gets nothing else until it is done.
        """
        state = self._workers[worker]
        if self._stopped or state.has_suspect or len(state.batches) >= self._in_flight:
            return None
        if self._suspects:
            if state.batches:
                return None
            batch = self._suspects.popleft()
        else:
            try:
                fresh = next(self._fresh)
            except StopIteration:
                self._exhausted = True
                return None
            if fresh is None:
                return None
            batch = fresh
        state.batches.append(batch)
        return batch

    def finish(self, worker: int, batch: Batch) -> None:
        """Note that a batch was committed."""
        self._workers[worker].batches.remove(batch)

    def lose_worker(self, worker: int) -> list[Batch]:
        """Take a dead worker out and return the batches that it had; the caller says what becomes of each.

        For each, look first whether its shard was committed; if it was not, call `suspect`.
        """
        return self._workers.pop(worker).batches

    def suspect(self, batch: Batch, alone: bool, final: bool = False) -> Batch | None:
        """Queue a lost batch again.

        Args:
            batch: As `lose_worker` returned it.
            alone: Nothing else was in flight at its worker, so the death is its own.
            final: One such death is enough, because what it died of would come again.

        Returns:
            The batch when it is to be given up: a single image whose worker died too often. Else None.
        """
        deaths = batch.deaths + (1 if alone else 0)
        if len(batch.refs) > 1:
            if deaths >= (1 if final else WHOLE_ATTEMPTS):
                self._suspects.extend(Batch((ref,), suspect=True) for ref in batch.refs)
            else:
                self._suspects.append(Batch(batch.refs, deaths, suspect=True))
            return None
        if deaths >= (1 if final else self._attempts):
            return batch
        self._suspects.append(Batch(batch.refs, deaths, suspect=True))
        return None

    @property
    def finished(self) -> bool:
        """Nothing is in flight and nothing is left to give out, or giving out was stopped."""
        if self.pending:
            return False
        return self._stopped or (self._exhausted and not self._suspects)

    @property
    def stopped(self) -> bool:
        """`stop` was called."""
        return self._stopped
