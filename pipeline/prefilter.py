"""How many classes the prefilter must leave for a recall, found once a run on some of its own images.

The exact run labels the first images, and the first look ranks the classes of each. A box is kept where its class is
among the N likeliest of its image or tile, so the ranks of the boxes' classes tell the smallest N that keeps enough of
them. N is part of the run's fingerprint; it is noted beside the run, so that later calls go on with it.
"""

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import chain, islice
from pathlib import Path

from models.detections import Detections
from models.interfaces import Image, RankingDetector
from pipeline.config import AnnotateConfig, FilterSettings
from pipeline.errors import UserError
from pipeline.filters import filter_detections
from pipeline.sources import ImageRef, ImageSource
from pipeline.store.durable import write_file
from pipeline.store.output import PREFILTER_FILE

SAMPLES = 32
"""Images that are looked at."""


@dataclass(frozen=True)
class Calibration:
    """What was found for a recall.

    Attributes:
        asked: The recall that was asked for.
        classes: How many classes the prefilter leaves.
        recall: Share of the boxes of the exact run whose class is left then.
        boxes: How many boxes that run found.
        images: In how many images, those that cannot be read among them.
    """

    asked: float
    classes: int
    recall: float
    boxes: int
    images: int

    def __str__(self) -> str:
        if not self.boxes:
            return f"Prefilter: nothing was found in the first {self.images} images, so all classes are asked for."
        return (
            f"Prefilter: {self.classes} classes an image keep {self.recall:.3f} of the {self.boxes} boxes that all "
            f"classes find in the first {self.images} images; asked for was {self.asked:g}."
        )


class RankRecorder:
    """A detector that notes the rank of each box's class in the first look at its image.

    Args:
        detector: Asks for all classes.
        filters: Boxes that these take away do not count.

    Attributes:
        ranks: Of all boxes so far.
    """

    def __init__(self, detector: RankingDetector, filters: FilterSettings) -> None:
        self._detector = detector
        self._filters = filters
        self.ranks: list[int] = []

    def resized_hw(self, image_hw: tuple[int, int]) -> tuple[int, int]:
        """Return the detector's size for an image."""
        return self._detector.resized_hw(image_hw)

    def __call__(self, images: Sequence[Image]) -> list[Detections]:
        """Detect, and note ranks; see `models.interfaces.Detector`."""
        found = self._detector(images)
        if images:
            for ranks, one in zip(self._detector.rank_classes(images), found, strict=True):
                self.ranks += ranks[filter_detections(one, self._filters)[0].class_ids].tolist()
        return found


def settle_prefilter(
    config: AnnotateConfig,
    source: ImageSource,
    folder: Path,
    calibrate: Callable[[float, Sequence[ImageRef]], Calibration],
) -> tuple[AnnotateConfig, Calibration | None]:
    """Turn a recall that is asked for into a number of classes.

    Args:
        config: What is asked for.
        source: The images; its first ones are looked at, and come again.
        folder: The run, which may hold what an earlier call found.
        calibrate: Finds the number for a recall on some images.

    Returns:
        The options with the number, and what was found; None where no recall is asked for.

    Raises:
        UserError: An earlier call's note is damaged.
    """
    asked = config.prefilter_recall
    if asked is None:
        return config, None
    found = None if config.overwrite else read_calibration(folder, asked)
    if found is None:
        first = list(islice(source.paths, SAMPLES))
        source.paths = chain(first, source.paths)
        found = calibrate(asked, [ImageRef.from_path(path) for path in first])
    return config.merged({"prefilter": found.classes}), found


def choose_classes(ranks: Sequence[int], asked: float, images: int, classes: int) -> Calibration:
    """Choose the fewest classes that keep a share of the boxes.

    Args:
        ranks: Of the boxes' classes, from 1; without any, all classes are left.
        asked: The share, between 0 and 1.
        images: How many were looked at.
        classes: How many there are.
    """
    if not ranks:
        return Calibration(asked, classes, 1.0, 0, images)
    fewest = sorted(ranks)[math.ceil(asked * len(ranks)) - 1]
    reached = sum(rank <= fewest for rank in ranks) / len(ranks)
    return Calibration(asked, fewest, reached, len(ranks), images)


def read_calibration(folder: Path, asked: float) -> Calibration | None:
    """Return what an earlier call found for the same recall; None where there was none.

    Raises:
        UserError: The note is damaged.
    """
    file = folder / PREFILTER_FILE
    try:
        found = Calibration(**json.loads(file.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError) as error:
        raise UserError(
            f"{file}: cannot be read ({error}); give --prefilter the number of classes in run.json"
        ) from error
    return found if found.asked == asked else None


def write_calibration(folder: Path, found: Calibration) -> None:
    """Note what was found beside a run."""
    write_file(folder / PREFILTER_FILE, json.dumps(asdict(found), indent=2).encode() + b"\n")
