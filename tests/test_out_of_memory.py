"""Fewer at once when memory runs out."""

import logging
from collections.abc import Sequence

import pytest
import torch

from models.out_of_memory import Halving, is_out_of_memory


class Limited:
    """Doubles numbers, at most so many at once; remembers the sizes it was asked for."""

    def __init__(self, room: int) -> None:
        self.room = room
        self.sizes: list[int] = []

    def __call__(self, part: Sequence[int]) -> list[int]:
        self.sizes.append(len(part))
        if len(part) > self.room:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 3 GiB")
        return [2 * value for value in part]


@pytest.mark.parametrize("count", [0, 1, 7, 40])
@pytest.mark.parametrize("room", [1, 3, 16])
def test_all_are_done_in_order(count: int, room: int) -> None:
    run = Limited(room)
    results = [value for part in Halving(16, "boxes")(run, range(count)) for value in part]
    assert results == [2 * value for value in range(count)]


def test_it_is_noted_and_stays_smaller(caplog: pytest.LogCaptureFixture) -> None:
    run, halving = Limited(3), Halving(8, "boxes")
    with caplog.at_level(logging.WARNING):
        list(halving(run, range(8)))
    assert run.sizes == [8, 4, 2, 2, 2, 2]
    assert [record.getMessage() for record in caplog.records] == [
        "out of memory at 8 boxes at once: going on with 4",
        "out of memory at 4 boxes at once: going on with 2",
    ]
    list(halving(run, range(4)))
    assert run.sizes[6:] == [2, 2]


def test_one_that_does_not_fit_is_given_up() -> None:
    with pytest.raises(torch.OutOfMemoryError):
        list(Halving(4, "boxes")(Limited(0), range(4)))


def test_other_errors_are_not_retried() -> None:
    def run(part: Sequence[int]) -> int:
        raise RuntimeError("shapes do not fit")

    with pytest.raises(RuntimeError, match="shapes"):
        list(Halving(4, "boxes")(run, range(4)))
    assert not is_out_of_memory(RuntimeError("shapes do not fit"))
    assert is_out_of_memory(RuntimeError("[enforce fail] DefaultCPUAllocator: not enough memory: you tried"))
    with pytest.raises(ValueError, match="boxes_per_chunk must be at least 1"):
        Halving(0, "boxes")
