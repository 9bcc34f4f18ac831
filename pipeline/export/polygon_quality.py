"""How much of the masks the polygons of an export keep, measured object by object."""

from models.masks import Rle
from pipeline.export.polygons import Points, polygons_iou


class PolygonQuality:
    """Collects the IoU of polygons with the masks that they stand for."""

    def __init__(self) -> None:
        self._sum, self._lowest, self._count = 0.0, 1.0, 0

    def measure(self, polygons: list[Points], mask: Rle) -> None:
        """Draw the polygons of an object and compare them with its mask."""
        iou = polygons_iou(polygons, mask)
        self._sum += iou
        self._lowest = min(self._lowest, iou)
        self._count += 1

    def note(self) -> str | None:
        """Say in one line what was measured; None where there was nothing."""
        if not self._count:
            return None
        mean = self._sum / self._count
        return f"polygons keep their masks with a mean IoU of {mean:.4f} (lowest {self._lowest:.4f})"
