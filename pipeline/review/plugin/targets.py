"""Which labels and images an operator is about: what the person selected, has open, or sees."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.errors import UserError
from pipeline.review.plugin.edits import Document, list_key
from pipeline.review.schema import LABEL_FIELDS
from pipeline.store.run import Run

_CHUNK = 200
_INFO_KEY = "groundlabel"


@dataclass(frozen=True)
class Selection:
    """What a person selected: labels, or else images.

    Attributes:
        labels: (sample id, field, label id) of each.
        samples: Ids; those of the labels where there are labels.
    """

    labels: tuple[tuple[str, str, str], ...]
    samples: tuple[str, ...]

    def __bool__(self) -> bool:
        return bool(self.samples)


def find_selection(
    view: Any, selected: Sequence[str], selected_labels: Sequence[dict[str, Any]], current: str | None
) -> Selection:
    """Return what is selected: single labels before images, images before the one that is open.

    Args:
        view: What the App shows; in a patches view the selected images are labels.
        selected: Ids of the selected images or patches.
        selected_labels: As FiftyOne gives them, with `sample_id`, `field` and `label_id`.
        current: Id of the image or patch that is open; None for none.
    """
    labels = [
        (label["sample_id"], label["field"], label["label_id"])
        for label in selected_labels
        if label["field"] in LABEL_FIELDS
    ]
    chosen = list(selected) or ([current] if current else [])
    if view._is_patches and not labels:
        labels = _labels_of_patches(view, chosen)
        chosen = []
    if labels:
        return Selection(tuple(labels), tuple(dict.fromkeys(sample_id for sample_id, _, _ in labels)))
    return Selection((), tuple(chosen))


def _labels_of_patches(view: Any, patch_ids: Sequence[str]) -> list[tuple[str, str, str]]:
    if not patch_ids:
        return []
    patches = view._dataset.select(list(patch_ids))
    found = []
    for field in view._label_fields:
        if field in LABEL_FIELDS:
            ids = zip(*patches.values(["sample_id", f"{field}.id"]), strict=True)
            found += [(str(sample_id), field, str(label_id)) for sample_id, label_id in ids if label_id is not None]
    return found


def samples_of_view(view: Any) -> list[str]:
    """Return the ids of the images that a view shows, each once; those of its objects in a patches view."""
    ids = view.values("sample_id" if view._is_patches else "id")
    return list(dict.fromkeys(str(sample_id) for sample_id in ids))


def stored_samples(dataset: Any, sample_ids: Sequence[str]) -> Iterator[Document]:
    """Yield samples as MongoDB has them, in the order of the ids, few at a time; one that is gone is passed over."""
    from bson import ObjectId

    for start in range(0, len(sample_ids), _CHUNK):
        part = [ObjectId(sample_id) for sample_id in sample_ids[start : start + _CHUNK]]
        found = {sample["_id"]: sample for sample in dataset._sample_collection.find({"_id": {"$in": part}})}
        yield from (found[sample_id] for sample_id in part if sample_id in found)


def stored_labels(sample: Document, field: str) -> list[Document]:
    """Return a sample's labels in one field."""
    name, key = list_key(field).split(".")
    found: list[Document] = (sample.get(name) or {}).get(key) or []
    return found


def selected_labels(dataset: Any, selection: Selection) -> Iterator[tuple[Document, str, Document]]:
    """Yield (sample, field, label) of each selected label that is still there."""
    wanted = {(sample_id, field, label_id) for sample_id, field, label_id in selection.labels}
    for sample in stored_samples(dataset, selection.samples):
        for field in LABEL_FIELDS:
            for label in stored_labels(sample, field):
                if (str(sample["_id"]), field, str(label["_id"])) in wanted:
                    yield sample, field, label


def open_run(dataset: Any) -> Run:
    """Open the run that a dataset shows.

    Raises:
        UserError: The dataset is of no run, or the run is gone.
    """
    known = dataset.info.get(_INFO_KEY) or {}
    if "run" not in known:
        raise UserError(f"the dataset {dataset.name} is of no run; `groundlabel review RUN` makes one that is")
    return Run.open(Path(known["run"]))


def image_hw_of(sample: Document) -> tuple[int, int]:
    """Return (height, width) of a sample's image in pixels; (0, 0) where the run has it as failed."""
    metadata = sample.get("metadata") or {}
    return int(metadata.get("height") or 0), int(metadata.get("width") or 0)
