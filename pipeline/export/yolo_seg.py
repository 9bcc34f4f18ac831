"""YOLO segmentation: a line an object, class and one polygon."""

from collections.abc import Iterable
from pathlib import Path

from pipeline.export.objects import ExportImage, ExportObject
from pipeline.export.polygon_quality import PolygonQuality
from pipeline.export.polygons import join_rings, mask_to_parts
from pipeline.export.writer import Context
from pipeline.export.yolo_layout import YoloLayoutWriter, relative_points


class YoloSegWriter(YoloLayoutWriter):
    """Writes `class x y x y …`: all parts and holes of a mask in one polygon, joined by cut lines.

    Boxes without a mask are left out: a line of four numbers among polygons makes trainers drop all polygons.
    """

    uses = frozenset({"epsilon"})

    def __init__(self, folder: Path, context: Context) -> None:
        super().__init__(folder, context)
        self._quality = PolygonQuality()

    def express(self, image: ExportImage) -> ExportImage:
        """Return the image without crowds and boxes alone."""
        return self.context.with_masks(super().express(image))

    def line(self, found: ExportObject, image: ExportImage) -> Iterable[float]:
        """Return the polygon."""
        if found.mask is None:
            raise ValueError(f"{image.path}: object {found.instance_id} has no mask")
        parts = mask_to_parts(found.mask, self.context.options.epsilon)
        polygon = join_rings([part.with_cuts() for part in parts])
        self._quality.measure([polygon], found.mask)
        return relative_points(polygon, image.image_hw).ravel()

    def finish(self) -> None:
        """Write data.yaml, and note how well the polygons fit."""
        super().finish()
        self.context.written.notes += filter(None, [self._quality.note()])
