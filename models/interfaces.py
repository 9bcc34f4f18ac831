"""The two protocols that a pipeline builds on: a detector and a segmenter."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from models.detections import Detections, Instances

Image = NDArray[np.uint8]
"""(H, W, 3) uint8, RGB, EXIF applied, both sides at least 1 px."""


class Detector(Protocol):
    """Finds the boxes of an ontology's classes. The ontology and thresholds are given when it is made."""

    def resized_hw(self, image_hw: tuple[int, int]) -> tuple[int, int]:
        """Return the (height, width) to which an image of this size is resized.

        Only images of equal resized size may share a batch; the caller groups them.
        """

    def __call__(self, images: Sequence[Image]) -> list[Detections]:
        """Detect in images of one resized size.

        Args:
            images: (H, W, 3) uint8 RGB each; the list may be empty.

        Returns:
            One `Detections` an image, in order, before NMS, each score at or above its class's threshold; a box that a
            negative prompt took has the class id 0.

        Raises:
            ValueError: An image is not (H, W, 3) uint8, or resized sizes differ.
        """


class RankingDetector(Detector, Protocol):
    """A detector with a cheap first look that tells which classes are likely."""

    def rank_classes(self, images: Sequence[Image]) -> list[NDArray[np.int64]]:
        """Say in which order a prefilter would leave the classes of images of one resized size.

        Returns:
            An array (C + 1,) an image: the place of each class by its id, from 1 for the likeliest.

        Raises:
            ValueError: The detector has no first look.
        """


class Segmenter(Protocol):
    """Turns the boxes of one image into masks."""

    def __call__(self, image: Image, detections: Detections) -> Instances:
        """Segment each box of an image; without boxes the image is not looked at.

        Args:
            image: (H, W, 3) uint8 RGB.
            detections: Boxes of this image; N may be 0.

        Returns:
            `Instances` with the same rows in the same order.

        Raises:
            ValueError: The image is not (H, W, 3) uint8 or not of the size that the detections name.
        """
