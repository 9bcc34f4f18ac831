"""Boxes just under the thresholds of a run: found once an image with the run's own detector.

They are what a lower threshold would bring. A run keeps none, so each image is looked at again; they are kept in the
database by `pipeline.review.missed`.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from models.detections import Detections
from pipeline.config import FilterSettings
from pipeline.explain import check_same_models
from pipeline.filters import clip, judge_detections
from pipeline.review.missed import BoxBelow, keep_below, known_below
from pipeline.review.plugin import loaded
from pipeline.review.plugin.proposing import find_boxes
from pipeline.review.plugin.targets import stored_samples
from pipeline.run_options import config_of, threshold_of
from pipeline.store.run import Run

FLOOR = 0.1
"""Lowest score that is looked for."""


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
    config = config_of(run)
    check_same_models(run, config)
    low, asked = loaded.with_threshold(config, run.ontology, FLOOR)
    stages = loaded.stages_of(low, asked)
    for count, sample in enumerate(stored_samples(dataset, todo), start=1):
        pixels = loaded.read_pixels(sample["filepath"], config)
        boxes = [] if pixels is None else _under(_left_by_filters(find_boxes(stages, pixels), config.filters), run)
        keep_below(dataset, run, sample["_id"], boxes)
        yield count


def _left_by_filters(found: Detections, filters: FilterSettings) -> Detections:
    boxes = clip(found)
    return boxes[judge_detections(boxes, filters).stays]


def _under(found: Detections, run: Run) -> list[BoxBelow]:
    config = config_of(run)
    boxes = []
    for row in np.flatnonzero(found.class_ids > 0).tolist():
        name, score = run.ontology.name_of(int(found.class_ids[row])), float(found.scores[row])
        if score < threshold_of(run, config, name):
            x1, y1, x2, y2 = (float(side) for side in found.boxes_xyxy[row])
            boxes.append(BoxBelow(name, run.ontology.prompts[int(found.prompt_ids[row])].text, score, (x1, y1, x2, y2)))
    return boxes
