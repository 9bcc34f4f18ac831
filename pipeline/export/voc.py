"""Pascal VOC: an XML file an image with 1-based inclusive corners, and PNGs of its masks."""

import math
from pathlib import Path, PurePosixPath
from typing import TextIO
from xml.sax.saxutils import escape

from pipeline.errors import UserError
from pipeline.export.objects import ExportImage, ExportObject
from pipeline.export.raster import UNKNOWN_8_BIT, VOID_COLOR, paint, save_map, voc_palette
from pipeline.export.writer import Context, Writer

IMAGES = "JPEGImages"


class VocWriter(Writer):
    """Writes Annotations/, JPEGImages/, SegmentationObject/, SegmentationClass/, ImageSets/ and labelmap.txt.

    xmin and ymin count from 1, xmax and ymax are the last column and row of the object: a box of one pixel has
    xmin = xmax. PNGs are written for images with at least one mask; in them, crowds and boxes without a mask are 255
    (void), and crowds are `difficult`. Without a split, all images stand in ImageSets/*/train.txt.

    Source: the VOC 2012 development kit, its annotation files and documentation.
    """

    side_folders = False

    def __init__(self, folder: Path, context: Context) -> None:
        super().__init__(folder, context)
        classes = context.classes.classes
        if len(classes) >= UNKNOWN_8_BIT:
            raise UserError(f"VOC holds at most {UNKNOWN_8_BIT - 1} classes, not {len(classes)}; merge with --classes")
        self._palette = voc_palette()
        self._sets: dict[str, TextIO] = {}
        self._beyond = 0
        rows = ["# label:color_rgb:parts:actions", "background:0,0,0::"]
        for spec in classes:
            rows.append(f"{spec.name}:{','.join(map(str, self._palette[3 * spec.id : 3 * spec.id + 3]))}::")
        rows.append(f"ignored:{','.join(map(str, VOID_COLOR))}::")
        self.write_text("labelmap.txt", "\n".join(rows) + "\n")
        for kind in ("Main", "Segmentation"):
            self._list(kind, "train")

    def add(self, image: ExportImage, side: str | None) -> None:
        """Write the files of an image."""
        path = self.context.names.unique(image.path, image.image_id)
        stem = str(PurePosixPath(path).with_suffix(""))
        has_masks = any(found.mask is not None for found in image.objects)
        self.write_text(f"Annotations/{stem}.xml", _annotation(image, path, has_masks))
        for kind in ("Main", "Segmentation") if has_masks else ("Main",):
            self._list(kind, side or "train").write(f"{stem}\n")
        if has_masks:
            maps = paint(image, UNKNOWN_8_BIT)
            save_map(maps.instances, self.folder / "SegmentationObject" / f"{stem}.png", self._palette)
            save_map(maps.semantic, self.folder / "SegmentationClass" / f"{stem}.png", self._palette)
            self._beyond += max(0, len(image.objects) - (UNKNOWN_8_BIT - 1))
        self.context.place(image, self.folder / IMAGES, path)
        self.context.count(image, side)

    def finish(self) -> None:
        """Note objects that the PNGs could not tell apart."""
        if self._beyond:
            self.context.written.notes.append(
                f"{self._beyond} objects beyond the 254th of their image are void (255) in SegmentationObject"
            )

    def _list(self, kind: str, side: str) -> TextIO:
        """Return the open list of a side's images."""
        path = f"ImageSets/{kind}/{side}.txt"
        if path not in self._sets:
            self._sets[path] = self.open_text(path)
        return self._sets[path]


def _annotation(image: ExportImage, path: str, has_masks: bool) -> str:
    height, width = image.image_hw
    pure = PurePosixPath(path)
    head = [
        "<annotation>",
        f"  <folder>{escape(str(PurePosixPath(IMAGES, pure.parent)))}</folder>",
        f"  <filename>{escape(pure.name)}</filename>",
        "  <source><database>groundlabel</database></source>",
        f"  <size><width>{width}</width><height>{height}</height><depth>3</depth></size>",
        f"  <segmented>{int(has_masks)}</segmented>",
    ]
    return "\n".join([*head, *(_object(found, image.image_hw) for found in image.objects), "</annotation>"]) + "\n"


def _object(found: ExportObject, image_hw: tuple[int, int]) -> str:
    height, width = image_hw
    left, top, right, bottom = found.box_xyxy
    xmin, ymin = (min(max(math.floor(edge), 0), side - 1) + 1 for edge, side in ((left, width), (top, height)))
    xmax, ymax = (min(math.ceil(edge), side) for edge, side in ((right, width), (bottom, height)))
    cut = left < 0 or top < 0 or right > width or bottom > height
    return (
        f"  <object>\n    <name>{escape(found.class_name)}</name>\n    <pose>Unspecified</pose>\n"
        f"    <truncated>{int(cut)}</truncated>\n    <difficult>{int(found.crowd)}</difficult>\n"
        f"    <bndbox><xmin>{xmin}</xmin><ymin>{ymin}</ymin>"
        f"<xmax>{max(xmax, xmin)}</xmax><ymax>{max(ymax, ymin)}</ymax></bndbox>\n  </object>"
    )
