"""Which images a run has, as sorted numbers: 20 bytes an image, so that ten million fit beside everything else."""

import hashlib
import sys
from array import array
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.store.manifest import EntryIds, ShardEntry, read_manifest_ids

Ids = NDArray[np.uint64]
_ENCODING = (sys.getfilesystemencoding(), sys.getfilesystemencodeerrors())


def ids_to_numbers(ids: Iterable[str]) -> Ids:
    """Return image ids as numbers; (N,) uint64, N may be 0."""
    return np.array([int(image_id, 16) for image_id in ids], np.uint64)


def paths_to_numbers(paths: Sequence[str]) -> Ids:
    """Return the ids of paths (`path_to_image_id`) as numbers; (N,) uint64, N may be 0."""
    digests = [hashlib.sha256(path.encode(*_ENCODING)).digest()[:8] for path in paths]
    return np.frombuffer(b"".join(digests), ">u8").astype(np.uint64)


def number_to_id(number: int) -> str:
    """Return the image id of a number."""
    return f"{number:016x}"


class IdIndex:
    """The images of a run at one moment: id, stamp, shard.

    Args:
        entries: Of the run, whole or their ids, in the order in which they were written; read once. One counts until
            a later one has its shard's name or replaces it. An id that is in two of them counts once.

    Attributes:
        ids: (N,) uint64, sorted, each once; N may be 0.
        stamps: (N,) uint64, of the image files (`FileState.stamp`); 0 where unknown.
        shards: (N,) int32, the rank of each image's entry.
        names: Shard of each entry.
    """

    def __init__(self, entries: Iterable[ShardEntry | EntryIds]) -> None:
        ids, stamps = bytearray(), bytearray()
        sizes = array("i")
        ranks: dict[str, int] = {}
        for rank, entry in enumerate(entries):
            for name in (*entry.replaces, entry.shard):
                ranks.pop(name, None)
            if entry.shard:
                ranks[entry.shard] = rank
            ids += bytes.fromhex(entry.ok + entry.failed)
            stamps += bytes.fromhex(entry.stamps) if entry.stamps else bytes(8 * entry.rows)
            sizes.append(entry.rows)
        self.names = list(ranks)
        counting, rows = np.zeros(len(sizes), bool), np.array(sizes, np.int32)
        counting[list(ranks.values())] = True
        del ranks
        kept = np.repeat(counting, rows)
        numbers = np.frombuffer(ids, ">u8")[kept].astype(np.uint64)
        del ids
        order = np.argsort(numbers, kind="stable").astype(np.int32)
        self.ids: Ids = numbers[order]
        del numbers
        self.stamps: Ids = np.frombuffer(stamps, ">u8")[kept][order].astype(np.uint64)
        del stamps
        self.shards = np.repeat(np.arange(len(self.names), dtype=np.int32), rows[counting])[order]
        if len(self.ids) and (again := self.ids[1:] == self.ids[:-1]).any():
            first = np.concatenate([[True], ~again])
            self.ids, self.stamps, self.shards = self.ids[first], self.stamps[first], self.shards[first]

    @classmethod
    def read(cls, folder: Path) -> "IdIndex":
        """Read the index of a run from its manifest."""
        return cls(read_manifest_ids(folder))

    def __len__(self) -> int:
        return len(self.ids)

    def find(self, numbers: Ids) -> NDArray[np.int64]:
        """Return where each id stands; (N,), -1 for an id that the run does not have."""
        if not len(self.ids):
            return np.full(len(numbers), -1)
        order = np.argsort(numbers)  # in this order they are found twice as fast among millions
        places = np.empty(len(numbers), np.int64)
        places[order] = np.searchsorted(self.ids, numbers[order])
        places = np.minimum(places, len(self.ids) - 1)
        return np.where(self.ids[places] == numbers, places, -1)


class IdSet:
    """A growing set of ids in little memory: sorted blocks, merged when they are of similar length."""

    def __init__(self) -> None:
        self._blocks: list[Ids] = []

    def __len__(self) -> int:
        return sum(map(len, self._blocks))

    def add(self, numbers: Ids) -> NDArray[np.bool_]:
        """Add ids; returns (N,) bool, which of them are new (of equal ones the first)."""
        each, first = np.unique(numbers, return_index=True)
        absent = np.ones(len(each), bool)
        for block in self._blocks:
            absent &= block[np.minimum(np.searchsorted(block, each), len(block) - 1)] != each
        new = np.zeros(len(numbers), bool)
        new[first[absent]] = True
        if absent.any():
            self._blocks.append(each[absent])
            while len(self._blocks) > 1 and len(self._blocks[-1]) * 2 > len(self._blocks[-2]):
                last = self._blocks.pop()
                self._blocks[-1] = np.sort(np.concatenate([self._blocks[-1], last]))
        return new
