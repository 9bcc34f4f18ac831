"""What a person can change in a run's labels, and the state that the changes add up to."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from models.masks import Rle
from pipeline.records import AnnotatedImage, Record

ACCEPTED_TAG = "accepted"
"""On an image: its labels are right as they stand. On an object: that object is; a proposal becomes a label."""
REJECTED_TAG = "rejected"
"""On an object: it is wrong; it stays to be seen, and no export has it."""

BoxXyxy = tuple[float, float, float, float]


class Kind(StrEnum):
    """Kinds of change; the first two say where an image's labels stood when a person first touched them."""

    LABELS_TAKEN = "labels taken"
    OBJECT_TAKEN = "object taken"
    ADDED = "added"
    DELETED = "deleted"
    RELABELLED = "relabelled"
    BOX = "box"
    MASK = "mask"
    TAG = "tag"
    ATTRIBUTE = "attribute"
    IMAGE_TAG = "image tag"
    ACCEPTED = "accepted"
    REOPENED = "no longer accepted"
    IMAGE_DELETED = "image deleted"
    IMAGE_RESTORED = "image restored"


EDITS = tuple(kind for kind in Kind if kind not in (Kind.LABELS_TAKEN, Kind.OBJECT_TAKEN))
"""What a person did."""


@dataclass(frozen=True)
class ReviewedObject:
    """One labelled object as it stands after a review.

    Attributes:
        object_id: The run's instance id, or an id of the tool in which a person drew it; unique in its image.
        class_name: Any text; a class that the run does not have is one more class of the reviewed labels.
        box_xyxy: Pixels: tight around the mask where a model made both, else as the person drew it.
        mask: None where the object is a box alone.
        score: The detector's; None where a person drew it.
        mask_score: The segmenter's predicted IoU; None where a person drew it.
        prompt: What found it; None where a person drew it.
        detector_box: The detector's own box; None where there is none.
        tags: Sorted.
        attributes: Further values that a person gave, as a JSON object with sorted keys.
        origin: "model", "human" or "model+human".
    """

    object_id: str
    class_name: str
    box_xyxy: BoxXyxy
    mask: Rle | None = None
    score: float | None = None
    mask_score: float | None = None
    prompt: str | None = None
    detector_box: BoxXyxy | None = None
    tags: tuple[str, ...] = ()
    attributes: str = "{}"
    origin: str = "human"

    @property
    def is_rejected(self) -> bool:
        """Whether a person tagged it as wrong."""
        return REJECTED_TAG in self.tags


@dataclass(frozen=True)
class ImageRef:
    """Which image something is about; size in pixels of the upright image, (0, 0) where it is not known."""

    image_id: str
    path: str
    image_hw: tuple[int, int]


@dataclass(frozen=True)
class Change:
    """One change.

    Attributes:
        image: What it is about.
        kind: What was done.
        object_id: Empty for changes of an image.
        before: The object before; None where there was none or it is not known any more.
        after: The object after; None where it was deleted.
        tags_before: Tags of the image, for its own changes.
        tags_after: Likewise.
        base: For LABELS_TAKEN, digest of the run's row that the labels are of; empty where that row is gone.
        time: When it was found.
    """

    image: ImageRef
    kind: Kind
    object_id: str = ""
    before: ReviewedObject | None = None
    after: ReviewedObject | None = None
    tags_before: tuple[str, ...] = ()
    tags_after: tuple[str, ...] = ()
    base: str = ""
    time: datetime = field(default_factory=lambda: datetime.now(UTC), compare=False)


@dataclass(frozen=True)
class ReviewedImage:
    """The state of one image after all changes.

    Attributes:
        image: Which one.
        objects: In order; None where no label was touched and those of the run count.
        removed: Objects that a person deleted.
        tags: Of the image, sorted.
        deleted: A person took the image out of the dataset.
        base: Digest of the run's row that the objects were taken from; empty where it is not known.
    """

    image: ImageRef
    objects: tuple[ReviewedObject, ...] | None = None
    removed: tuple[ReviewedObject, ...] = ()
    tags: tuple[str, ...] = ()
    deleted: bool = False
    base: str = ""

    @property
    def is_accepted(self) -> bool:
        """Whether a person said that all labels of the image are right."""
        return ACCEPTED_TAG in self.tags

    def digest(self) -> str:
        """Return a digest of all that is shown of it."""
        return digest([self.objects, self.removed, self.tags, self.deleted, self.base])


class _State:
    """A reviewed image while changes are played onto it."""

    def __init__(self, image: ImageRef) -> None:
        self.image = image
        self.objects: dict[str, ReviewedObject] | None = None
        self.removed: dict[str, ReviewedObject] = {}
        self.tags: tuple[str, ...] = ()
        self.deleted = False
        self.base = ""

    def play(self, change: Change) -> None:
        if change.kind == Kind.LABELS_TAKEN:
            if self.objects is None:
                self.objects, self.base = {}, change.base
                self.image = change.image
        elif change.kind in (Kind.IMAGE_TAG, Kind.ACCEPTED, Kind.REOPENED):
            self.tags = change.tags_after
        elif change.kind in (Kind.IMAGE_DELETED, Kind.IMAGE_RESTORED):
            self.deleted = change.kind == Kind.IMAGE_DELETED
        else:
            self._play_object(change)

    def _play_object(self, change: Change) -> None:
        objects = self.objects if self.objects is not None else {}
        self.objects = objects
        if change.kind == Kind.OBJECT_TAKEN:
            if change.after is not None and change.object_id not in self.removed:
                objects.setdefault(change.object_id, change.after)
        elif change.kind == Kind.DELETED:
            gone = objects.pop(change.object_id, None) or change.before
            if gone is not None:
                self.removed[change.object_id] = gone
        elif change.after is not None:
            objects[change.object_id] = change.after
            self.removed.pop(change.object_id, None)

    def freeze(self) -> ReviewedImage:
        return ReviewedImage(
            self.image,
            None if self.objects is None else tuple(self.objects.values()),
            tuple(self.removed.values()),
            self.tags,
            self.deleted,
            self.base,
        )


def replay(changes: Iterable[Change], start: Mapping[str, ReviewedImage] | None = None) -> dict[str, ReviewedImage]:
    """Return the state of each image that changes are about, by image id.

    Changes set what they change and add nothing up, so one that is played twice does no harm.

    Args:
        changes: In the order in which they were made.
        start: States to begin with; those without a change are not returned.
    """
    states: dict[str, _State] = {}
    for change in changes:
        key = change.image.image_id
        if key not in states:
            states[key] = _thaw((start or {}).get(key), change.image)
        states[key].play(change)
    return {key: state.freeze() for key, state in states.items()}


def _thaw(known: ReviewedImage | None, image: ImageRef) -> _State:
    state = _State(known.image if known else image)
    if known is not None:
        state.objects = None if known.objects is None else {found.object_id: found for found in known.objects}
        state.removed = {found.object_id: found for found in known.removed}
        state.tags, state.deleted, state.base = known.tags, known.deleted, known.base
    return state


def take_labels(image: ImageRef, objects: Iterable[ReviewedObject], base: str) -> list[Change]:
    """Return the changes that take an image's labels into the reviewed layer as they stand."""
    taken = [Change(image, Kind.OBJECT_TAKEN, found.object_id, after=found) for found in objects]
    return [Change(image, Kind.LABELS_TAKEN, base=base), *taken]


def describe_counts(counts: Mapping[str, int]) -> str:
    """Return "3 added, 1 relabelled" for counts by kind, without the kinds that no person did; may be empty."""
    return ", ".join(f"{counts[kind]} {kind}" for kind in EDITS if counts.get(kind))


def encode_attributes(values: Mapping[str, Any]) -> str:
    """Return further values as JSON, with sorted keys; what JSON has no form for becomes its text."""
    return json.dumps(values, sort_keys=True, default=str, ensure_ascii=False)


def record_ref(record: Record) -> ImageRef:
    """Return which image a record is about."""
    image_hw = record.image_hw if isinstance(record, AnnotatedImage) else (0, 0)
    return ImageRef(record.image_id, record.path, image_hw)


def digest(parts: Iterable[Any]) -> str:
    """Return 24 hexadecimal digits of the SHA-256 of some values."""
    hashed = hashlib.sha256()
    for part in parts:
        hashed.update(part if isinstance(part, bytes) else repr(part).encode(errors="replace"))
        hashed.update(b"\0")
    return hashed.hexdigest()[:24]
