"""The difference between two states of an object, as changes of one kind each."""

from dataclasses import replace

from pipeline.reviewed.changes import ACCEPTED_TAG, Change, ImageRef, Kind, ReviewedObject

_TOUCHED = {"model": "model+human"}
"""Origin of an object -> its origin once a person has corrected its class or shape."""


def object_changes(
    image: ImageRef, before: ReviewedObject, after: ReviewedObject, brushed: bool = True
) -> list[Change]:
    """Return the changes that lead from one state of an object to the other; none where they are equal.

    Args:
        image: Whose object it is.
        before: The object as it was.
        after: The object as it is; its origin, score and prompt do not count, its mask score where the mask differs.
        brushed: A mask that differs was changed itself; else it only went along with the box.
    """
    moved: dict[str, object] = {"box_xyxy": after.box_xyxy}
    if not brushed:
        moved["mask"] = after.mask
    steps: list[tuple[Kind, dict[str, object]]] = [
        (Kind.RELABELLED, {"class_name": after.class_name}),
        (Kind.BOX, moved),
        (Kind.MASK, {"mask": after.mask}),
        (Kind.TAG, {"tags": after.tags}),
        (Kind.ATTRIBUTE, {"attributes": after.attributes}),
    ]
    changes, current = [], before
    for kind, values in steps:
        if all(getattr(current, name) == value for name, value in values.items()):
            continue
        if values.get("mask", current.mask) != current.mask:
            values["mask_score"] = after.mask_score
        if kind in (Kind.RELABELLED, Kind.BOX, Kind.MASK):
            values["origin"] = _TOUCHED.get(current.origin, current.origin)
        changed: ReviewedObject = replace(current, **values)  # type: ignore[arg-type]
        changes.append(Change(image, kind, before.object_id, before=current, after=changed))
        current = changed
    return changes


def tag_changes(image: ImageRef, before: tuple[str, ...], after: tuple[str, ...]) -> list[Change]:
    """Return the changes of an image's own tags.

    Args:
        image: The image.
        before: Sorted.
        after: Sorted.
    """
    changes = []
    if (ACCEPTED_TAG in before) != (ACCEPTED_TAG in after):
        with_it = tuple(sorted({*before, ACCEPTED_TAG} if ACCEPTED_TAG in after else {*before} - {ACCEPTED_TAG}))
        kind = Kind.ACCEPTED if ACCEPTED_TAG in after else Kind.REOPENED
        changes.append(Change(image, kind, tags_before=before, tags_after=with_it))
        before = with_it
    if before != after:
        changes.append(Change(image, Kind.IMAGE_TAG, tags_before=before, tags_after=after))
    return changes
