"""What the ingest wrote into a sample, kept with the sample: by it a person's changes are told from the run's own."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

from pipeline.review.documents import UNNAMED, document_key, keyed, rel_to_box, signature
from pipeline.review.schema import LABEL_FIELDS, POLYGONS, SYSTEM_TAGS
from pipeline.reviewed.changes import ReviewedObject

_SIGNATURE_LENGTH = 35
_WITH_PLACE = "\t"
"""Follows the signature where class and place come before the id, in JSON, which never holds it; else a space does."""


@dataclass(frozen=True)
class Place:
    """Class and place of a label, by which its object is known again when label and row are gone.

    Attributes:
        class_name: As the App showed it.
        bounding_box: FiftyOne's relative left, top, width and height.
        score: The detector's; None where a person drew it.
    """

    class_name: str
    bounding_box: tuple[float, float, float, float]
    score: float | None

    def to_object(self, key: str, image_hw: tuple[int, int]) -> ReviewedObject:
        """Return it as an object with this id, whose mask nobody knows any more."""
        origin = "human" if self.score is None else "model"
        box = rel_to_box(self.bounding_box, image_hw)
        return ReviewedObject(key, self.class_name, box, score=self.score, origin=origin)


@dataclass(frozen=True)
class Written:
    """What a sample held when the ingest or a sync had last seen it.

    Attributes:
        row: Digest of the run's row that it was made of.
        state: Digest of the reviewed state that it was made of; empty where there was none.
        tags: Of the image, without the ingest's own, sorted.
        labels: For each label field the signature of each label, by the id of its object.
        places: For each label field class and place of each label with a box, likewise.
    """

    row: str
    state: str
    tags: tuple[str, ...] = ()
    labels: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    places: Mapping[str, Mapping[str, Place]] = field(default_factory=dict)

    @classmethod
    def from_document(cls, document: Mapping[str, Any] | None) -> Self | None:
        """Read what `to_document` gives; None where there is nothing."""
        if not document:
            return None
        labels: dict[str, dict[str, str]] = {}
        places: dict[str, dict[str, Place]] = {}
        for name in LABEL_FIELDS:
            for line in document.get(name, ()):
                key, sign, place = _parse(line)
                labels.setdefault(name, {})[key] = sign
                if place is not None:
                    places.setdefault(name, {})[key] = place
        return cls(document["row"], document["state"], tuple(document["tags"]), labels, places)

    def to_document(self) -> dict[str, Any]:
        """Return it as MongoDB keeps it; ids of objects are no keys there, as they may hold any sign."""
        lines = {
            name: [_line(key, sign, self.places.get(name, {}).get(key)) for key, sign in found.items()]
            for name, found in self.labels.items()
        }
        return {"row": self.row, "state": self.state, "tags": list(self.tags), **lines}


def note_line(document: dict[str, Any]) -> str:
    """Return what the note of a sample says of one stored label."""
    return _line(document_key(document), signature(document), _place(document))


def _line(key: str, sign: str, place: Place | None) -> str:
    values = [place.class_name, *place.bounding_box, place.score] if place is not None else []
    return f"{sign}{_WITH_PLACE}{json.dumps(values)}{_WITH_PLACE}{key}"


def _parse(line: str) -> tuple[str, str, Place | None]:
    """Return id, signature and place of a line."""
    sign, kind, rest = line[:_SIGNATURE_LENGTH], line[_SIGNATURE_LENGTH], line[_SIGNATURE_LENGTH + 1 :]
    if kind != _WITH_PLACE:
        return rest, sign, None
    values, key = rest.split(_WITH_PLACE, 1)
    read = json.loads(values)
    return key, sign, Place(read[0], tuple(read[1:5]), read[5]) if read else None


def _place(document: Mapping[str, Any]) -> Place | None:
    box, score = document.get("bounding_box") or (), document.get("confidence")
    if len(box) != 4 or not all(math.isfinite(value) for value in box):
        return None
    known = float(score) if score is not None and math.isfinite(score) else None
    left, top, width, height = (float(value) for value in box)
    return Place(str(document.get("label") or UNNAMED), (left, top, width, height), known)


def own_tags(tags: Sequence[str] | None) -> tuple[str, ...]:
    """Return an image's tags without those that the ingest gives, sorted."""
    return tuple(sorted({*(tags or ())}.difference(SYSTEM_TAGS)))


def labels_of(sample: Mapping[str, Any], name: str) -> dict[str, dict[str, Any]]:
    """Return a stored sample's labels in one field, by the id of their object."""
    stored = sample.get(name) or {}
    found: Sequence[dict[str, Any]] = stored.get("polylines" if name == POLYGONS else "detections") or ()
    return keyed(found)


def sign_labels(labels: Mapping[str, dict[str, Any]]) -> dict[str, str]:
    """Return the signature of each label, by the id of its object."""
    return {key: signature(document) for key, document in labels.items()}


def place_labels(labels: Mapping[str, Mapping[str, Any]]) -> dict[str, Place]:
    """Return class and place of each label that has a box, by the id of its object."""
    found = ((key, _place(document)) for key, document in labels.items())
    return {key: place for key, place in found if place is not None}
