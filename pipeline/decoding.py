"""Decoding images ahead of the models, in threads, without holding more of them than fit."""

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from typing import Generic, TypeVar

from models.interfaces import Image

Item = TypeVar("Item")


@dataclass(frozen=True)
class Room:
    """How much may be decoded ahead.

    Attributes:
        items: Images that are decoded or being decoded, the one that is read among them.
        size: Likewise in bytes.
        alone: An image of more bytes is only decoded once nothing else is held.
    """

    items: int
    size: int
    alone: int


class DecodeAhead(Generic[Item]):
    """Gives items with their decoded images, in order; the first ones start to be decoded at once.

    An image counts as held until the next item is asked for. No thread ever waits for room, so that several of these
    may share their threads. `close` it if it is not read to the end.

    Args:
        items: What to decode.
        measure: Returns the bytes that an item's image will have, quickly; called in a thread.
        decode: Returns an item's image, or None where it has none; called in a thread.
        threads: Where to do both.
        room: What is held at most.
        measurers: Where to measure, when that takes long; None means in `threads`.

    Attributes:
        waited: Seconds for which the reader waited.
    """

    def __init__(
        self,
        items: Sequence[Item],
        measure: Callable[[Item], int],
        decode: Callable[[Item], Image | None],
        threads: Executor,
        room: Room,
        measurers: Executor | None = None,
    ) -> None:
        self._measure = measure
        self._decode = decode
        self._threads = threads
        self._measurers = measurers or threads
        self.waited = 0.0
        self._room = room
        self._held = 0
        self._remaining = iter(items)
        self._measured: deque[tuple[Item, Future[int]]] = deque()
        self._waiting: deque[tuple[Item, int, Future[Image | None]]] = deque()
        while self._start_next(wait=True, wanted=False):
            pass

    def _start_next(self, wait: bool, wanted: bool) -> bool:
        """Start to decode one more item if there is room; returns whether it did.

        Args:
            wait: Wait for its size if that is not known yet.
            wanted: The reader waits for it.
        """
        for _, item in zip(range(2 * self._room.items - len(self._measured)), self._remaining, strict=False):
            self._measured.append((item, self._measurers.submit(self._measure, item)))
        if not self._measured or len(self._waiting) >= self._room.items:
            return False
        item, measured = self._measured[0]
        if not (wait or wanted or measured.done()):
            return False
        size = measured.result()
        if not wanted and (size > self._room.alone or (self._held and self._held + size > self._room.size)):
            return False
        self._measured.popleft()
        self._held += size
        self._waiting.append((item, size, self._threads.submit(self._decode, item)))
        return True

    def __iter__(self) -> Iterator[tuple[Item, Image | None]]:
        while True:
            start = time.perf_counter()
            if not self._waiting and not self._start_next(wait=True, wanted=True):
                return
            item, size, future = self._waiting.popleft()
            image = future.result()
            self.waited += time.perf_counter() - start
            while self._start_next(wait=False, wanted=False):
                pass
            yield item, image
            del image, future
            self._held -= size

    def close(self) -> None:
        """Leave out what has not begun."""
        for _, measured in self._measured:
            measured.cancel()
        for _, _, future in self._waiting:
            future.cancel()
