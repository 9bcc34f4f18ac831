"""A person's corrections from an annotation file: what differs between it and the labels becomes changes.

Objects are the same where the file kept their `instance_id`; else where their shapes overlap, those of one class before
those of another. Only images that the file names are touched.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from models.boxes import pairwise_iou
from models.class_spec import normalise_prompt
from models.masks import mask_areas, mask_iou
from pipeline.errors import UserError
from pipeline.export.objects import ExportImage, ExportObject
from pipeline.reviewed.base import BaseLabels, read_base
from pipeline.reviewed.changes import Change, Kind, ReviewedImage, ReviewedObject, replay, take_labels
from pipeline.reviewed.diff import object_changes
from pipeline.reviewed.edited_file import read_edited
from pipeline.reviewed.layer import ReviewedLayer
from pipeline.reviewed.proposals import SAME_IOU, boxes_of
from pipeline.store.run import Run

UNCHANGED_IOU = 0.95
"""Overlap from which a shape counts as left alone, though polygons or whole pixels made it a little different."""
_EXACT_PIXELS = 0.01
_CHUNK = 200


@dataclass(frozen=True)
class FileEdits:
    """What reading a file of corrections came to.

    Attributes:
        images: Images of the file that are in the run.
        edited: Those of them in which something differs.
        unknown: Paths of images that the run does not have.
    """

    images: int
    edited: int
    unknown: tuple[str, ...]


def sync_file(run: Run, file: str | Path, layer: ReviewedLayer) -> FileEdits:
    """Write what an annotation file says otherwise than the labels into the reviewed layer.

    Args:
        run: The run, opened.
        file: COCO, CVAT's XML or Label Studio's JSON, or a folder with one of them, that a person edited in any tool.
        layer: Of the run; grows.

    Raises:
        UserError: The file is none of these, none of its images are in the run, or the layer cannot be written.
    """
    known = image_ids_by_name(run)
    edited = images = 0
    unknown: list[str] = []
    chunk: list[tuple[str, ExportImage]] = []
    for image in read_edited(file):
        image_id = find_image_id(image, known)
        if image_id is None:
            unknown.append(image.path)
            continue
        chunk.append((image_id, image))
        images += 1
        if len(chunk) == _CHUNK:
            edited += _sync_chunk(run, chunk, layer)
            chunk = []
    edited += _sync_chunk(run, chunk, layer)
    if unknown and not images:
        raise UserError(
            f"{file}: none of its {len(unknown)} images is in {run.folder} ({', '.join(unknown[:3])} …); "
            "an image's name must be its path below the run's image folder"
        )
    return FileEdits(images, edited, tuple(unknown))


def image_ids_by_name(run: Run) -> dict[str, str]:
    """Return image ids of the run by id, by path and, where only one image has it, by the path's last parts."""
    found: dict[str, str] = {}
    ends: dict[str, set[str]] = {}
    for record in run.records():
        found[record.image_id] = found[record.path] = record.image_id
        parts = record.path.split("/")
        for start in range(1, len(parts)):
            ends.setdefault("/".join(parts[start:]), set()).add(record.image_id)
    unique = {path: next(iter(ids)) for path, ids in ends.items() if len(ids) == 1}
    return unique | found


def find_image_id(image: ExportImage, known: dict[str, str]) -> str | None:
    """Return the run's id of a file's image: by its id, its path, or the end of its path."""
    parts = image.path.split("/")
    tried = [image.image_id, *("/".join(parts[start:]) for start in range(len(parts)))]
    return next((known[key] for key in tried if key in known), None)


def _sync_chunk(run: Run, chunk: Sequence[tuple[str, ExportImage]], layer: ReviewedLayer) -> int:
    base = read_base(run, [image_id for image_id, _ in chunk])
    changes = [
        change
        for image_id, image in chunk
        for change in image_changes(base[image_id], layer.images.get(image_id), image)
    ]
    layer.add(changes)
    return len({change.image.image_id for change in changes})


def image_changes(base: BaseLabels, state: ReviewedImage | None, image: ExportImage) -> list[Change]:
    """Return what a file says otherwise of one image; none where it says the same.

    Args:
        base: The run's own labels of it.
        state: Its reviewed state; None where nobody touched it.
        image: What the file says; its size may be (0, 0), where the file does not tell.

    Raises:
        UserError: The file's image has another size.
    """
    ref = base.image if all(base.image.image_hw) else replace(base.image, image_hw=image.image_hw)
    if all(image.image_hw) and ref.image_hw != image.image_hw:
        raise UserError(
            f"{image.path}: the file says {image.image_hw[1]} × {image.image_hw[0]} pixels, the run "
            f"{ref.image_hw[1]} × {ref.image_hw[0]}; export the labels anew and edit that file"
        )
    start: list[Change] = []
    if state is None or state.objects is None:
        start = take_labels(ref, base.objects, base.digest)
        state = replay(start, {ref.image_id: state} if state else None)[ref.image_id]
    ours = [found for found in state.objects or () if not found.is_rejected and not _has_no_pixels(found)]
    pairs = _match(ours, image.objects)
    exact = _is_exact(ours, image.objects, pairs)
    changes: list[Change] = []
    for row, known in enumerate(ours):
        if row not in pairs:
            changes.append(Change(ref, Kind.DELETED, known.object_id, before=known))
        else:
            changes += object_changes(ref, known, _edited(known, image.objects[pairs[row]], exact))
    taken = {found.object_id for found in (*(state.objects or ()), *state.removed)}
    matched = set(pairs.values())
    for place, found in enumerate(image.objects):
        if place not in matched and not found.crowd:
            object_id = found.instance_id if found.instance_id not in taken else f"{found.instance_id}-{place}"
            taken.add(object_id)
            changes.append(Change(ref, Kind.ADDED, object_id, after=_added(found, object_id)))
    return start + changes if changes else []


def _has_no_pixels(found: ReviewedObject) -> bool:
    """Tell whether exports leave an object out, so that its absence from a file says nothing."""
    return found.mask is not None and mask_areas([found.mask])[0] == 0


def _match(ours: Sequence[ReviewedObject], theirs: Sequence[ExportObject]) -> dict[int, int]:
    """Return which of a file's objects each of ours is, by row; the others are not in it."""
    places = {found.instance_id: place for place, found in enumerate(theirs)}
    pairs = {row: places[known.object_id] for row, known in enumerate(ours) if known.object_id in places}
    left = [row for row in range(len(ours)) if row not in pairs]
    free = [place for place in range(len(theirs)) if place not in set(pairs.values()) and not theirs[place].crowd]
    overlaps = _overlaps([ours[row] for row in left], [theirs[place] for place in free])
    names = [normalise_prompt(theirs[place].class_name) for place in free]
    same = np.array([[normalise_prompt(ours[row].class_name) == name for name in names] for row in left], bool)
    order = np.where(overlaps >= SAME_IOU, overlaps + same.reshape(overlaps.shape), 0.0)
    while order.size and order.max() > 0:
        row, column = np.unravel_index(int(order.argmax()), order.shape)
        pairs[left[row]] = free[column]
        order[row, :] = order[:, column] = 0
    return pairs


def _overlaps(ours: Sequence[ReviewedObject], theirs: Sequence[ExportObject]) -> NDArray[np.float64]:
    """Return the IoU of every pair: of masks where both have one, else of boxes."""
    boxes = np.array([found.box_xyxy for found in theirs], np.float32).reshape(-1, 4)
    overlaps = pairwise_iou(boxes_of(ours), boxes).astype(np.float64)
    first = [row for row, known in enumerate(ours) if known.mask is not None]
    second = [place for place, found in enumerate(theirs) if found.mask is not None]
    masks = mask_iou(
        [m for row in first if (m := ours[row].mask)], [m for place in second if (m := theirs[place].mask)]
    )
    if masks.size:
        overlaps[np.ix_(first, second)] = masks
    return overlaps


def _is_exact(ours: Sequence[ReviewedObject], theirs: Sequence[ExportObject], pairs: dict[int, int]) -> bool:
    """Tell whether a file keeps shapes as they are, without making polygons or whole pixels of them."""
    return any(_same_shape(ours[row], theirs[place]) for row, place in pairs.items())


def _same_shape(known: ReviewedObject, found: ExportObject) -> bool:
    if known.mask is not None or found.mask is not None:
        return known.mask == found.mask
    return bool(np.allclose(known.box_xyxy, found.box_xyxy, atol=_EXACT_PIXELS))


def _edited(known: ReviewedObject, found: ExportObject, exact: bool) -> ReviewedObject:
    """Return our object with what the file changed in it.

    Args:
        known: Ours.
        found: The same object in the file.
        exact: The file keeps shapes as they are: any other shape is an edit. Else one that is nearly ours is left.
    """
    same_class = normalise_prompt(known.class_name) == normalise_prompt(found.class_name)
    name = known.class_name if same_class else found.class_name
    alike = float(_overlaps([known], [found])[0, 0]) >= UNCHANGED_IOU
    has_no_masks = known.mask is not None and found.mask is None
    if _same_shape(known, found) or (alike and (has_no_masks or not exact)):
        return replace(known, class_name=name)
    return replace(known, class_name=name, box_xyxy=found.box_xyxy, mask=found.mask)


def _added(found: ExportObject, object_id: str) -> ReviewedObject:
    return ReviewedObject(object_id, found.class_name, found.box_xyxy, found.mask)
