"""`groundlabel bench ingest`: processor time of an ingest over FiftyOne's own `add_samples` with the same labels."""

import argparse
import json
import os
import resource
import tempfile
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.errors import UserError

if TYPE_CHECKING:
    from models.ontology import Ontology
    from pipeline.records import AnnotatedImage
    from pipeline.store.run import Run

HELP = "Measure the ingest into FiftyOne against its own add_samples."
EXAMPLE = """
groundlabel bench ingest --n 2000
groundlabel bench ingest --n 200 --masks 20
"""
_IMAGE_HW = (480, 640)
_SHARD = 100
_CHUNK = 200
_CLASSES = "circle, disc, ball"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this bench."""
    parser.add_argument("--n", type=int, default=2000, metavar="N", help="images (default: 2000)")
    parser.add_argument("--masks", type=int, default=10, metavar="N", help="masks an image (default: 10)")


def run(arguments: argparse.Namespace) -> int:
    """Print the processor time of both ways, their ratio, and the memory of the ingest; returns 0."""
    if arguments.n < 1 or arguments.masks < 0:
        raise UserError("--n must be at least 1, --masks at least 0")
    from pipeline.review.connection import connected_fiftyone
    from pipeline.review.ingest import ingest
    from pipeline.store.run import Run

    before = os.environ.get("XDG_CACHE_HOME")
    with tempfile.TemporaryDirectory(prefix="groundlabel-bench-") as folder:
        os.environ["XDG_CACHE_HOME"] = f"{folder}/cache"  # a database of its own
        try:
            opened = Run.open(_make_run(Path(folder) / "run", arguments.n, arguments.masks))
            with connected_fiftyone() as fo:
                start, memory = time.process_time(), _memory()
                ingest(opened)
                ours, grown = time.process_time() - start, _memory() - memory
                start = time.process_time()
                again = ingest(opened)
                repeated = time.process_time() - start
                start = time.process_time()
                _add_samples(fo, opened)
                theirs = time.process_time() - start
        finally:
            if before is None:
                os.environ.pop("XDG_CACHE_HOME")
            else:
                os.environ["XDG_CACHE_HOME"] = before
    if again.added or again.updated:
        raise UserError(f"the second ingest wrote {again.added + again.updated} samples that were there already")
    print(f"{arguments.n} images of {arguments.masks} masks, processor time of the client:")
    print(f"add_samples with labels: {theirs:.1f} s; ingest: {ours:.1f} s; ratio {ours / theirs:.3f}")
    print(f"ingest again, nothing new: {repeated:.1f} s, ratio {repeated / theirs:.3f}")
    print(f"memory of the process grew by {grown / 2**20:.0f} MB while it ingested")
    return 0


def _memory() -> int:
    """Return the most memory that this process has used, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _make_run(folder: Path, count: int, masks: int) -> Path:
    """Write a run without image files, whose objects are discs of many sizes."""
    from models.ontology import Ontology
    from pipeline.records import ImageTiming
    from pipeline.store.manifest import ManifestWriter
    from pipeline.store.run import RUN_FILE, SHARDS_FOLDER, TIMINGS_FOLDER
    from pipeline.store.shards import write_shard

    for made in (SHARDS_FOLDER, TIMINGS_FOLDER):
        (folder / made).mkdir(parents=True)
    ontology = Ontology.from_names(_CLASSES)
    settings = {"images_root": str(folder / "images"), "ontology": ontology.to_dict(), "fingerprint": "0" * 64}
    (folder / RUN_FILE).write_text(json.dumps(settings))
    records = _make_records(ontology, count, masks)
    with ManifestWriter(folder) as manifest:
        while chunk := list(islice(records, _SHARD)):
            timings = [ImageTiming(record.image_id, 0, 0, 0, 0, "host", "worker") for record in chunk]
            manifest.append(write_shard(folder, chunk, timings, "0" * 64, {}).to_line())
    return folder


def _make_records(ontology: "Ontology", count: int, masks: int) -> "Iterator[AnnotatedImage]":
    import numpy as np

    from models.detections import Detections, Instances
    from models.mask_crops import crop_to_rle
    from pipeline.paths import path_to_image_id
    from pipeline.records import AnnotatedImage

    random, (height, width) = np.random.default_rng(0), _IMAGE_HW
    for number in range(count):
        radii = random.integers(12, 60, masks)
        lefts, tops = random.integers(0, width - 2 * radii), random.integers(0, height - 2 * radii)
        boxes = np.stack([lefts, tops, lefts + 2 * radii, tops + 2 * radii], axis=1).astype(np.float32)
        classes = random.integers(1, len(ontology.classes) + 1, masks)
        scores = random.uniform(0.35, 0.95, masks).astype(np.float32)
        rles = []
        for radius, left, top in zip(radii.tolist(), lefts.tolist(), tops.tolist(), strict=True):
            rows, columns = np.ogrid[: 2 * radius, : 2 * radius]
            disc = (rows - radius + 0.5) ** 2 + (columns - radius + 0.5) ** 2 <= radius**2
            rles.append(crop_to_rle(disc, left, top, _IMAGE_HW))
        instances = Instances(Detections(_IMAGE_HW, boxes, scores, classes, classes - 1), tuple(rles), scores)
        path = f"{number:07}.jpg"
        yield AnnotatedImage.from_instances(path_to_image_id(path), path, instances, ontology)


def _add_samples(fo: Any, run: "Run") -> None:
    """Do what most tutorials do: samples with all labels, a chunk at a time."""
    dataset = fo.Dataset("bench-of-add-samples")
    records = run.annotated()
    while chunk := list(islice(records, _CHUNK)):
        samples = [
            fo.Sample(
                str(run.image_path(record)),
                image_id=record.image_id,
                metadata=fo.ImageMetadata(width=record.image_hw[1], height=record.image_hw[0]),
                predictions=_to_detections(fo, record),
            )
            for record in chunk
        ]
        dataset.add_samples(samples, progress=False)


def _to_detections(fo: Any, record: "AnnotatedImage") -> Any:
    from models.mask_crops import crop_mask
    from pipeline.review.documents import box_to_rel

    found, labels = record.instances.detections, []
    for row, rle in enumerate(record.instances.masks):
        cropped = crop_mask(rle)
        if cropped is None:
            continue
        labels.append(
            fo.Detection(
                label=record.class_names[row],
                bounding_box=box_to_rel(cropped[0], record.image_hw),
                mask=cropped[1],
                confidence=float(found.scores[row]),
                object_id=record.instance_ids[row],
                class_id=int(found.class_ids[row]),
                prompt=record.prompts[row],
                mask_score=float(record.instances.mask_scores[row]),
                detector_box=[float(value) for value in found.boxes_xyxy[row]],
            )
        )
    return fo.Detections(detections=labels)
