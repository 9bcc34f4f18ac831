"""How much a prompt's score depends on what it is asked together with, and what a prefilter loses, on scenes."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from models.boxes import FloatArray, pairwise_iou
from models.detections import Detections
from models.grounding_dino.detector import DetectorSettings, GroundingDinoDetector
from models.grounding_dino.load import complete_settings, read_grounding_dino
from models.ontology import Ontology
from models.training.evaluate import EVALUATION, Precision, average_precision, suppress
from models.training.scenes import PAIRS, Scene, SceneConfig, render_scene

PACKINGS = 3
SAME_IOU = 0.5
MARGIN = 0.05
"""How far above its threshold a box is clear of it: nearer ones come and go with the company of their class."""
_FIRST_SEED = 900_000
"""Training never uses seeds below 1,000,000."""


@dataclass(frozen=True)
class Differences:
    """|Δscore| of an image's best box for a prompt between two packings.

    Attributes:
        mean: Over images, prompts and pairs of packings; NaN where there are none.
        percentile_95: Likewise.
        count: How many differences there are.
    """

    mean: float
    percentile_95: float
    count: int

    def __str__(self) -> str:
        return f"mean {self.mean:.4f}, 95th percentile {self.percentile_95:.4f} ({self.count} differences)"


@dataclass(frozen=True)
class ScoreReport:
    """What asking in several ways found.

    Attributes:
        passes: Text passes of each packing.
        present: Differences of prompts for what is in the image.
        absent: Differences of prompts for what is not, where at least one packing finds a box.
        everything: AP when each image is asked for all classes, a packing each.
        present_only: AP when it is asked for what it holds.
    """

    passes: int
    present: Differences
    absent: Differences
    everything: tuple[Precision, ...]
    present_only: Precision

    def __str__(self) -> str:
        packings = ", ".join(f"{result.ap50:.3f} / {result.ap:.3f}" for result in self.everything)
        alone = self.present_only
        return (
            f"{len(PAIRS)} classes in {self.passes} passes, packed {PACKINGS} ways\n"
            f"|Δscore| of what is there: {self.present}\n"
            f"|Δscore| of what is not, but was found at .02 or more: {self.absent}\n"
            f"AP50 / AP, asked for everything: {packings}\n"
            f"AP50 / AP, asked for what is there: {alone.ap50:.3f} / {alone.ap:.3f}"
        )


@dataclass(frozen=True)
class Recall:
    """What a prefilter keeps of what the exact run finds.

    Attributes:
        kept: Classes that the prefilter leaves, of all.
        recall: Share of the exact run's boxes that the prefiltered run finds too: the class, and an IoU of .5 or more.
        boxes: How many boxes the exact run found.
        clear: The same share of those that are `MARGIN` or more above the threshold; NaN where there are none.
        exact: AP of the exact run.
        filtered: AP of the prefiltered run.
    """

    kept: int
    recall: float
    boxes: int
    clear: float
    exact: Precision
    filtered: Precision

    def __str__(self) -> str:
        return (
            f"prefilter of {self.kept} of {len(PAIRS)} classes: recall {self.recall:.3f} of {self.boxes} boxes, "
            f"{self.clear:.3f} of those {MARGIN:g} or more above the threshold; "
            f"AP50 of boxes above the threshold {self.filtered.ap50:.3f}, exact {self.exact.ap50:.3f}"
        )


class Labeller:
    """Asks scenes for the full vocabulary of coloured shapes in several ways.

    Args:
        folder: A detector's folder.
        count: How many scenes, at least 1.
        prompts_per_pass: Instead of the model's own.
    """

    def __init__(self, folder: Path, count: int, prompts_per_pass: int | None = None) -> None:
        self._model, self._processor = read_grounding_dino(folder)
        self._settings = complete_settings(folder, DetectorSettings(prompts_per_pass=prompts_per_pass))
        config = SceneConfig(pairs=PAIRS)
        self._scenes = [render_scene(seed, config) for seed in range(_FIRST_SEED, _FIRST_SEED + count)]
        self._exact: list[Detections] | None = None

    def scores(self) -> ScoreReport:
        """Pack all names three ways, and ask for what is there alone; thresholds are those of a precision curve."""
        thresholds = {name: getattr(EVALUATION, name) for name in ("box_threshold", "text_threshold")}
        settings = replace(self._settings, **thresholds)
        tables, everything = [], []
        for packing in range(PACKINGS):
            names = _ordered(packing)
            detector = self._make(names, settings)
            found = [(_detect(detector, scene), names) for scene in self._scenes]
            everything.append(self._precision(found))
            tables.append(np.stack([_best_scores(*pair) for pair in found]))
        holds = np.array([[name in scene.labels for name in PAIRS] for scene in self._scenes])
        seen = np.stack(tables).max(axis=0) > 0
        alone = []
        for scene in self._scenes:
            names = sorted(set(scene.labels))
            nothing = Detections.empty(scene.image.shape[:2])
            alone.append((_detect(self._make(names, settings), scene) if names else nothing, names))
        return ScoreReport(
            detector.pass_count,
            _differences(tables, holds),
            _differences(tables, ~holds & seen),
            tuple(everything),
            self._precision(alone),
        )

    def recall(self, kept: int) -> Recall:
        """Compare a run with a prefilter with the exact one; thresholds are those of labelling."""
        names, exact = list(PAIRS), self._label_exactly()
        detector = self._make(names, replace(self._settings, prefilter=kept))
        filtered = [_detect(detector, scene) for scene in self._scenes]
        found, clear = self._found_again(filtered)
        precisions = (self._precision([(boxes, names) for boxes in run]) for run in (exact, filtered))
        return Recall(kept, _share(found), len(found), _share(found[clear]), *precisions)

    def agreement(self) -> tuple[float, float]:
        """Return recall, and that of clear boxes, of an exact run that has the names in another order.

        That is what company alone does, without any prefilter.
        """
        names = _ordered(1)
        ids = np.array([0, *(PAIRS.index(name) + 1 for name in names)], np.int64)
        detector = self._make(names, self._settings)
        again = [_detect(detector, scene) for scene in self._scenes]
        found, clear = self._found_again([replace(boxes, class_ids=ids[boxes.class_ids]) for boxes in again])
        return _share(found), _share(found[clear])

    def _found_again(self, run: Sequence[Detections]) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """Tell of each box of the exact run whether another run has it, and whether it is clear of the threshold."""
        exact = self._label_exactly()
        found = np.concatenate([_found_again(wanted, got) for wanted, got in zip(exact, run, strict=True)])
        scores = np.concatenate([wanted.scores for wanted in exact])
        return found, scores >= self._settings.box_threshold + MARGIN

    def shares_left(self, counts: Sequence[int]) -> dict[int, float]:
        """Return the share of the exact run's boxes whose class is left, for several prefilters."""
        detector = self._make(list(PAIRS), self._settings)
        ranks = [
            detector.rank_classes([scene.image])[0][found.class_ids]
            for scene, found in zip(self._scenes, self._label_exactly(), strict=True)
        ]
        together = np.concatenate(ranks)
        return {count: float((together <= count).mean()) if len(together) else float("nan") for count in counts}

    def _label_exactly(self) -> list[Detections]:
        if self._exact is None:
            detector = self._make(list(PAIRS), self._settings)
            self._exact = [_detect(detector, scene) for scene in self._scenes]
        return self._exact

    def _make(self, names: Sequence[str], settings: DetectorSettings) -> GroundingDinoDetector:
        return GroundingDinoDetector(self._model, self._processor, Ontology.from_names(names), settings)

    def _precision(self, found: Sequence[tuple[Detections, Sequence[str]]]) -> Precision:
        truth = [(scene.image.shape[:2], scene.boxes_xyxy, scene.labels) for scene in self._scenes]
        named = [(boxes, [names[class_id - 1] for class_id in boxes.class_ids]) for boxes, names in found]
        return average_precision(truth, named, PAIRS)


def _ordered(packing: int) -> list[str]:
    """Return all names in the order of a packing: as they are, or shuffled, since packing goes by order."""
    order = np.random.default_rng(packing).permutation(len(PAIRS)) if packing else np.arange(len(PAIRS))
    return [PAIRS[place] for place in order]


def _detect(detector: GroundingDinoDetector, scene: Scene) -> Detections:
    return suppress(detector([scene.image])[0])


def _best_scores(found: Detections, names: Sequence[str]) -> FloatArray:
    """Return the best score of each of `PAIRS`, 0 where nothing was found."""
    best = np.zeros(len(PAIRS), np.float32)
    np.maximum.at(best, np.array([PAIRS.index(names[i - 1]) for i in found.class_ids], np.int64), found.scores)
    return best


def _differences(tables: Sequence[FloatArray], which: NDArray[np.bool_]) -> Differences:
    joined = np.concatenate([np.abs(one - two)[which] for one, two in combinations(tables, 2)])
    if not joined.size:
        return Differences(float("nan"), float("nan"), 0)
    return Differences(float(joined.mean()), float(np.percentile(joined, 95)), int(joined.size))


def _found_again(wanted: Detections, got: Detections) -> NDArray[np.bool_]:
    """Tell of each wanted box whether one of its class is among the others."""
    same = wanted.class_ids[:, None] == got.class_ids[None]
    return np.asarray(((pairwise_iou(wanted.boxes_xyxy, got.boxes_xyxy) >= SAME_IOU) & same).any(axis=1))


def _share(found: NDArray[np.bool_]) -> float:
    return float(found.mean()) if len(found) else float("nan")
