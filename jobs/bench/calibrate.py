"""`groundlabel bench calibrate`: whether thresholds from half of the images keep their promise on the other half."""

import argparse
import os
from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import UserError

if TYPE_CHECKING:
    from pipeline.calibration.thresholds import JudgedBoxes

HELP = "Measure whether calibrated thresholds reach the asked precision on images that nobody reviewed."
EXAMPLE = """
groundlabel bench calibrate --n 200
groundlabel bench calibrate --n 600 --precision .9
"""
_POINTS = 0.03
"""How far below the asked precision a class may stay."""
_WIDTH = 0.05
_HALVINGS = 20
_BOX_THRESHOLD = 0.2
_COLOURS = ("red", "green", "blue", "yellow")
_FIRST_SEED = 970_000
"""Training uses no seed below 1,000,000."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this bench."""
    parser.add_argument("--n", type=int, default=600, metavar="N", help="scenes (default: 600)")
    parser.add_argument(
        "--precision", type=float, default=0.95, metavar="X", help="precision to ask for (default: 0.95)"
    )
    parser.add_argument("--detector", default="tiny", metavar="NAME", help="zoo name or model folder (default: tiny)")
    parser.add_argument("--threads", type=int, default=1, metavar="N", help="CPU threads (default: 1)")


@dataclass
class _Column:
    """The boxes of a class: score, whether right, and the scene of each."""

    scores: list[float] = field(default_factory=list)
    right: list[bool] = field(default_factory=list)
    scenes: list[int] = field(default_factory=list)

    def part(self, of_part: NDArray[np.bool_]) -> "JudgedBoxes":
        """Return the boxes of the scenes that are marked in `of_part`, (scenes,)."""
        from pipeline.calibration.thresholds import JudgedBoxes

        scenes = np.array(self.scenes, np.int64)
        mine = of_part[scenes]
        return JudgedBoxes(np.array(self.scores)[mine], np.array(self.right, np.bool_)[mine], scenes[mine])


@dataclass(frozen=True)
class _Kept:
    """What a threshold from one half keeps of the other; NaN where there is nothing to have a share of.

    Attributes:
        threshold: The score.
        boxes: How many it keeps.
        reached: Share of them that is right.
        of_right: Share of all right boxes that it keeps.
        loss_raw: Log loss of the score on all boxes.
        loss_calibrated: Of the calibrated score.
    """

    threshold: float
    boxes: int
    reached: float
    of_right: float
    loss_raw: float
    loss_calibrated: float


def run(arguments: argparse.Namespace) -> int:
    """Print asked and reached precision of each class; returns 0."""
    if arguments.n < 2 or not 0 < arguments.precision < 1:
        raise UserError("--n must be at least 2, --precision above 0 and below 1")
    os.environ["OMP_NUM_THREADS"] = str(arguments.threads)
    columns = _judge(arguments)
    halves = [_half(arguments.n, seed) for seed in range(_HALVINGS)]
    print(
        f"{arguments.n} scenes, half reviewed and half held out; asked is a precision of {arguments.precision:g}, met "
        f"is at least {arguments.precision - _POINTS:g}"
    )
    for name, column in columns.items():
        print(_describe(name, column, halves[0], arguments.precision))
    kept = [_try(column, half, arguments.precision) for half in halves for column in columns.values()]
    known = [one for one in kept if one is not None and one.boxes]
    if not known:
        raise UserError("no class has a threshold: more scenes (--n) or another --precision are needed")
    reached = np.array([one.reached for one in known])
    met = float((reached >= arguments.precision - _POINTS).mean())
    of_right = np.mean([one.of_right for one in known if one.of_right == one.of_right])
    print(
        f"over {_HALVINGS} halvings: {met:.3f} of {len(reached)} thresholds are met within {100 * _POINTS:g} points, "
        f"precision {reached.mean():.3f} in the mean, {reached.min():.3f} at the least; they keep {of_right:.3f} of "
        "the right boxes"
    )
    raw, calibrated = (np.mean([one.loss_raw for one in known]), np.mean([one.loss_calibrated for one in known]))
    print(f"held-out log loss of the score {raw:.3f}, of the calibrated score {calibrated:.3f}")
    return 0


def _half(count: int, seed: int) -> NDArray[np.bool_]:
    """Return which of the scenes are reviewed: half of them, another half for another seed."""
    reviewed = np.zeros(count, np.bool_)
    reviewed[np.random.default_rng(seed).permutation(count)[: count // 2]] = True
    return reviewed


def _try(column: _Column, reviewed: NDArray[np.bool_], precision: float) -> _Kept | None:
    """Choose a threshold on the reviewed scenes and look at the others; None where there is no threshold."""
    from pipeline.calibration.score_maps import choose_map, log_loss
    from pipeline.calibration.thresholds import choose_threshold

    here, there = column.part(reviewed), column.part(~reviewed)
    found = choose_threshold(here, precision, _WIDTH, int(reviewed.sum()))
    if found.score is None:
        return None
    kept = there.right[there.scores >= found.score]
    reached = float(kept.mean()) if len(kept) else float("nan")
    of_right = float(kept.sum() / there.right.sum()) if there.right.any() else float("nan")
    losses = [log_loss(chances, there.right) for chances in (there.scores, choose_map(here).score_map(there.scores))]
    return _Kept(found.score, len(kept), reached, of_right, *losses)


def _describe(name: str, column: _Column, reviewed: NDArray[np.bool_], precision: float) -> str:
    from pipeline.calibration.proportion import wilson

    judged = len(column.part(reviewed))
    kept = _try(column, reviewed, precision)
    if kept is None:
        return f"{name:>10}: {judged} reviewed boxes, no threshold"
    share = wilson(kept.reached * kept.boxes, kept.boxes)
    verdict = "met" if kept.reached >= precision - _POINTS else "not met"
    return (
        f"{name:>10}: {judged} reviewed boxes, threshold {kept.threshold:.3f}; held out it keeps {kept.boxes}, "
        f"{share.value:.3f} right ({share.low:.3f} to {share.high:.3f}): {verdict}"
    )


def _judge(arguments: argparse.Namespace) -> dict[str, _Column]:
    """Detect in scenes and say which boxes are right; classes are the shapes, with a prompt a colour."""
    from models.boxes_only import BoxesOnly
    from models.devices import use_threads
    from models.ontology import Ontology
    from models.training.scenes import SHAPES, TRAINED_PAIRS, SceneConfig, render_scene
    from models.zoo import load_detector
    from pipeline.calibration.judged import KnownImage, KnownObject, judge_image
    from pipeline.config import AnnotateConfig
    from pipeline.filters import filter_detections
    from pipeline.records import AnnotatedImage
    from pipeline.reviewed.convert import record_to_objects

    use_threads(arguments.threads)
    pairs = tuple(pair for pair in TRAINED_PAIRS if pair.split()[0] in _COLOURS)
    ontology = Ontology.from_dict({shape: [pair for pair in pairs if pair.split()[1] == shape] for shape in SHAPES})
    detector = load_detector(
        arguments.detector, ontology, box_threshold=_BOX_THRESHOLD, text_threshold=_BOX_THRESHOLD, device="cpu"
    )
    columns: defaultdict[str, _Column] = defaultdict(_Column)
    for number in range(arguments.n):
        scene = render_scene(_FIRST_SEED + number, SceneConfig(pairs=pairs))
        found, _ = filter_detections(detector([scene.image])[0], AnnotateConfig().filters)
        record = AnnotatedImage.from_instances(
            f"{number:016x}", f"{number}.png", BoxesOnly()(scene.image, found), ontology
        )
        labels = record_to_objects(record)
        there = zip(scene.labels, scene.boxes_xyxy.astype(float).tolist(), strict=True)
        known = KnownImage(tuple(KnownObject(pair.split()[1], tuple(box)) for pair, box in there))
        for label, right in zip(labels, judge_image(labels, known).rights, strict=True):
            column = columns[label.class_name]
            column.scores.append(label.score or 0.0)
            column.right.append(bool(right))
            column.scenes.append(number)
    return dict(sorted(columns.items()))
