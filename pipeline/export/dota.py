"""DOTA: oriented boxes in pixels, a .txt an image."""

from pathlib import Path, PurePosixPath

from pipeline.errors import UserError
from pipeline.export.objects import ExportImage
from pipeline.export.writer import Context, Writer
from pipeline.export.yolo_obb import oriented_corners

IMAGES = "images"
LABELS = "labelTxt"


class DotaWriter(Writer):
    """Writes images/, labelTxt/ and classes.txt: `x1 y1 x2 y2 x3 y3 x4 y4 class difficult`, clockwise.

    Corners may lie outside of the image, as a turned rectangle's do. The columns are parted by spaces, so a space in a
    class name becomes "-". `difficult` is 1 for crowds, which evaluations then pass over.

    Source: the task page of the DOTA dataset.
    """

    def __init__(self, folder: Path, context: Context) -> None:
        super().__init__(folder, context)
        self._names = {spec.id: "-".join(spec.name.split()) for spec in context.classes.classes}
        if len(set(self._names.values())) < len(self._names):
            raise UserError(
                "two class names are the same with '-' for spaces, as DOTA needs them; rename with --classes"
            )
        self.write_text("classes.txt", "".join(f"{name}\n" for name in self._names.values()))

    def add(self, image: ExportImage, side: str | None) -> None:
        """Write the labels of an image."""
        path = self.context.names.unique(image.path, image.image_id)
        lines = []
        for found in image.objects:
            numbers = " ".join(f"{value:.2f}" for value in oriented_corners(found).ravel())
            lines.append(f"{numbers} {self._names[found.class_id]} {int(found.crowd)}\n")
        self.write_text(f"{LABELS}/{PurePosixPath(path).with_suffix('.txt')}", "".join(lines))
        self.context.place(image, self.folder / IMAGES, path)
        self.context.count(image, side)
