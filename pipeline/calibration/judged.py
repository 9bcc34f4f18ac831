"""Which boxes of an image are right, by what is known to be there."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.boxes import box_areas, pairwise_iou
from models.class_spec import normalise_prompt
from models.masks import mask_areas
from pipeline.export.objects import ExportImage
from pipeline.reviewed.changes import BoxXyxy, ReviewedImage, ReviewedObject

RIGHT_IOU = 0.5
"""Overlap with its object from which a box is right; a box that a person moved farther was wrong."""


@dataclass(frozen=True)
class KnownObject:
    """An object that is there.

    Attributes:
        class_name: In lower case with single spaces.
        box_xyxy: Pixels.
        object_id: Id of the label that it was; empty where it was none.
        crowd: A region with many: neither to be found nor wrong to find.
    """

    class_name: str
    box_xyxy: BoxXyxy
    object_id: str = ""
    crowd: bool = False


@dataclass(frozen=True)
class KnownImage:
    """All that is there in an image.

    Attributes:
        objects: In any order.
        refused: Ids of labels that a person took away.
    """

    objects: tuple[KnownObject, ...]
    refused: frozenset[str] = frozenset()


@dataclass(frozen=True)
class JudgedImage:
    """What became of the labels of an image.

    Attributes:
        rights: One a label: whether it is right; None where it does not count.
        missed: Objects that no label found, by class name.
    """

    rights: tuple[bool | None, ...]
    missed: Counter[str]


def known_from_review(state: ReviewedImage, found: Sequence[ReviewedObject]) -> KnownImage:
    """Return what a person's review says is there.

    Args:
        state: A reviewed image that was accepted.
        found: The run's own labels, which count where the review has none of its own.
    """
    objects = state.objects if state.objects is not None else found
    kept = [each for each in objects if not each.is_rejected]
    refused = {each.object_id for each in state.removed} | {each.object_id for each in objects if each.is_rejected}
    return KnownImage(
        tuple(KnownObject(normalise_prompt(each.class_name), each.box_xyxy, each.object_id) for each in kept),
        frozenset(refused),
    )


def known_from_truth(image: ExportImage) -> KnownImage:
    """Return what a COCO file says is there; whose label an object was does not count."""
    return KnownImage(
        tuple(KnownObject(normalise_prompt(each.class_name), each.box_xyxy, crowd=each.crowd) for each in image.objects)
    )


def judge_image(found: Sequence[ReviewedObject], known: KnownImage) -> JudgedImage:
    """Say of each label whether it is right.

    A label that the review knows by its id is right where the person kept it with its class and box; one that a person
    took away is wrong. Any other is right where an object of its class that nobody else has is under it; of several,
    the label with the highest score has it.

    Args:
        found: The run's labels; N may be 0.
        known: What is there.
    """
    rights: list[bool | None] = [None] * len(found)
    names = [normalise_prompt(label.class_name) for label in found]
    there = [each for each in known.objects if not each.crowd]
    overlaps = pairwise_iou(_boxes([label.box_xyxy for label in found]), _boxes([each.box_xyxy for each in there]))
    own = {each.object_id: place for place, each in enumerate(there) if each.object_id}
    free = np.ones(len(there), np.bool_)
    strangers = []
    for row, label in enumerate(found):
        place = own.get(label.object_id)
        if place is not None:
            rights[row] = names[row] == there[place].class_name and bool(overlaps[row, place] >= RIGHT_IOU)
            free[place] = not rights[row]
        elif label.object_id in known.refused:
            rights[row] = False
        else:
            strangers.append(row)
    for row in sorted(strangers, key=lambda row: -(found[row].score or 0.0)):
        if _has_no_pixels(found[row]):
            continue
        same = np.array([each.class_name == names[row] for each in there], np.bool_)
        fits = np.where(free & same, overlaps[row], 0.0)
        if len(fits) and fits.max() >= RIGHT_IOU:
            free[int(fits.argmax())] = False
            rights[row] = True
        elif not _on_crowd(found[row].box_xyxy, names[row], known):
            rights[row] = False
    return JudgedImage(tuple(rights), Counter(each.class_name for each, left in zip(there, free, strict=True) if left))


def _boxes(boxes: Sequence[BoxXyxy]) -> NDArray[np.float32]:
    return np.array(boxes, np.float32).reshape(-1, 4)


def _has_no_pixels(label: ReviewedObject) -> bool:
    """Tell whether exports leave a label out, so that its absence from a truth says nothing."""
    return label.mask is not None and int(mask_areas([label.mask])[0]) == 0


def _on_crowd(box: BoxXyxy, name: str, known: KnownImage) -> bool:
    """Tell whether half of a box lies in a crowd of its class.

    Source: pycocotools, mask.iou: over a crowd, the overlap is the share of the box that lies in it.
    """
    crowds = _boxes([each.box_xyxy for each in known.objects if each.crowd and each.class_name == name])
    if not len(crowds):
        return False
    one = _boxes([box])
    corners = np.concatenate([np.maximum(one[:, :2], crowds[:, :2]), np.minimum(one[:, 2:], crowds[:, 2:])], axis=1)
    inside = np.prod(np.maximum(corners[:, 2:] - corners[:, :2], 0), axis=1)
    return bool((inside >= RIGHT_IOU * np.maximum(box_areas(one), 1e-9)).any())
