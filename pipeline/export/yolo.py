"""YOLO boxes: a line an object, class and relative centre, width and height."""

from collections.abc import Iterable

from pipeline.export.objects import ExportImage, ExportObject
from pipeline.export.polygons import box_corners
from pipeline.export.yolo_layout import YoloLayoutWriter, relative_points


class YoloWriter(YoloLayoutWriter):
    """Writes `class x-centre y-centre width height`; crowds are left out, as Ultralytics' own converter does."""

    def line(self, found: ExportObject, image: ExportImage) -> Iterable[float]:
        """Return the box."""
        (left, top), _, (right, bottom), _ = relative_points(box_corners(found.box_xyxy), image.image_hw)
        return (left + right) / 2, (top + bottom) / 2, right - left, bottom - top
