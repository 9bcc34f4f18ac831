"""`calibrate`: what the reviewed images of a run say about each class's scores."""

from dataclasses import dataclass
from pathlib import Path

from pipeline.calibration.gather import gather
from pipeline.calibration.prompt_wins import PromptCount
from pipeline.calibration.score_maps import ChosenMap, choose_map
from pipeline.calibration.thresholds import (
    LEAST_JUDGED,
    Curve,
    JudgedBoxes,
    Threshold,
    choose_threshold,
    precision_curve,
)
from pipeline.errors import UserError
from pipeline.run_options import config_of, threshold_of
from pipeline.store.run import Run


@dataclass(frozen=True, eq=False)
class ClassCalibration:
    """One class.

    Attributes:
        name: As the ontology has it.
        boxes: The judged ones.
        curve: Precision over the threshold.
        threshold: What was found.
        now: The threshold that the run was made with.
        chosen: From a score to the chance to be right; None where too few boxes were judged.
    """

    name: str
    boxes: JudgedBoxes
    curve: Curve
    threshold: Threshold
    now: float
    chosen: ChosenMap | None

    @property
    def proposed(self) -> float | None:
        """The threshold to use: the run's own where all of its boxes may stay; None where there is none to propose."""
        return self.now if self.threshold.is_lowest else self.threshold.score


@dataclass(frozen=True, eq=False)
class Calibration:
    """A run's classes by what people or a truth say.

    Attributes:
        run: The run.
        truth: The file that was judged by; None for the reviewed layer.
        precision: What was asked.
        width: Likewise, of the precision's interval.
        classes: In the run's order; those that the truth does not have are left out.
        images: Images that were judged.
        all_images: Labelled images of the run.
        prompts: Of classes with several, over all images.
        notes: What a person should know.
    """

    run: Run
    truth: Path | None
    precision: float
    width: float
    classes: tuple[ClassCalibration, ...]
    images: int
    all_images: int
    prompts: tuple[PromptCount, ...]
    notes: tuple[str, ...]

    @property
    def thresholds(self) -> dict[str, float]:
        """The thresholds to use, by class name."""
        return {one.name: one.proposed for one in self.classes if one.proposed is not None}


def calibrate(
    folder: str | Path, precision: float = 0.95, width: float = 0.05, truth: str | Path | None = None
) -> Calibration:
    """Find the thresholds at which a run's labels are right often enough.

    Args:
        folder: The run.
        precision: Share of a class's labels that should be right, above 0 and below 1.
        width: Of the 95 % interval of that share, which more reviews should reach.
        truth: A COCO file with all objects of some images; None goes by the images that people accepted.

    Raises:
        UserError: A number is out of range, or there is nothing to judge by.
    """
    for option, value in (("--precision", precision), ("--width", width)):
        if not 0 < value < 1:
            raise UserError(f"{option} must be above 0 and below 1, not {value:g}")
    run = Run.open(folder)
    judged = gather(run, Path(truth) if truth is not None else None)
    config = config_of(run)
    classes = []
    for name, boxes in judged.boxes.items():
        classes.append(
            ClassCalibration(
                name,
                boxes,
                precision_curve(boxes),
                choose_threshold(boxes, precision, width, judged.images),
                threshold_of(run, config, name),
                choose_map(boxes) if len(boxes) >= LEAST_JUDGED else None,
            )
        )
    return Calibration(
        run,
        Path(truth) if truth is not None else None,
        precision,
        width,
        tuple(classes),
        judged.images,
        judged.all_images,
        judged.prompts.counts(),
        judged.notes,
    )
