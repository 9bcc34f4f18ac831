"""How evenly the classes lie on the sides.

A side that follows from an image alone cannot be moved to even out a class: hashing within classes would give the same
chances, and filling up by counts would move images whenever the set grows. What is free is the seed, once, before the
split is first used: `choose_seed` takes the one of SEEDS that spreads the classes best. From then on it is fixed, and
images keep their sides as with any other seed.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

SEEDS = 256
"""Seeds that `choose_seed` tries, from 0."""


def draw(keys: NDArray[np.uint64], seed: int, shares: Sequence[float]) -> NDArray[np.int64]:
    """Draw the side of each key.

    Args:
        keys: (N,) hashes.
        seed: 0 … 2⁶³ - 1.
        shares: Of each side, from 0 up, not all 0.

    Returns:
        (N,) index of the side.

    Source: splitmix64, by Sebastiano Vigna, as the mixing function.
    """
    mixed = _mix(keys ^ _mix(np.array([seed], np.uint64)))
    uniform = (mixed >> np.uint64(11)).astype(np.float64) * 2.0**-53
    bounds = np.cumsum(shares, dtype=np.float64)
    return np.searchsorted(bounds[:-1] / bounds[-1], uniform, side="right").astype(np.int64)


def _mix(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    values = values + np.uint64(0x9E3779B97F4A7C15)
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def choose_seed(classes: Sequence[tuple[str, ...]], keys: NDArray[np.uint64], shares: Sequence[float]) -> int:
    """Return the seed of SEEDS that spreads classes and images best; rare classes weigh most.

    Minimised is the sum of (found - expected)² / expected over sides and classes, in images that have the class, and
    over the sides for all images.

    Args:
        classes: Of the objects of each of N images.
        keys: (N,) hashes to draw by.
        shares: Of each side.
    """
    names = {name: number for number, name in enumerate(sorted({name for row in classes for name in row}), start=1)}
    rows = [(image, number) for image, row in enumerate(classes) for number in (0, *{names[name] for name in row})]
    image, label = np.array(rows, np.int64).T
    weights = np.asarray(shares, np.float64) / np.sum(shares)
    used = weights > 0
    expected = np.bincount(label, minlength=len(names) + 1)[:, None] * weights[None]

    def misfit(seed: int) -> float:
        side = draw(keys, seed, shares)
        places = label * len(weights) + side[image]
        found = np.bincount(places, minlength=expected.size).reshape(expected.shape)
        return float((((found - expected) ** 2)[:, used] / expected[:, used]).sum())

    return min(range(SEEDS), key=misfit)


@dataclass(frozen=True)
class ClassRow:
    """How many images of each side have a class; `name` is None for all images."""

    name: str | None
    counts: tuple[int, ...]


def count_classes(
    images: Sequence[tuple[str, tuple[str, ...]]], sides: Mapping[str, str], names: Sequence[str]
) -> list[ClassRow]:
    """Count the images of each class by side: all images first, then the classes, the rarest first.

    Args:
        images: Image id and the classes of its objects.
        sides: Image id -> side.
        names: The sides, in the order of the counts.
    """
    found: Counter[tuple[str | None, str]] = Counter()
    for image_id, classes in images:
        for name in (None, *set(classes)):
            found[name, sides[image_id]] += 1
    classes_found = sorted({name for name, _ in found if name is not None})
    rows = [ClassRow(name, tuple(found[name, side] for side in names)) for name in classes_found]
    rows.sort(key=lambda row: sum(row.counts))
    return [ClassRow(None, tuple(found[None, side] for side in names)), *rows]


def format_table(rows: Sequence[ClassRow], names: Sequence[str]) -> str:
    """Return the counts as lines with aligned columns; a class that a side lacks is marked."""
    labels = ["all images" if row.name is None else row.name for row in rows]
    width = max(map(len, ["class", *labels]))
    lines = ["  ".join(["class".ljust(width), *(name.rjust(7) for name in names)])]
    for label, row in zip(labels, rows, strict=True):
        missing = [name for name, count in zip(names, row.counts, strict=True) if count == 0]
        mark = f"  none in {', '.join(missing)}" if missing else ""
        lines.append("  ".join([label.ljust(width), *(str(count).rjust(7) for count in row.counts)]) + mark)
    return "\n".join(lines)
