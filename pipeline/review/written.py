"""What the ingest wrote into a sample, kept with the sample: by it a person's changes are told from the run's own."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

from pipeline.review.documents import keyed, signature
from pipeline.review.schema import LABEL_FIELDS, POLYGONS, SYSTEM_TAGS

_SIGNATURE_LENGTH = 35


@dataclass(frozen=True)
class Written:
    """What a sample held when the ingest or a sync had last seen it.

    Attributes:
        row: Digest of the run's row that it was made of.
        state: Digest of the reviewed state that it was made of; empty where there was none.
        tags: Of the image, without the ingest's own, sorted.
        labels: For each label field the signature of each label, by the id of its object.
    """

    row: str
    state: str
    tags: tuple[str, ...] = ()
    labels: Mapping[str, Mapping[str, str]] = field(default_factory=dict)

    @classmethod
    def from_document(cls, document: Mapping[str, Any] | None) -> Self | None:
        """Read what `to_document` gives; None where there is nothing."""
        if not document:
            return None
        labels = {
            name: {line[_SIGNATURE_LENGTH + 1 :]: line[:_SIGNATURE_LENGTH] for line in document.get(name, ())}
            for name in LABEL_FIELDS
        }
        return cls(document["row"], document["state"], tuple(document["tags"]), labels)

    def to_document(self) -> dict[str, Any]:
        """Return it as MongoDB keeps it; ids of objects are no keys there, as they may hold any sign."""
        lines = {name: [f"{sign} {key}" for key, sign in found.items()] for name, found in self.labels.items()}
        return {"row": self.row, "state": self.state, "tags": list(self.tags), **lines}


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
