"""COCO with polygons instead of run lengths, for trainers that read nothing else; holes are kept by cut lines."""

from pathlib import Path
from typing import Any

from pipeline.export.coco import CocoWriter
from pipeline.export.objects import ExportImage, ExportObject
from pipeline.export.polygon_quality import PolygonQuality
from pipeline.export.polygons import mask_to_parts
from pipeline.export.writer import Context

_DIGITS = 3


class CocoPolygonsWriter(CocoWriter):
    """As `CocoWriter`, but `segmentation` is a list of polygons, one a connected part; a crowd stays run lengths."""

    uses = frozenset({"compression", "epsilon", "ids", "shard_size"})

    def __init__(self, folder: Path, context: Context) -> None:
        super().__init__(folder, context)
        self._quality = PolygonQuality()

    def segmentation(self, found: ExportObject, image: ExportImage) -> Any:
        """Return the polygons of an object, and measure them."""
        if found.crowd or found.mask is None:
            return super().segmentation(found, image)
        polygons = [part.with_cuts() for part in mask_to_parts(found.mask, self.context.options.epsilon)]
        self._quality.measure(polygons, found.mask)
        return [polygon.ravel().round(_DIGITS).tolist() for polygon in polygons]

    def finish(self) -> None:
        """Note how well the polygons fit."""
        super().finish()
        self.context.written.notes += filter(None, [self._quality.note()])
