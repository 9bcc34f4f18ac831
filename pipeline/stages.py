"""What happens to one decoded image between decoding and encoding: detect, filter, segment, filter again."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from models.batch_sizes import Batches, Detect
from models.detections import Detections, Instances
from models.interfaces import Detector, Image, Segmenter
from pipeline.config import FilterSettings, TileSettings
from pipeline.filters import DropCounts, Verdicts, clip, judge_detections, judge_masks
from pipeline.mask_cleanup import MaskCleanup, clean_instances
from pipeline.tiles import Merged, Window, merge_tiles, plan_tiles


@dataclass(frozen=True, eq=False)
class Segmented:
    """An image's objects, and what became of each box on the way.

    Attributes:
        boxes: N boxes as the filters saw them: inside the image, highest score first.
        verdicts: Of the filters on boxes, N.
        drawn: The boxes that stayed, with their masks.
        mask_verdicts: Of the filters on masks, one for each of `drawn`.
    """

    boxes: Detections
    verdicts: Verdicts
    drawn: Instances
    mask_verdicts: Verdicts

    @property
    def instances(self) -> Instances:
        """The objects that stay."""
        return self.drawn[self.mask_verdicts.stays]

    @property
    def drops(self) -> DropCounts:
        """How many boxes and objects went."""
        after = self.mask_verdicts.counts(self.drawn.detections.class_ids)
        return self.verdicts.counts(self.boxes.class_ids) + after


class Stages:
    """The models and settings of a run, applied to images.

    Args:
        detector: Made for the run's ontology.
        segmenter: Any.
        filters: What is kept.
        tiles: How large images are cut; None for not at all.
        cleanup: Of masks.
        batches: How many images or tiles go into one call of the detector.
    """

    def __init__(
        self,
        detector: Detector,
        segmenter: Segmenter,
        filters: FilterSettings,
        tiles: TileSettings | None,
        cleanup: MaskCleanup,
        batches: Batches,
    ) -> None:
        self._detector = detector
        self._segmenter = segmenter
        self._filters = filters
        self._tiles = tiles
        self._cleanup = cleanup
        self._batches = batches

    def resized_hw(self, image_hw: tuple[int, int]) -> tuple[int, int]:
        """Return the size to which the detector resizes an image; images of one size may share a batch."""
        return self._detector.resized_hw(image_hw)

    def windows(self, image_hw: tuple[int, int]) -> tuple[Window, ...]:
        """Return the tiles of an image; nothing where it is only looked at whole."""
        return plan_tiles(image_hw, self._tiles, self._detector.resized_hw) if self._tiles else ()

    def detect(self, images: Sequence[Image]) -> list[Detections]:
        """Detect in images of one resized size."""
        return [found for part in self._run(self._detector, images) for found in part]

    def at_once(self, shape_hw: tuple[int, int], images: Sequence[Image]) -> int:
        """Return for how many images of a resized size a batch should wait; see `Batches.at_once`."""
        return self._batches.at_once(shape_hw, self._detector, images)

    def _run(self, detect: Detect, images: Sequence[Image]) -> Iterable[list[Detections]]:
        if not images:
            return ()
        return self._batches(self.resized_hw((images[0].shape[0], images[0].shape[1])), detect, images)

    def detect_in_tiles(self, image: Image, windows: Sequence[Window], watch: Callable[[int], None]) -> Merged:
        """Detect in each tile of an image and merge what was found.

        Args:
            image: (H, W, 3) uint8 RGB.
            windows: As `windows` gives them.
            watch: Called with 1 before each call of the detector.
        """

        def look(part: Sequence[Image]) -> list[Detections]:
            watch(1)
            return self._detector(part)

        def look_at_tiles(part: Sequence[Image]) -> list[Detections]:
            return look([np.ascontiguousarray(tile) for tile in part])

        *tiles, whole = (image[y1:y2, x1:x2] for x1, y1, x2, y2 in windows)
        found = [one for part in self._run(look_at_tiles, tiles) for one in part]
        found += look([whole])
        return merge_tiles(found, windows, (image.shape[0], image.shape[1]))

    def segment(self, image: Image, found: Detections) -> Segmented:
        """Filter the boxes of an image, draw masks, clean and filter those."""
        boxes = clip(found)
        verdicts = judge_detections(boxes, self._filters)
        drawn = clean_instances(self._segmenter(image, boxes[verdicts.stays]), self._cleanup)
        return Segmented(boxes, verdicts, drawn, judge_masks(drawn, self._filters))


def count_merged(merged: Merged) -> DropCounts:
    """Return how many boxes of tiles became part of another one, by class."""
    counts = DropCounts(("merged", class_id) for class_id in merged.boxes.class_ids.tolist())
    counts.subtract(("merged", class_id) for class_id in merged.objects.class_ids.tolist())
    return +counts
