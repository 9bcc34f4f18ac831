"""Decoding ahead: in order, within its room, and without waiting for ever."""

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from models.interfaces import Image
from pipeline.decoding import DecodeAhead, Room


class Decoder:
    """Images of as many bytes as their item says; an item below 0 has none. Remembers what is decoded and not read."""

    def __init__(self) -> None:
        self.started: list[int] = []
        self.lock = threading.Lock()

    def measure(self, item: int) -> int:
        return max(item, 0)

    def decode(self, item: int) -> Image | None:
        with self.lock:
            self.started.append(item)
        return np.zeros((1, item, 1), np.uint8) if item >= 0 else None


@pytest.mark.timeout(20)
@pytest.mark.parametrize("items", [[], [5], [-1], [3, 99, -1, 4, 98, 97, 2], list(range(40))])
@pytest.mark.parametrize("room", [Room(1, 1, 1), Room(4, 20, 50), Room(4, 1000, 1000)])
def test_all_come_in_order(items: list[int], room: Room) -> None:
    decoder = Decoder()
    with ThreadPoolExecutor(2) as threads:
        read = [*DecodeAhead(items, decoder.measure, decoder.decode, threads, room)]
    assert [item for item, _ in read] == items
    assert [image.size if image is not None else -1 for _, image in read] == items


@pytest.mark.timeout(20)
def test_no_more_is_decoded_than_there_is_room_for() -> None:
    decoder = Decoder()
    items = [10, 10, 10, 10, 60, 10, 80, 10, 10]
    with ThreadPoolExecutor(1) as threads:
        ahead = iter(DecodeAhead(items, decoder.measure, decoder.decode, threads, Room(3, 25, 50)))
        seen = []
        for item, _ in ahead:
            threads.submit(int).result()  # what was started before has now been decoded
            threads.submit(int).result()
            seen.append((item, list(decoder.started[len(seen) + 1 :])))
    assert [item for item, _ in seen] == items
    for item, waiting in seen:
        assert not waiting or item + sum(waiting) <= 25
        assert not waiting or max(waiting) <= 50, "a large image waits until nothing else is held"


@pytest.mark.timeout(20)
def test_two_share_their_threads_while_one_is_not_read() -> None:
    decoder = Decoder()
    with ThreadPoolExecutor(2) as threads:
        room = Room(4, 30, 20)
        first = DecodeAhead([10] * 9, decoder.measure, decoder.decode, threads, room)
        second = DecodeAhead([25] * 9, decoder.measure, decoder.decode, threads, room)
        third = DecodeAhead([15] * 9, decoder.measure, decoder.decode, threads, room)
        assert [len([*ahead]) for ahead in (first, second)] == [9, 9]
        third.close()
