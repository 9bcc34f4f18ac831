"""What to do when a device is out of memory: fewer things at once, and a note in the log. Imports torch when used."""

import logging
from collections.abc import Callable, Iterator
from typing import Any, Protocol, Self, TypeVar


class Rows(Protocol):
    """What can be cut into parts: a list, a range, an array, a tensor."""

    def __len__(self) -> int:
        """Return how many rows there are."""

    def __getitem__(self, part: Any, /) -> Self | Any:
        """Return the rows of a slice."""


Things = TypeVar("Things", bound=Rows)
Result = TypeVar("Result")

_LOG = logging.getLogger(__name__)


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether an exception says that a device, or this machine for torch, has no memory left."""
    import torch

    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and "not enough memory" in str(error)


def free_device_memory() -> None:
    """Give memory back that torch only keeps for later, so that a smaller attempt finds it in one piece."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.empty_cache()


class Halving:
    """Runs something on many things, some at once, and on fewer at once when memory runs out.

    The number that worked stays for later calls.

    Args:
        most: Things at once, at least 1.
        what: How the note calls them, as "boxes".

    Raises:
        ValueError: most is not positive.
    """

    def __init__(self, most: int, what: str) -> None:
        if most < 1:
            raise ValueError(f"{what}_per_chunk must be at least 1, not {most}")
        self.most = most
        self._what = what

    def __call__(self, run: Callable[[Things], Result], things: Things) -> Iterator[Result]:
        """Yield what `run` returns for consecutive parts of the things.

        Args:
            run: Called with at most `most` things.
            things: In order; may be empty.

        Raises:
            torch.OutOfMemoryError: Memory ran out at one thing. (MemoryError and RuntimeError likewise.)
        """
        start = 0
        while start < len(things):
            result = self._attempt(run, things[start : start + self.most])
            if result is not None:
                yield result[0]
                start += result[1]

    def _attempt(self, run: Callable[[Things], Result], part: Things) -> tuple[Result, int] | None:
        """Return the result and how many things it is of, or None after halving; the attempt's frames are gone."""
        try:
            return run(part), len(part)
        except (RuntimeError, MemoryError) as error:
            if len(part) == 1 or not is_out_of_memory(error):
                raise
        self.most = max(len(part) // 2, 1)
        _LOG.warning("out of memory at %d %s at once: going on with %d", len(part), self._what, self.most)
        free_device_memory()
        return None
