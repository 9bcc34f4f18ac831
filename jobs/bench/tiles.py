"""`groundlabel bench tiles`: recall on large scenes with objects of all sizes, with and without tiles."""

import argparse
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pipeline.config import AnnotateConfig
from pipeline.errors import UserError

if TYPE_CHECKING:
    from models.detections import Detections
    from pipeline.annotator import Annotator

HELP = "Measure recall on 4,000 × 3,000 scenes, or the memory of one large image, with and without tiles."
EXAMPLE = """
groundlabel bench tiles --n 1
groundlabel bench tiles --tile 512 --detector runs/tiny/model
groundlabel bench tiles --megapixels 100 --tile 1024
"""
PAIRS = ("red circle", "green square", "blue triangle", "yellow star", "purple heart", "cyan ring")
WIDTH, HEIGHT = 4000, 3000
CELL, LARGE_CELL = 250, 1000
"""Sides of the scenes that a large one is made of; objects are .08 to .6 of the side."""
SIZES = (("small (under 32² pixels)", 0, 32**2), ("medium", 32**2, 96**2), ("large (from 96² pixels)", 96**2, 10**9))
MATCH_IOU = 0.5
_FIRST_SEED = 950_000
_MOST_MEGAPIXELS = 500


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this bench."""
    parser.add_argument("--n", type=int, default=3, metavar="N", help="large scenes (default: 3)")
    parser.add_argument("--tile", default="auto", metavar="N|auto", help="side of the tiles (default: auto)")
    parser.add_argument("--tile-overlap", type=float, default=0.2, metavar="X", help="of the tiles (default: 0.2)")
    parser.add_argument("--detector", default="tiny", metavar="NAME", help="zoo name or model folder (default: tiny)")
    parser.add_argument(
        "--megapixels", type=float, metavar="X", help="instead: memory of labelling one image of this size from a file"
    )
    parser.add_argument("--threads", type=int, default=1, metavar="N", help="CPU threads (default: 1)")


@dataclass
class Tally:
    """What one way of looking found.

    Attributes:
        found: Objects by row of `SIZES`.
        boxes: All boxes.
        seconds: Of detection and merging.
    """

    found: NDArray[np.int64] = field(default_factory=lambda: np.zeros(len(SIZES), np.int64))
    boxes: int = 0
    seconds: float = 0.0


def run(arguments: argparse.Namespace) -> int:
    """Print recall by size for both ways, false boxes and time, or what one image takes; returns 0."""
    if arguments.n < 1:
        raise UserError("--n must be at least 1")
    if arguments.megapixels is not None:
        return _measure_memory(arguments)
    from models.devices import use_threads
    from models.ontology import Ontology
    from pipeline.build import build_annotator

    use_threads(arguments.threads)
    whole = AnnotateConfig(detector=arguments.detector, mask="none", device="cpu")
    tiled = whole.merged({"tile": arguments.tile, "tile_overlap": arguments.tile_overlap})
    ontology = Ontology.from_names(PAIRS)
    ways = {"whole": build_annotator(whole, ontology), f"--tile {arguments.tile}": build_annotator(tiled, ontology)}
    tallies = {name: Tally() for name in ways}
    objects = np.zeros(len(SIZES), np.int64)
    for index in range(arguments.n):
        image, boxes_xyxy, class_ids = compose_scene(_FIRST_SEED + 1000 * index)
        rows = _sizes(boxes_xyxy)
        objects += np.bincount(rows, minlength=len(SIZES))
        for name, annotator in ways.items():
            start = time.perf_counter()
            found = _look(annotator, image)
            tallies[name].seconds += time.perf_counter() - start
            hits = match(found, boxes_xyxy, class_ids)
            tallies[name].found += np.bincount(rows[hits], minlength=len(SIZES))
            tallies[name].boxes += len(found)
    for name, tally in tallies.items():
        recalls = [
            f"{label} {count / max(total, 1):.3f} of {total}"
            for (label, _, _), count, total in zip(SIZES, tally.found, objects, strict=True)
        ]
        false_boxes = (tally.boxes - tally.found.sum()) / arguments.n
        print(f"{name}: recall {', '.join(recalls)}; {false_boxes:.1f} false boxes an image", flush=True)
    first, second = tallies.values()
    print(f"time of tiles over whole: {second.seconds / first.seconds:.1f}")
    return 0


def _measure_memory(arguments: argparse.Namespace) -> int:
    """Label one large image in several ways and formats, and print the memory of each."""
    if not 1 <= arguments.megapixels <= _MOST_MEGAPIXELS:
        raise UserError(f"--megapixels {arguments.megapixels:g}: must be from 1 to {_MOST_MEGAPIXELS}")
    from jobs.bench.large_image import measure_large_image, write_large_images

    whole = AnnotateConfig(
        detector=arguments.detector, device="cpu", threads=arguments.threads, pixel_limit=arguments.megapixels
    )
    tiled = whole.merged({"tile": arguments.tile, "tile_overlap": arguments.tile_overlap})
    with tempfile.TemporaryDirectory(prefix="groundlabel-bench-") as folder:
        for path in write_large_images(Path(folder), arguments.megapixels, PAIRS):
            for name, config in (("whole", whole), (f"--tile {arguments.tile}", tiled)):
                print(f"{path.suffix[1:]}, {name}: {measure_large_image(path, config, PAIRS)}", flush=True)
    return 0


def compose_scene(seed: int) -> tuple[NDArray[np.uint8], NDArray[np.float32], NDArray[np.int64]]:
    """Lay scenes side by side, most of them small, one large.

    Args:
        seed: Of the first scene; the next ones follow.

    Returns:
        The image (3000, 4000, 3), boxes (N, 4) and class ids (N,) in the order of `PAIRS`, from 1.
    """
    from models.training.scenes import SceneConfig, render_scene

    image = np.empty((HEIGHT, WIDTH, 3), np.uint8)
    boxes: list[NDArray[np.float32]] = []
    class_ids: list[int] = []
    places = [(x, y, CELL) for y in range(0, HEIGHT, CELL) for x in range(0, WIDTH, CELL)]
    places = [(x, y, side) for x, y, side in places if not (x < LARGE_CELL and y < LARGE_CELL)]
    for offset, (x, y, side) in enumerate([*places, (0, 0, LARGE_CELL)]):
        scene = render_scene(seed + offset, SceneConfig(size=side, max_objects=4, pairs=PAIRS))
        image[y : y + side, x : x + side] = scene.image
        boxes.append(scene.boxes_xyxy + np.array([x, y, x, y], np.float32))
        class_ids += [PAIRS.index(label) + 1 for label in scene.labels]
    return image, np.concatenate(boxes), np.array(class_ids, np.int64)


def _look(annotator: "Annotator", image: NDArray[np.uint8]) -> "Detections":
    """Return the boxes that stay after the filters of a run with default options."""
    windows = annotator.stages.windows((image.shape[0], image.shape[1]))
    if windows:
        found = annotator.stages.detect_in_tiles(image, windows, lambda images: None).objects
    else:
        found = annotator.stages.detect([image])[0]
    return annotator.stages.segment(image, found).instances.detections


def _sizes(boxes_xyxy: NDArray[np.float32]) -> NDArray[np.int64]:
    from models.boxes import box_areas

    return np.searchsorted([low for _, low, _ in SIZES], box_areas(boxes_xyxy), side="right") - 1


def match(found: "Detections", boxes_xyxy: NDArray[np.float32], class_ids: NDArray[np.int64]) -> list[int]:
    """Return the true objects that a box of their class finds, each box finding at most one, strongest box first.

    Args:
        found: Boxes, highest score first.
        boxes_xyxy: (N, 4) true boxes.
        class_ids: (N,) true classes.
    """
    from models.boxes import pairwise_iou

    left = np.ones(len(boxes_xyxy), dtype=bool)
    hits = []
    for row in range(len(found)):
        overlaps = pairwise_iou(found.boxes_xyxy[row : row + 1], boxes_xyxy)[0]
        overlaps[~left | (class_ids != found.class_ids[row])] = 0
        best = int(overlaps.argmax()) if len(overlaps) else 0
        if len(overlaps) and overlaps[best] >= MATCH_IOU:
            left[best] = False
            hits.append(best)
    return hits
