"""Near-duplicate images: a perceptual hash of each file, and the hashes that differ in few bits.

The hash is a difference hash in two directions: the image is shrunk to 9 × 9 grey pixels; 64 bits tell where grey
grows to the right, 64 bits where it grows downwards. Other compression, size, grey or a little light change few of
them; a crop by more than about two per cent, a turn or a mirror image change many and are not found.

Source: the difference hash of Neal Krawetz, "Kind of Like That", 2013, taken in both directions.
"""

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from models.interfaces import Image as RgbImage
from pipeline.images import UnreadableImageError, prepare_decoding, read_image
from pipeline.splits.groups import connect

BITS = 128
DEFAULT_DISTANCE = 10
"""Bits in which near-duplicates may differ: of photos, unrelated ones differ in 30 and more, and a file that is
compressed anew, resized, grey or a third brighter mostly in fewer than 10."""

_SIDE = 9
_CELLS = 1 << 21
"""Pairs that are compared at a time."""


@dataclass(frozen=True)
class HashedFiles:
    """The hashes of the files that can be read.

    Attributes:
        hashes: (N, 2) uint64.
        rows: (N,) index of each among the files asked for.
        unread: (path, reason) of the others.
    """

    hashes: NDArray[np.uint64]
    rows: NDArray[np.int64]
    unread: tuple[tuple[str, str], ...]


def perceptual_hash(image: RgbImage) -> NDArray[np.uint64]:
    """Return the hash of an image; (2,) uint64."""
    small = Image.fromarray(image).convert("L").resize((_SIDE, _SIDE), Image.Resampling.LANCZOS)
    grey = np.asarray(small, dtype=np.int16)
    right = grey[:-1, 1:] > grey[:-1, :-1]
    down = grey[1:, :-1] > grey[:-1, :-1]
    return np.packbits(np.stack([right, down])).view(">u8").astype(np.uint64)


def hash_files(files: Sequence[tuple[str, Path]]) -> HashedFiles:
    """Hash image files, decoding as many at a time as there are cores.

    Args:
        files: (path for messages, file).
    """
    prepare_decoding()

    def hash_one(file: tuple[str, Path]) -> NDArray[np.uint64] | str:
        try:
            return perceptual_hash(read_image(file[1]))
        except UnreadableImageError as error:
            return str(error)

    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        found = list(pool.map(hash_one, files))
    rows = [row for row, result in enumerate(found) if not isinstance(result, str)]
    hashes = np.array([found[row] for row in rows], np.uint64).reshape(-1, 2)
    unread = tuple((files[row][0], reason) for row, reason in enumerate(found) if isinstance(reason, str))
    return HashedFiles(hashes, np.array(rows, np.int64), unread)


def near_links(hashes: NDArray[np.uint64], distance: int) -> NDArray[np.int64]:
    """Return links that connect all near-duplicates with each other, directly or through others.

    Two hashes that differ in at most d of 128 bits are the same in at least one of d + 1 bands of bits, so only
    hashes that share a band are compared.

    Args:
        hashes: (N, 2) uint64; N may be 0.
        distance: Most bits in which near-duplicates differ.

    Returns:
        (M, 2) indices; not all pairs, but enough of them to connect the same images.
    """
    unique, firsts, inverse = np.unique(hashes, axis=0, return_index=True, return_inverse=True)
    found = [np.stack([firsts[inverse], np.arange(len(hashes))], axis=1)]
    for band in range(distance + 1 if distance else 0):
        found += [firsts[links] for links in _links_of_band(unique, band, distance)]
    links = np.concatenate(found).astype(np.int64)
    return np.asarray(links[links[:, 0] != links[:, 1]])


def _links_of_band(hashes: NDArray[np.uint64], band: int, distance: int) -> Iterator[NDArray[np.int64]]:
    """Yield links between hashes with the same bits in a band: every (distance + 1)-th bit from `band` on."""
    mask = np.zeros(BITS, np.uint8)
    mask[band :: distance + 1] = 1
    masked = hashes & np.packbits(mask).view(">u8").astype(np.uint64)
    order = np.lexsort((masked[:, 1], masked[:, 0]))
    starts = np.flatnonzero(np.r_[True, (masked[order][1:] != masked[order][:-1]).any(axis=1)])
    ends = np.r_[starts[1:], len(order)]
    several = ends - starts > 1
    for start, end in zip(starts[several].tolist(), ends[several].tolist(), strict=True):
        members = order[start:end]
        for rows in _blocks(len(members), len(members)):
            left, right = np.nonzero(bit_distances(hashes[members[rows]], hashes[members]) <= distance)
            if len(left) == rows.stop - rows.start:
                continue  # each is near itself alone
            linked = connect(len(members), np.stack([left + rows.start, right], axis=1))
            representatives = np.full(len(members), len(members))
            np.minimum.at(representatives, linked, np.arange(len(members)))
            yield np.stack([members[representatives[linked]], members], axis=1)


def nearest(hashes: NDArray[np.uint64], others: NDArray[np.uint64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return, for each hash, the index of the nearest of the others and in how many bits it differs.

    Args:
        hashes: (N, 2) uint64; N may be 0.
        others: (M, 2) uint64; M is at least 1.

    Returns:
        (N,) and (N,) int64; of several that are equally near, the first.
    """
    indices, distances = np.zeros(len(hashes), np.int64), np.zeros(len(hashes), np.int64)
    for rows in _blocks(len(hashes), len(others)):
        bits = bit_distances(hashes[rows], others)
        indices[rows] = bits.argmin(axis=1)
        distances[rows] = bits.min(axis=1)
    return indices, distances


def bit_distances(hashes: NDArray[np.uint64], others: NDArray[np.uint64]) -> NDArray[np.uint8]:
    """Return in how many bits each pair of hashes differs; (N, 2) and (M, 2) uint64 to (N, M)."""
    first, second = (np.bitwise_count(hashes[:, None, word] ^ others[None, :, word]) for word in (0, 1))
    return np.asarray(first + second, dtype=np.uint8)


def _blocks(rows: int, columns: int) -> Iterator[slice]:
    """Cut rows into blocks of which each has about _CELLS cells."""
    step = max(_CELLS // max(columns, 1), 1)
    for start in range(0, rows, step):
        yield slice(start, min(start + step, rows))
