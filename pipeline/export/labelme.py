"""LabelMe: a JSON file beside each image, with polygons and rectangles."""

import json
from pathlib import Path, PurePosixPath
from typing import Any

from pipeline.export.objects import ExportImage, ExportObject
from pipeline.export.polygon_quality import PolygonQuality
from pipeline.export.polygons import mask_to_parts
from pipeline.export.writer import Context, Writer

IMAGES = "images"
_VERSION = "5.5.0"
_DIGITS = 3


class LabelmeWriter(Writer):
    """Writes images/ with a JSON beside each image, of the same stem, and labels.txt.

    A mask becomes a polygon for each connected part, with its holes cut out; parts of one object share a `group_id`. A
    box without a mask becomes a rectangle. Crowds are left out. `description` holds the score.

    Source: labelme's LabelFile, whose version this names.
    """

    uses = frozenset({"epsilon"})

    def __init__(self, folder: Path, context: Context) -> None:
        super().__init__(folder, context)
        self._quality = PolygonQuality()
        self.write_text("labels.txt", "".join(f"{spec.name}\n" for spec in context.classes.classes))

    def add(self, image: ExportImage, side: str | None) -> None:
        """Write the JSON of an image."""
        image = self.context.without_crowds(image)
        path = PurePosixPath(self.context.names.unique(image.path, image.image_id))
        height, width = image.image_hw
        content: dict[str, Any] = {
            "version": _VERSION,
            "flags": {},
            "shapes": [shape for row, found in enumerate(image.objects, 1) for shape in self._shapes(found, row)],
            "imagePath": path.name,
            "imageData": None,
            "imageHeight": height,
            "imageWidth": width,
        }
        text = json.dumps(content, ensure_ascii=False, allow_nan=False, indent=1) + "\n"
        self.write_text(f"{IMAGES}/{path.with_suffix('.json')}", text)
        self.context.place(image, self.folder / IMAGES, str(path))
        self.context.count(image, side)

    def finish(self) -> None:
        """Note how well the polygons fit."""
        self.context.written.notes += filter(None, [self._quality.note()])

    def _shapes(self, found: ExportObject, row: int) -> list[dict[str, Any]]:
        common: dict[str, Any] = {
            "label": found.class_name,
            "group_id": None,
            "description": "" if found.score is None else f"score {found.score:.6g}",
            "flags": {},
            "mask": None,
        }
        if found.mask is None:
            left, top, right, bottom = (round(edge, _DIGITS) for edge in found.box_xyxy)
            return [common | {"points": [[left, top], [right, bottom]], "shape_type": "rectangle"}]
        polygons = [part.with_cuts() for part in mask_to_parts(found.mask, self.context.options.epsilon)]
        self._quality.measure(polygons, found.mask)
        group = row if len(polygons) > 1 else None
        return [
            common | {"points": polygon.round(_DIGITS).tolist(), "shape_type": "polygon", "group_id": group}
            for polygon in polygons
        ]
