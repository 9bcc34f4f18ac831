"""YOLO oriented boxes: a line an object, class and the four corners of the smallest rectangle around its mask."""

from collections.abc import Iterable

from pipeline.export.objects import ExportImage, ExportObject
from pipeline.export.polygons import Points, box_corners, min_area_corners
from pipeline.export.yolo_layout import YoloLayoutWriter, relative_points


def oriented_corners(found: ExportObject) -> Points:
    """Return the corners of an object's rectangle in pixels; that of a box without a mask is the upright box."""
    return box_corners(found.box_xyxy) if found.mask is None else min_area_corners(found.mask)


class YoloObbWriter(YoloLayoutWriter):
    """Writes `class x1 y1 x2 y2 x3 y3 x4 y4`, clockwise from the corner nearest to the top-left."""

    def line(self, found: ExportObject, image: ExportImage) -> Iterable[float]:
        """Return the corners."""
        return relative_points(oriented_corners(found), image.image_hw).ravel()
