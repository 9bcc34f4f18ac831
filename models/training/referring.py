"""Referring expressions: phrases of a small grammar that each name one object of a scene."""

from collections import defaultdict
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from models.training.scene_fills import COLOURS
from models.training.scene_shapes import SHAPES

FloatArray = npt.NDArray[np.float32]

WORDS: tuple[str, ...] = (
    *COLOURS,
    *SHAPES,
    *("the", "shape", "of", "left", "right", "above", "below"),
    *("leftmost", "rightmost", "topmost", "bottommost"),
    *("large", "small", "largest", "smallest"),
)

SIZE_RATIO = 1.4
EXTREME_RATIO = 1.2
RELATION_MARGIN = 0.1
ORDER_MARGIN = 0.04

# Axis of the box centre, and the sign that points the word's way (y runs downwards).
_RELATIONS = (("left of", 0, -1), ("right of", 0, 1), ("above", 1, -1), ("below", 1, 1))
_ENDS = (("leftmost", 0, -1), ("rightmost", 0, 1), ("topmost", 1, -1), ("bottommost", 1, 1))
_MIRROR = {"left": "right", "right": "left", "leftmost": "rightmost", "rightmost": "leftmost"}


@dataclass(frozen=True)
class Referring:
    """A phrase and the one object it means.

    Attributes:
        text: Words of WORDS, lower case, separated by single spaces.
        object_index: Index into the scene's objects.
    """

    text: str
    object_index: int


def mirror_expression(text: str) -> str:
    """Swap left and right in a phrase, as a horizontal flip of its image does.

    Args:
        text: Any phrase, words separated by spaces.

    Returns:
        The phrase that holds in the flipped image.
    """
    return " ".join(_MIRROR.get(word, word) for word in text.split(" "))


def _winner(values: FloatArray, ratio: float) -> int | None:
    """Index of the value that is at least ratio times every other; None where there is none."""
    first = int(np.argmax(values))
    rest = np.delete(values, first)
    return first if rest.size and values[first] >= ratio * rest.max() else None


def _sized(members: list[int], extents: FloatArray, areas: FloatArray, ratio: float) -> tuple[int | None, int | None]:
    """Largest and smallest of the members, where box extent and area both say so clearly."""
    found: list[int | None] = []
    for sign in (1, -1):
        winner = _winner(extents[members] ** sign, ratio)
        agreed = winner is not None and winner == _winner(areas[members] ** sign, ratio)
        found.append(members[winner] if winner is not None and agreed else None)
    return found[0], found[1]


def _ends(members: list[int], centres: FloatArray, margin_px: float) -> list[tuple[str, int]]:
    found = []
    for word, axis, sign in _ENDS:
        along = centres[members, axis] * sign
        first = int(np.argmax(along))
        if along[first] - np.delete(along, first).max() >= margin_px:
            found.append((word, members[first]))
    return found


def _relations(
    head: str, members: list[int], singles: dict[str, int], centres: FloatArray, margin_px: float
) -> list[Referring]:
    """Relations to a unique anchor that hold clearly for one member and not at all for the rest."""
    anchors = [anchor for anchor in singles if anchor != head]
    if not anchors:
        return []
    places = centres[[singles[anchor] for anchor in anchors]]
    offsets = centres[members][:, None, :] - places[None, :, :]
    columns = np.arange(len(anchors))
    found = []
    for words, axis, sign in _RELATIONS:
        along, across = offsets[:, :, axis] * sign, np.abs(offsets[:, :, 1 - axis])
        first = along.argmax(axis=0)
        reach = np.maximum(margin_px, 0.5 * across[first, columns])
        clear = (along[first, columns] >= reach) & ((along > 0).sum(axis=0) == 1)
        for column in np.flatnonzero(clear):
            text = f"the {head} {words} the {anchors[column]}"
            found.append(Referring(text, members[first[column]]))
    return found


def _candidates(
    labels: tuple[str, ...], boxes_xyxy: FloatArray, areas: FloatArray, side_px: int
) -> dict[str, list[Referring]]:
    pairs: dict[str, list[int]] = defaultdict(list)
    words: dict[str, list[int]] = defaultdict(list)
    for index, label in enumerate(labels):
        pairs[label].append(index)
        for word in label.split(" "):
            words[word].append(index)
    singles = {label: members[0] for label, members in pairs.items() if len(members) == 1}
    centres = ((boxes_xyxy[:, :2] + boxes_xyxy[:, 2:]) / 2).astype(np.float32)
    extents = (boxes_xyxy[:, 2:] - boxes_xyxy[:, :2]).max(axis=1)

    found: dict[str, list[Referring]] = defaultdict(list)
    for label, members in pairs.items():
        many = len(members) > 1
        found["relation of many" if many else "relation of one"] += _relations(
            label, members, singles, centres, RELATION_MARGIN * side_px
        )
        if not many:
            found["pair"].append(Referring(f"the {label}", members[0]))
            continue
        for word, winner in _ends(members, centres, ORDER_MARGIN * side_px):
            found["end"].append(Referring(f"the {word} {label}", winner))
        sized = _sized(members, extents, areas, SIZE_RATIO)
        for word, sized_winner in zip(("large", "small"), sized, strict=True):
            if sized_winner is not None:
                found["size"].append(Referring(f"the {word} {label}", sized_winner))
    for word, members in words.items():
        if len(members) == 1:
            noun = word if word in SHAPES else f"{word} shape"
            found["word"].append(Referring(f"the {noun}", members[0]))
    if len(labels) > 1:
        sized = _sized(list(range(len(labels))), extents, areas, EXTREME_RATIO)
        for word, sized_winner in zip(("largest", "smallest"), sized, strict=True):
            if sized_winner is not None:
                found["extreme"].append(Referring(f"the {word} shape", sized_winner))
    return found


def refer(
    labels: tuple[str, ...],
    boxes_xyxy: FloatArray,
    areas: FloatArray,
    side_px: int,
    rng: np.random.Generator,
    limit: int = 4,
) -> tuple[Referring, ...]:
    """Choose phrases that each name exactly one object, of as many kinds as there are.

    Position is that of the box centre; size is the longer side of the box, and the visible area
    must agree. A relation holds by RELATION_MARGIN of the side for its object and is false for
    every other object of the same name; its anchor is the only one of its name.

    Args:
        labels: "colour shape" of each of N objects; N may be 0.
        boxes_xyxy: (N, 4) float32 pixels, tight around what is visible.
        areas: (N,) float32, visible pixels, all positive.
        side_px: Side of the square image, pixels.
        rng: Source of chance.
        limit: At most so many phrases, 0 or more.

    Returns:
        Phrases without repetition; () where there are no objects.

    Raises:
        ValueError: boxes_xyxy is not (N, 4) or areas is not (N,).
    """
    if boxes_xyxy.shape != (len(labels), 4) or areas.shape != (len(labels),):
        raise ValueError(
            f"{len(labels)} labels need boxes_xyxy ({len(labels)}, 4) and areas "
            f"({len(labels)},), not {boxes_xyxy.shape} and {areas.shape}"
        )
    if not labels:
        return ()
    found = _candidates(labels, boxes_xyxy, areas, side_px)
    kinds = [kind for kind, phrases in found.items() if phrases]
    order = [kinds[index] for index in rng.permutation(len(kinds))]
    chosen: list[Referring] = []
    while order and len(chosen) < limit:
        for kind in list(order):
            phrases = found[kind]
            chosen.append(phrases.pop(int(rng.integers(len(phrases)))))
            if not phrases:
                order.remove(kind)
    return tuple(chosen[:limit])
