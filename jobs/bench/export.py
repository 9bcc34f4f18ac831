"""`groundlabel bench export`: our COCO export against FiftyOne's own of the same labels, in one run."""

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.errors import UserError

if TYPE_CHECKING:
    import numpy as np

    from models.masks import Rle
    from models.ontology import Ontology
    from pipeline.records import AnnotatedImage

HELP = "Measure the COCO export against FiftyOne's own."
EXAMPLE = """
groundlabel bench export
groundlabel bench export --n 500 --objects 10
"""
_HW = (480, 640)
_SHARD = 100
_SHAPES = 400


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this bench."""
    parser.add_argument("--n", type=int, default=5000, metavar="N", help="images (default: 5000)")
    parser.add_argument("--objects", type=int, default=10, metavar="N", help="masks an image (default: 10)")


def run(arguments: argparse.Namespace) -> int:
    """Print seconds and peak memory of both, and their ratios; returns 0."""
    if arguments.n < 1 or arguments.objects < 1:
        raise UserError("--n and --objects must be at least 1")
    with tempfile.TemporaryDirectory(prefix="groundlabel-bench-") as name:
        folder = Path(name)
        os.environ["XDG_CACHE_HOME"] = str(folder / "cache")  # a database of its own
        _write_run(folder / "run", arguments.n, arguments.objects)
        print(f"{arguments.n} images with {arguments.objects} masks each; labels only, no image files", flush=True)
        ours, our_peak = _in_new_process(_time_ours, folder)
        print(f"groundlabel: {ours:.2f} s, peak {our_peak:.0f} MB", flush=True)
        theirs, their_peak = _in_new_process(_time_fiftyone, folder)
        print(f"FiftyOne: {theirs:.2f} s, peak {their_peak:.0f} MB", flush=True)
    print(f"ours over FiftyOne's: {ours / theirs:.3f} of the time, {our_peak / their_peak:.2f} of the peak memory")
    return 0


def _in_new_process(way: Callable[[Path], float], folder: Path) -> tuple[float, float]:
    """Return a way's seconds, and the peak memory of the process that ran nothing else, in MB."""
    from concurrent.futures import ProcessPoolExecutor
    from multiprocessing import get_context

    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        return pool.submit(_measure, way, folder).result()


def _measure(way: Callable[[Path], float], folder: Path) -> tuple[float, float]:
    seconds = way(folder)
    status = Path("/proc/self/status").read_text(encoding="ascii")
    peak = next(line for line in status.splitlines() if line.startswith("VmHWM:"))
    return seconds, int(peak.split()[1]) / 1000


def _time_ours(folder: Path) -> float:
    from pipeline.export import ExportOptions, export_run

    start = time.perf_counter()
    export_run(folder / "run", folder / "ours", "coco", ExportOptions("none"))
    return time.perf_counter() - start


def _time_fiftyone(folder: Path) -> float:
    from pipeline.export import ExportOptions, export_run
    from pipeline.review.coco_export import time_coco_export
    from pipeline.review.connection import connected_fiftyone

    export_run(folder / "run", folder / "dataset", "fiftyone", ExportOptions("none"))
    with connected_fiftyone() as fiftyone:
        return time_coco_export(fiftyone, folder / "dataset", folder / "theirs.json")


def _write_run(output: Path, count: int, objects: int) -> None:
    """Write a run of images with discs and rings, a shard at a time."""
    import numpy as np

    from models.masks import encode_mask
    from models.ontology import Ontology
    from pipeline.config import AnnotateConfig
    from pipeline.records import ImageTiming
    from pipeline.store.shards import write_shard
    from pipeline.store.writer import RunWriter

    rng = np.random.default_rng(0)
    rows, columns = np.ogrid[: _HW[0], : _HW[1]]
    pool = []
    for _ in range(_SHAPES):
        x, y, radius = rng.uniform(40, 600), rng.uniform(40, 440), rng.uniform(8, 70)
        wave = 1 + 0.1 * np.sin(7 * np.arctan2(rows - y, columns - x))
        distance = np.hypot(columns - x, rows - y)
        pool.append(encode_mask((distance < radius * wave) & (distance > radius * rng.choice([0, 0.4]))))
    ontology = Ontology.from_names([f"class {number}" for number in range(10)])
    parts = {"detector": {"name": "bench", "weights": "0"}, "segmenter": {"name": "bench", "weights": "0"}}
    with RunWriter(output, parts, ontology, output.parent / "photos", AnnotateConfig()) as writer:
        for start in range(0, count, _SHARD):
            numbers = range(start, min(count, start + _SHARD))
            records = [_image(number, objects, pool, ontology, rng) for number in numbers]
            timings = [ImageTiming(record.image_id, 0, 0, 0, 0, "host", "1") for record in records]
            writer.add(write_shard(output, records, timings, writer.fingerprint, {}))


def _image(
    number: int, objects: int, pool: "list[Rle]", ontology: "Ontology", rng: "np.random.Generator"
) -> "AnnotatedImage":
    import numpy as np

    from models.boxes import xywh_to_xyxy
    from models.detections import Detections, Instances
    from models.masks import mask_boxes_xywh
    from pipeline.paths import path_to_image_id
    from pipeline.records import AnnotatedImage

    masks = tuple(pool[row] for row in rng.integers(0, len(pool), objects))
    classes = rng.integers(1, len(ontology.classes) + 1, objects)
    scores = np.sort(rng.uniform(0.3, 1, objects))[::-1].astype(np.float32)
    found = Detections(_HW, xywh_to_xyxy(mask_boxes_xywh(masks)), scores, classes, classes - 1)
    path = f"{number // 1000:03d}/{number:06d}.jpg"
    return AnnotatedImage.from_instances(path_to_image_id(path), path, Instances(found, masks, scores), ontology)
