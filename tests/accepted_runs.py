"""A run of which people accepted most images, for the tests of calibration by command and in the App."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np

from pipeline.records import AnnotatedImage, Record
from pipeline.reviewed.base import read_base
from pipeline.reviewed.changes import Change, Kind, ReviewedObject, take_labels
from pipeline.reviewed.layer import ReviewedLayer
from pipeline.store.run import RUN_FILE, Run
from tests.review_runs import disc, labelled, write_run

IMAGE_HW = (60, 90)


def scored(path: str, scores: list[tuple[int, float]]) -> AnnotatedImage:
    """Return an image with discs side by side; (prompt, score) each."""
    centres = [(10 + 20 * place, 30) for place in range(len(scores))]
    objects = [
        (disc(IMAGE_HW, centre, 8), (centre[0] - 8, 22, centre[0] + 8, 38), prompt)
        for centre, (prompt, _) in zip(centres, scores, strict=True)
    ]
    record = labelled(path, IMAGE_HW, objects)
    values = np.array([score for _, score in scores], np.float32)
    found = replace(record.instances.detections, scores=values)
    return replace(record, instances=replace(record.instances, detections=found))


def accepted_run(parent: Path) -> Path:
    """Return a run of 80 images with two round things and, in every fourth, a square; 60 are accepted.

    Round things over .6 are right; of those at .4 every second one was deleted.
    """
    records: list[Record] = [
        scored(f"{number:03d}.png", [(0, 0.62 + number / 1000), (0, 0.4), *([(2, 0.7)] if number % 4 == 0 else [])])
        for number in range(80)
    ]
    folder = write_run(parent, records)
    settings = json.loads((folder / RUN_FILE).read_text())
    parts = {"detector": {"name": "tiny"}, "segmenter": {"name": "tiny-sam"}, "box_threshold": 0.35}
    (folder / RUN_FILE).write_text(json.dumps(settings | {"parts": parts, "options": {}}))
    opened = Run.open(folder)
    base = read_base(opened, [record.image_id for record in records])
    changes: list[Change] = []
    for number, record in enumerate(records[:60]):
        one = base[record.image_id]
        changes += take_labels(one.image, one.objects, one.digest)
        if number % 2:
            changes.append(Change(one.image, Kind.DELETED, one.objects[1].object_id, before=one.objects[1]))
        if number < 2:
            drawn = ReviewedObject(f"drawn {number}", "round thing", (70, 2, 88, 18), score=0.5)
            changes.append(Change(one.image, Kind.ADDED, drawn.object_id, after=drawn))
        changes.append(Change(one.image, Kind.ACCEPTED, tags_after=("accepted",)))
    touched = base[records[70].image_id]
    changes += take_labels(touched.image, touched.objects, touched.digest)
    changes.append(Change(touched.image, Kind.DELETED, touched.objects[0].object_id, before=touched.objects[0]))
    ReviewedLayer(folder).add(changes)
    return folder
