"""Accept or reject what is selected."""

from dataclasses import dataclass
from typing import Any

from pipeline.review.plugin.edits import Edit, LabelEdit, apply_edits, retagged, tags_edit
from pipeline.review.plugin.targets import Selection, selected_labels, stored_labels, stored_samples
from pipeline.review.schema import PREDICTIONS
from pipeline.reviewed.changes import ACCEPTED_TAG, REJECTED_TAG


@dataclass(frozen=True)
class Decided:
    """What a decision changed; what was so before is not counted.

    Attributes:
        labels: Labels.
        images: Images.
    """

    labels: int
    images: int


def accept(dataset: Any, selection: Selection, view: Any = None) -> Decided:
    """Tag the selected labels, or else the selected images, as right.

    Args:
        dataset: A FiftyOne dataset of a run.
        selection: What is meant; may be empty.
        view: What the App shows.
    """
    if selection.labels:
        return _decide_labels(dataset, selection, ACCEPTED_TAG, REJECTED_TAG, view)
    edits = [tags_edit(sample, [ACCEPTED_TAG]) for sample in stored_samples(dataset, selection.samples)]
    changed = [edit for edit in edits if edit is not None]
    apply_edits(dataset, f"Accept {len(changed)} images", changed, view)
    return Decided(0, len(changed))


def reject(dataset: Any, selection: Selection, view: Any = None) -> Decided:
    """Tag the selected labels as wrong; of selected images all labels that nobody accepted, and the images reopen.

    Args:
        dataset: A FiftyOne dataset of a run.
        selection: What is meant; may be empty.
        view: What the App shows.
    """
    if selection.labels:
        return _decide_labels(dataset, selection, REJECTED_TAG, ACCEPTED_TAG, view)
    edits: list[Edit] = []
    images = 0
    for sample in stored_samples(dataset, selection.samples):
        reopened = tags_edit(sample, (), [ACCEPTED_TAG])
        of_labels = [
            LabelEdit(sample["_id"], PREDICTIONS, label, retagged(label, [REJECTED_TAG]))
            for label in stored_labels(sample, PREDICTIONS)
            if not {ACCEPTED_TAG, REJECTED_TAG}.intersection(label.get("tags") or ())
        ]
        images += bool(reopened or of_labels)
        edits += [*of_labels, *([reopened] if reopened else [])]
    apply_edits(dataset, f"Reject the labels of {images} images", edits, view)
    return Decided(sum(isinstance(edit, LabelEdit) for edit in edits), images)


def _decide_labels(dataset: Any, selection: Selection, tag: str, other: str, view: Any) -> Decided:
    edits = [
        LabelEdit(sample["_id"], field, label, retagged(label, [tag], [other]))
        for sample, field, label in selected_labels(dataset, selection)
        if tag not in (label.get("tags") or ()) or other in (label.get("tags") or ())
    ]
    verb = "Accept" if tag == ACCEPTED_TAG else "Reject"
    apply_edits(dataset, f"{verb} {len(edits)} labels", edits, view)
    return Decided(len(edits), 0)
