"""Boxes just under the thresholds of a run: found once an image with the run's own detector, and kept in the database.

They are what a lower threshold would bring. A run keeps none, so each image is looked at again; they are kept in a
collection of our own under the dataset's id and the run's fingerprint.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from models.detections import Detections
from pipeline.config import FilterSettings
from pipeline.filters import clip, judge_detections
from pipeline.review.plugin import loaded
from pipeline.review.plugin.edits import Document
from pipeline.review.plugin.proposing import find_boxes
from pipeline.review.plugin.targets import stored_samples
from pipeline.store.run import Run

FLOOR = 0.1
"""Lowest score that is looked for."""
_COLLECTION = "groundlabel.below"


@dataclass(frozen=True)
class BoxBelow:
    """One box that a lower threshold would keep.

    Attributes:
        class_name: Its class.
        prompt: What found it.
        score: The detector's, under the threshold of its class.
        box_xyxy: Pixels, inside the image.
    """

    class_name: str
    prompt: str
    score: float
    box_xyxy: tuple[float, float, float, float]


def look_below(dataset: Any, run: Run, sample_ids: Sequence[str]) -> Iterator[int]:
    """Look for boxes under the thresholds in images where nobody looked yet.

    Args:
        dataset: A FiftyOne dataset of the run.
        run: The run.
        sample_ids: Which images; N may be 0.

    Yields:
        How many of the images are done, after each.

    Raises:
        UserError: The models of the run are gone or not those that it was made with.
    """
    done = known_below(dataset, run, sample_ids)
    todo = [sample_id for sample_id in sample_ids if sample_id not in done]
    if not todo:
        return
    config = loaded.config_of(run)
    loaded.check_same_models(run, config)
    low, asked = loaded.with_threshold(config, run.ontology, FLOOR)
    stages = loaded.stages_of(low, asked)
    for count, sample in enumerate(stored_samples(dataset, todo), start=1):
        pixels = loaded.read_pixels(sample["filepath"], config)
        boxes = [] if pixels is None else _under(_left_by_filters(find_boxes(stages, pixels), config.filters), run)
        _keep(dataset, run, sample, boxes)
        yield count


def _left_by_filters(found: Detections, filters: FilterSettings) -> Detections:
    boxes = clip(found)
    return boxes[judge_detections(boxes, filters).stays]


def _under(found: Detections, run: Run) -> list[BoxBelow]:
    config = loaded.config_of(run)
    boxes = []
    for row in np.flatnonzero(found.class_ids > 0).tolist():
        name, score = run.ontology.name_of(int(found.class_ids[row])), float(found.scores[row])
        if score < loaded.threshold_of(run, config, name):
            x1, y1, x2, y2 = (float(side) for side in found.boxes_xyxy[row])
            boxes.append(BoxBelow(name, run.ontology.prompts[int(found.prompt_ids[row])].text, score, (x1, y1, x2, y2)))
    return boxes


def _collection() -> Any:
    import fiftyone.core.odm as foo

    return foo.get_db_conn()[_COLLECTION]


def _keep(dataset: Any, run: Run, sample: Document, boxes: Sequence[BoxBelow]) -> None:
    key = {"dataset": dataset._doc.id, "sample_id": sample["_id"]}
    rows = [[box.class_name, box.prompt, box.score, *box.box_xyxy] for box in boxes]
    _collection().replace_one(key, {**key, "fingerprint": run.fingerprint, "boxes": rows}, upsert=True)


def known_below(dataset: Any, run: Run, sample_ids: Sequence[str]) -> dict[str, list[BoxBelow]]:
    """Return the boxes of the images that were looked at, by sample id."""
    from bson import ObjectId

    wanted = {"$in": [ObjectId(sample_id) for sample_id in sample_ids]}
    key = {"dataset": dataset._doc.id, "fingerprint": run.fingerprint, "sample_id": wanted}
    return {
        str(row["sample_id"]): [BoxBelow(name, prompt, score, tuple(box)) for name, prompt, score, *box in row["boxes"]]
        for row in _collection().find(key)
    }
