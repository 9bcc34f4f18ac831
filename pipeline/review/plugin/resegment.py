"""Draw the masks of selected boxes anew: after a person moved a box, or for a box without a mask."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from models.detections import Detections
from models.mask_crops import crop_mask
from models.masks import Rle
from pipeline.errors import UserError
from pipeline.mask_cleanup import MaskCleanup, clean_mask
from pipeline.review.documents import box_to_rel, pack_mask, rel_to_box
from pipeline.review.plugin import loaded
from pipeline.review.plugin.edits import Document, Edit, LabelEdit, apply_edits
from pipeline.review.plugin.targets import Selection, image_hw_of, selected_labels, stored_labels, stored_samples
from pipeline.review.schema import POLYGONS, PREDICTIONS
from pipeline.run_options import config_of
from pipeline.store.run import Run


@dataclass(frozen=True)
class Resegmented:
    """What a segmentation brought.

    Attributes:
        drawn: Labels that have a new mask.
        empty: Boxes in which the segmenter found nothing; they stay as they were.
    """

    drawn: int
    empty: int


def resegment(dataset: Any, run: Run, selection: Selection, view: Any = None) -> Iterator[int | Resegmented]:
    """Segment the boxes of the selected labels, or of all labels of the selected images, with the run's segmenter.

    The box of a label becomes the tight one of its mask, as everywhere in the dataset.

    Args:
        dataset: A FiftyOne dataset of the run.
        run: The run.
        selection: What is meant.
        view: What the App shows.

    Yields:
        How many images are done, after each, and at the end what it brought.

    Raises:
        UserError: The run has no segmenter, its weights are not here, or an image cannot be read.
    """
    config = config_of(run)
    segmenter = loaded.segmenter_of(config)
    cleanup = MaskCleanup(config.mask_cleanup, config.largest_part)
    edits: list[Edit] = []
    empty = 0
    for count, (sample, labels) in enumerate(_by_sample(dataset, selection), start=1):
        pixels = loaded.read_pixels(sample["filepath"], config)
        if pixels is None:
            raise UserError(f"{sample['filepath']}: the image cannot be read")
        image_hw = (pixels.shape[0], pixels.shape[1])
        boxes = [rel_to_box(label["bounding_box"], image_hw) for _, label in labels]
        ones = np.ones(len(boxes))
        asked = Detections(image_hw, np.array(boxes, np.float32), ones, ones, np.zeros(len(boxes)))  # type: ignore[arg-type]
        drawn = segmenter(pixels, asked)
        for (field, label), mask, score in zip(labels, drawn.masks, drawn.mask_scores.tolist(), strict=True):
            changed = _with_mask(label, clean_mask(mask, cleanup), score, image_hw)
            if changed is None:
                empty += 1
            else:
                edits.append(LabelEdit(sample["_id"], field, label, changed))
        yield count
    apply_edits(dataset, f"Segment {len(edits)} labels", edits, view)
    yield Resegmented(len(edits), empty)


def _by_sample(dataset: Any, selection: Selection) -> Iterator[tuple[Document, list[tuple[str, Document]]]]:
    """Yield each sample that has something to segment, with (field, label) of each box."""
    if not selection.labels:
        for sample in stored_samples(dataset, selection.samples):
            labels = [(PREDICTIONS, label) for label in stored_labels(sample, PREDICTIONS)]
            if labels and all(image_hw_of(sample)):
                yield sample, labels
        return
    chosen: dict[Any, tuple[Document, list[tuple[str, Document]]]] = {}
    for sample, field, label in selected_labels(dataset, selection):
        if field != POLYGONS:
            chosen.setdefault(sample["_id"], (sample, []))[1].append((field, label))
    yield from chosen.values()


def _with_mask(label: Document, mask: Rle, score: float, image_hw: tuple[int, int]) -> Document | None:
    """Return a stored label with another mask; None where that has no pixel."""
    cropped = crop_mask(mask)
    if cropped is None:
        return None
    changed = {key: value for key, value in label.items() if key != "mask_path"}
    return changed | {
        "bounding_box": box_to_rel(cropped[0], image_hw),
        "mask": pack_mask(cropped[1]),
        "mask_score": score,
    }
