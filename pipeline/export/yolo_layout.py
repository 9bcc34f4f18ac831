"""What the YOLO formats share: folders, data.yaml, and numbers relative to the image."""

from abc import abstractmethod
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

import numpy as np
import yaml
from numpy.typing import NDArray

from pipeline.export.objects import ExportImage, ExportObject
from pipeline.export.writer import SIDES, Context, Writer

IMAGES = "images"
LABELS = "labels"


class YoloLayoutWriter(Writer):
    """Writes images/, labels/ (a .txt an image, empty where nothing is) and data.yaml; sides are folders in both.

    Classes are numbered from 0 in the order of the export's. data.yaml names no `path`: trainers then start from its
    own folder. Without a split, `val` is the same folder as `train`.

    Source: the dataset pages of Ultralytics' documentation.
    """

    side_folders = False

    def __init__(self, folder: Path, context: Context) -> None:
        super().__init__(folder, context)
        self._sides: set[str] = set()

    @abstractmethod
    def line(self, found: ExportObject, image: ExportImage) -> Iterable[float]:
        """Return what follows the class number of an object, relative to the image, in [0, 1]."""

    def express(self, image: ExportImage) -> ExportImage:
        """Return the image without what the format cannot say."""
        return self.context.without_crowds(image)

    def add(self, image: ExportImage, side: str | None) -> None:
        """Write the labels of an image."""
        image = self.express(image)
        path = self.context.names.unique(image.path, image.image_id)
        below = PurePosixPath(side or "") / path
        lines = []
        for found in image.objects:
            numbers = " ".join(f"{value:.7f}".rstrip("0").rstrip(".") for value in self.line(found, image))
            lines.append(f"{found.class_id - 1} {numbers}\n")
        self.write_text(f"{LABELS}/{below.with_suffix('.txt')}", "".join(lines))
        self.context.place(image, self.folder / IMAGES, str(below))
        self._sides.add(side or "")
        self.context.count(image, side)

    def finish(self) -> None:
        """Write data.yaml."""
        present = [side for side in SIDES if side in self._sides]
        first = present[0] if present else ""
        folders = {side: str(PurePosixPath(IMAGES, side)) for side in present}
        for side in ("train", "val"):  # both must be named
            folders.setdefault(side, str(PurePosixPath(IMAGES, first)))
        content = {side: folders[side] for side in SIDES if side in folders}
        classes = {spec.id - 1: spec.name for spec in self.context.classes.classes}
        text = yaml.safe_dump({**content, "nc": len(classes), "names": classes}, sort_keys=False, allow_unicode=True)
        self.write_text("data.yaml", text)


def relative_points(points: NDArray[np.float64], image_hw: tuple[int, int]) -> NDArray[np.float64]:
    """Return pixel points relative to the image, clipped to it.

    Args:
        points: (K, 2) x and y in pixels.
        image_hw: (height, width) in pixels.

    Returns:
        (K, 2) in [0, 1].
    """
    height, width = image_hw
    return np.clip(points / np.array([width, height], dtype=np.float64), 0.0, 1.0)
