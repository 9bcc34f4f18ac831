"""Another threshold for the labels that are there: what would vanish and appear, and doing it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from models.detections import Detections
from models.ontology import Ontology
from pipeline.review.missed import BoxBelow, known_below
from pipeline.review.plugin import loaded
from pipeline.review.plugin.below import FLOOR
from pipeline.review.plugin.edits import Document, Edit, LabelEdit, apply_edits, retagged
from pipeline.review.plugin.proposing import covered, known_boxes, propose, to_objects, touched_labels
from pipeline.review.plugin.targets import stored_labels, stored_samples
from pipeline.review.schema import PREDICTIONS
from pipeline.reviewed.changes import REJECTED_TAG, ReviewedImage
from pipeline.reviewed.layer import ReviewedLayer
from pipeline.run_options import config_of
from pipeline.store.run import Run

BELOW_TAG = "below threshold"
"""On a label, beside `rejected`: a threshold rejected it, and a lower one takes that back."""
LOWEST = FLOOR
"""Lowest threshold that can be asked for."""


@dataclass(frozen=True)
class _Label:
    """A label that a threshold may hide or show again."""

    sample_id: Any
    document: Document
    hidden: bool


@dataclass(frozen=True)
class _Box:
    """A box under the run's threshold that no label covers."""

    sample_id: Any
    box: BoxBelow


@dataclass(frozen=True)
class Effect:
    """What a threshold would do, or did.

    Attributes:
        vanish: Labels that it rejects.
        come_back: Labels that an earlier threshold rejected and this one does not.
        appear: Boxes that become proposals.
        kept: Labels under it that a person accepted, drew or corrected: they stay.
    """

    vanish: int
    come_back: int
    appear: int
    kept: int


class ThresholdTable:
    """The scores of all labels of one class in some images, and of the boxes under the run's threshold.

    Args:
        dataset: A FiftyOne dataset of a run.
        run: The run.
        sample_ids: Which images.
        class_name: Which class.

    Attributes:
        class_name: The class.
        looked_at: In how many of the images somebody looked for boxes under the threshold.
        images: How many images there are.
    """

    def __init__(self, dataset: Any, run: Run, sample_ids: Sequence[str], class_name: str) -> None:
        self.class_name, self.images = class_name, len(sample_ids)
        self._dataset, self._run = dataset, run
        self._states = ReviewedLayer(run.folder).images
        below = known_below(dataset, run, sample_ids)
        self.looked_at = len(below)
        self._labels: list[_Label] = []
        self._touched: list[float] = []
        self._boxes: list[_Box] = []
        for sample in stored_samples(dataset, sample_ids):
            self._add(sample, below.get(str(sample["_id"]), []))

    def _add(self, sample: Document, below: Sequence[BoxBelow]) -> None:
        state = self._state(sample)
        touched = touched_labels(sample, state)
        for label in stored_labels(sample, PREDICTIONS):
            if label.get("label") != self.class_name:
                continue
            tags = label.get("tags") or ()
            if label["_id"] in touched:
                self._touched.append(float(label.get("confidence") or 0.0))
            elif REJECTED_TAG not in tags or BELOW_TAG in tags:
                self._labels.append(_Label(sample["_id"], label, BELOW_TAG in tags))
        own = [box for box in below if box.class_name == self.class_name]
        if own:
            boxes = np.array([box.box_xyxy for box in own], np.float32)
            free = ~covered(self.class_name, boxes, known_boxes(sample, state))
            self._boxes += [_Box(sample["_id"], box) for box, is_free in zip(own, free, strict=True) if is_free]

    def _state(self, sample: Document) -> ReviewedImage | None:
        return self._states.get(sample["image_id"])

    def effect(self, threshold: float) -> Effect:
        """Say what a threshold would do."""
        shown = [label for label in self._labels if not label.hidden]
        hidden = [label for label in self._labels if label.hidden]
        return Effect(
            sum(label.document["confidence"] < threshold for label in shown),
            sum(label.document["confidence"] >= threshold for label in hidden),
            sum(found.box.score >= threshold for found in self._boxes),
            sum(score < threshold for score in self._touched),
        )

    def apply(self, threshold: float, view: Any = None) -> Iterator[int | Effect]:
        """Reject what is under a threshold, show again what is not, and propose what appears.

        A box becomes a proposal with a mask by the run's segmenter; the run's filters on masks may take it.

        Yields:
            How many images with new boxes were segmented, after each, and at the end what was done.

        Raises:
            UserError: The models are needed and not here.
        """
        edits: list[Edit] = []
        for label in self._labels:
            under = label.document["confidence"] < threshold
            if under and not label.hidden:
                changed = retagged(label.document, [REJECTED_TAG, BELOW_TAG])
            elif label.hidden and not under:
                changed = retagged(label.document, (), [REJECTED_TAG, BELOW_TAG])
            else:
                continue
            edits.append(LabelEdit(label.sample_id, PREDICTIONS, label.document, changed))
        before = self.effect(threshold)
        boxes = [found for found in self._boxes if found.box.score >= threshold]
        appeared: list[Edit] = []
        for count, proposed in enumerate(self._proposals(boxes, threshold), start=1):
            appeared += proposed
            yield count
        title = f"Threshold of {self.class_name} to {threshold:.2f}"
        apply_edits(self._dataset, title, [*edits, *appeared], view)
        yield Effect(before.vanish, before.come_back, len(appeared), before.kept)

    def _proposals(self, boxes: Sequence[_Box], threshold: float) -> Iterator[list[LabelEdit]]:
        if not boxes:
            return
        config = config_of(self._run)
        stages = loaded.stages_of(*loaded.with_threshold(config, self._run.ontology, FLOOR))
        by_sample: dict[str, list[BoxBelow]] = {}
        for found in boxes:
            by_sample.setdefault(str(found.sample_id), []).append(found.box)
        for sample in stored_samples(self._dataset, list(by_sample)):
            pixels = loaded.read_pixels(sample["filepath"], config)
            if pixels is None:
                yield []
                continue
            image_hw = (pixels.shape[0], pixels.shape[1])
            asked = _detections(by_sample[str(sample["_id"])], image_hw, self._run.ontology)
            objects = to_objects(sample, stages.segment(pixels, asked).instances, self._run.ontology)
            yield propose(sample, objects, self._state(sample), f"threshold {threshold:.2f}")


def _detections(boxes: Sequence[BoxBelow], image_hw: tuple[int, int], ontology: Ontology) -> Detections:
    class_ids = {spec.name: spec.id for spec in ontology.classes}
    prompts = {(prompt.class_id, prompt.text): prompt.index for prompt in ontology.prompts}
    ids = [class_ids[box.class_name] for box in boxes]
    return Detections(
        image_hw,
        np.array([box.box_xyxy for box in boxes], np.float32),
        np.array([box.score for box in boxes], np.float32),
        np.array(ids, np.int64),
        np.array([prompts[key, box.prompt] for key, box in zip(ids, boxes, strict=True)], np.int64),
    )
