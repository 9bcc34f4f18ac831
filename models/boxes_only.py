"""A segmenter that draws no masks, for who needs boxes alone."""

from models.detections import Detections, Instances
from models.interfaces import Image


class BoxesOnly:
    """Returns every box with an absent mask, without looking at the image; satisfies `models.interfaces.Segmenter`."""

    def __call__(self, image: Image, detections: Detections) -> Instances:
        """Return the detections as instances with absent masks."""
        return Instances.boxes_only(detections)
