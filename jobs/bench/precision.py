"""`groundlabel bench precision`: what labels become in 16 bits or compiled, and how much faster, in one run."""

import argparse
import os
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.errors import UserError

if TYPE_CHECKING:
    from pipeline.annotator import Annotated, Annotator
    from pipeline.records import AnnotatedImage
    from pipeline.sources import ImageRef

HELP = "Measure how boxes, masks and speed change in bf16 and fp16, and compiled."
EXAMPLE = """
groundlabel bench precision --n 32
groundlabel bench precision --images photos/ --classes "person, car" --detector grounding-dino-tiny --compile
"""
FULL = "fp32"
"""What the others are compared with."""
SAME_BOX = 0.9
"""Overlap at which a box counts as found again."""
_AT_ONCE = 8
"""Images that one precision labels before the next one has its turn."""
_WARM_UP = 3
"""Rounds before the measured ones; in the third, shapes that repeat are compiled."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this bench."""
    parser.add_argument("--images", metavar="FOLDER", help="images to label (default: scenes made for this)")
    parser.add_argument("--classes", metavar="NAMES|FILE", help="what to look for (default: all that scenes have)")
    parser.add_argument("--detector", default="tiny", metavar="NAME", help="zoo name or model folder (default: tiny)")
    parser.add_argument("--segmenter", default="tiny-sam", metavar="NAME", help="likewise (default: tiny-sam)")
    parser.add_argument("--n", type=int, default=32, metavar="N", help="images (default: 32)")
    parser.add_argument("--threads", type=int, default=1, metavar="N", help="CPU threads (default: 1)")
    parser.add_argument("--compile", action="store_true", help="measure each precision compiled too")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda (default: auto)")


def run(arguments: argparse.Namespace) -> int:
    """Print, for each way of computing that the device has, the differences to fp32 and its images/s; returns 0."""
    if arguments.n < 1:
        raise UserError("--n must be at least 1")
    os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = str(arguments.threads)
    from jobs.bench.engine import make_scenes
    from models.devices import use_threads
    from models.ontology import Ontology
    from models.training.scenes import PAIRS
    from models.zoo import pick_device
    from pipeline.build import build_annotator
    from pipeline.config import AnnotateConfig
    from pipeline.sources import find_images

    use_threads(arguments.threads)
    device = pick_device(arguments.device)
    config = AnnotateConfig(detector=arguments.detector, segmenter=arguments.segmenter, device=arguments.device)
    ontology = Ontology.parse(arguments.classes) if arguments.classes else Ontology.from_names(PAIRS)
    annotators: dict[str, Annotator] = {}
    for compiled in (False, True) if arguments.compile else (False,):
        for precision in _precisions(device):
            name = f"{precision} compiled" if compiled else precision
            try:
                options = {"precision": precision, "compile": compiled}
                annotators[name] = build_annotator(config.merged(options), ontology)
            except (ValueError, OSError) as error:
                if name == FULL:
                    raise UserError(str(error)) from error
                print(f"{name}: {error}")
    with tempfile.TemporaryDirectory(prefix="groundlabel-bench-") as folder:
        found = find_images(arguments.images or make_scenes(Path(folder) / "scenes", arguments.n))
        differences = measure(annotators, found.refs[: arguments.n], str(found.root))
    for line in describe(differences, device):
        print(line)
    return 0


def _precisions(device: str) -> tuple[str, ...]:
    return (FULL, "bf16") if device == "cpu" else (FULL, "bf16", "fp16")


@dataclass
class Difference:
    """What one way of computing made, beside what fp32 made of the same images.

    Attributes:
        images: How many both labelled.
        failed: Images that it failed on and fp32 did not.
        seconds: Of its models.
        full_seconds: Of fp32's.
        boxes: Of fp32.
        again: Of these, those that it has too, with their class, at an IoU of at least `SAME_BOX`.
        only: Boxes that it has and fp32 has not, at an IoU of .5.
        score_changes: Of boxes that both have, at an IoU of .5.
        mask_ious: Of their masks.
    """

    images: int = 0
    failed: int = 0
    seconds: float = 0.0
    full_seconds: float = 0.0
    boxes: int = 0
    again: int = 0
    only: int = 0
    score_changes: list[float] = field(default_factory=list)
    mask_ious: list[float] = field(default_factory=list)

    def add(self, full: "AnnotatedImage", low: "AnnotatedImage") -> None:
        """Compare the labels of one image."""
        import numpy as np

        from models.boxes import pairwise_iou
        from models.masks import mask_iou
        from pipeline.trial.agreement import match_boxes

        sides = (full.instances, low.instances)
        overlaps = pairwise_iou(*(side.detections.boxes_xyxy for side in sides)).astype(np.float64)
        same = sides[0].detections.class_ids[:, None] == sides[1].detections.class_ids[None]
        rows, columns = match_boxes(np.where(same, overlaps, 0.0))
        self.images += 1
        self.boxes += len(full.instances)
        self.only += len(low.instances) - len(columns)
        self.again += int((overlaps[rows, columns] >= SAME_BOX).sum())
        for row, column in zip(rows, columns, strict=True):
            change = sides[0].detections.scores[row] - sides[1].detections.scores[column]
            self.score_changes.append(abs(float(change)))
            self.mask_ious.append(float(mask_iou([sides[0].masks[row]], [sides[1].masks[column]])[0, 0]))


def measure(
    annotators: "dict[str, Annotator]", refs: "Sequence[ImageRef]", root: str, warm_up: int = _WARM_UP
) -> dict[str, Difference]:
    """Label images in each way, in turn, and compare with fp32.

    Args:
        annotators: By name, that of fp32 among them.
        refs: Images.
        warm_up: How often the first ones are labelled before.
        root: Folder that their paths start from.

    Returns:
        By name, without that of fp32.
    """
    from pipeline.records import AnnotatedImage

    differences = {name: Difference() for name in annotators if name != FULL}
    for annotator in annotators.values():
        for _ in range(warm_up):
            annotator(refs[:_AT_ONCE], root)
    for start in range(0, len(refs), _AT_ONCE):
        part = refs[start : start + _AT_ONCE]
        done = {name: annotator(part, root) for name, annotator in annotators.items()}
        for name, difference in differences.items():
            difference.full_seconds += _model_seconds(done[FULL])
            difference.seconds += _model_seconds(done[name])
            for full, low in zip(done[FULL].records, done[name].records, strict=True):
                if isinstance(full, AnnotatedImage) and isinstance(low, AnnotatedImage):
                    difference.add(full, low)
                elif isinstance(full, AnnotatedImage):
                    difference.failed += 1
    for annotator in annotators.values():
        annotator.close()
    return differences


def _model_seconds(done: "Annotated") -> float:
    return sum(timing.seconds_detect + timing.seconds_segment for timing in done.timings)


def describe(differences: dict[str, Difference], device: str) -> Iterable[str]:
    """Yield the lines of the report."""
    import numpy as np

    for name, found in differences.items():
        yield f"{name} on {device} beside fp32, {found.images} images with {found.boxes} boxes:"
        if found.failed:
            yield f"  {found.failed} images failed that fp32 labelled"
        if found.boxes:
            share = found.again / found.boxes
            yield f"  boxes found again, with their class at IoU {SAME_BOX}: {share:.4f}; new boxes: {found.only}"
        if found.score_changes:
            changes = np.array(found.score_changes)
            yield f"  score, change: mean {changes.mean():.5f}, 95th percentile {np.percentile(changes, 95):.5f}"
            yield f"  masks, IoU: mean {np.mean(found.mask_ious):.5f}, least {min(found.mask_ious):.5f}"
        if found.seconds:
            yield f"  images/s of the models over fp32's: {found.full_seconds / found.seconds:.2f}"
