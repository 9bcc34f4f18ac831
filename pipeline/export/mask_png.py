"""PNG maps for semantic and instance segmentation."""

import json
from pathlib import Path, PurePosixPath

import numpy as np

from pipeline.export.objects import ExportImage
from pipeline.export.raster import UNKNOWN_8_BIT, UNKNOWN_16_BIT, Maps, class_palette, paint, save_map
from pipeline.export.writer import Context, Writer

IMAGES = "images"
_MOST_PALETTE_CLASSES = UNKNOWN_8_BIT - 1


class MaskPngWriter(Writer):
    """Writes images/, semantic/, instances/, classes.json and instances.jsonl.

    semantic/: the class id, 0 for nothing, with 8 bits and the classes' colours as palette, 255 where it is unknown
    what is there (crowds, boxes without a mask); with more than 254 classes 16-bit grey and 65535. instances/: 16-bit
    grey, the object's place in instances.jsonl from 1, and 65535. Smaller objects lie on top of larger ones.
    instances.jsonl names for each image the objects' values, classes and ids, and how many pixels of each are seen.
    """

    def __init__(self, folder: Path, context: Context) -> None:
        super().__init__(folder, context)
        classes = context.classes.classes
        self._palette: list[int] | None = None
        if len(classes) <= _MOST_PALETTE_CLASSES:
            self._palette = class_palette(lambda class_id: classes[class_id - 1].color, len(classes))
        rows = [{"id": spec.id, "name": spec.name, "color": list(spec.color)} for spec in classes]
        unknown = UNKNOWN_8_BIT if self._palette else UNKNOWN_16_BIT
        content = {"nothing": 0, "unknown": unknown, "unknown_instance": UNKNOWN_16_BIT, "classes": rows}
        self.write_text("classes.json", json.dumps(content, ensure_ascii=False, indent=1) + "\n")
        self._unknown = unknown
        self._list = self.open_text("instances.jsonl")

    def add(self, image: ExportImage, side: str | None) -> None:
        """Write the maps of an image."""
        path = self.context.names.unique(image.path, image.image_id)
        below = PurePosixPath(path).with_suffix(".png")
        maps = paint(image, UNKNOWN_16_BIT)
        semantic = np.where(maps.semantic == UNKNOWN_16_BIT, self._unknown, maps.semantic).astype(np.uint16)
        save_map(semantic, self.folder / "semantic" / below, self._palette)
        save_map(maps.instances, self.folder / "instances" / below, None)
        self._list.write(json.dumps(_objects(image, maps, path), ensure_ascii=False) + "\n")
        self.context.place(image, self.folder / IMAGES, path)
        self.context.count(image, side)


def _objects(image: ExportImage, maps: Maps, path: str) -> dict[str, object]:
    values, counts = np.unique(maps.instances, return_counts=True)
    seen = dict(zip(values.tolist(), counts.tolist(), strict=True))
    objects = [
        {
            "value": UNKNOWN_16_BIT if found.mask is None or found.crowd else row,
            "class_id": found.class_id,
            "instance_id": found.instance_id,
            "score": found.score,
            "pixels_seen": 0 if found.mask is None or found.crowd else seen.get(row, 0),
        }
        for row, found in enumerate(image.objects, start=1)
    ]
    return {"image": path, "objects": objects}
