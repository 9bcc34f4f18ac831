"""CVAT's XML 1.1 for images: masks to the pixel, boxes, and where they came from as attributes."""

from collections.abc import Mapping
from pathlib import Path
from xml.sax.saxutils import escape, quoteattr

import numpy as np
from numpy.typing import NDArray

from models.mask_crops import crop_mask
from pipeline.export.objects import ExportImage, ExportObject
from pipeline.export.writer import Context, Writer

IMAGES = "images"
ANNOTATIONS = "annotations.xml"
_ATTRIBUTES = ("instance_id", "score", "mask_score", "prompt")


class CvatWriter(Writer):
    """Writes annotations.xml and images/; an image's `name` is its path below images/, as CVAT tasks have it.

    An object with a mask is a `<mask>`, another one a `<box>`; `source` is "auto" for what a model made. Crowds are
    left out: CVAT would take one for an object. The attributes are declared as text, so that CVAT keeps them.

    Source: CVAT's documentation, "CVAT for images 1.1".
    """

    def __init__(self, folder: Path, context: Context) -> None:
        super().__init__(folder, context)
        self._stream = self.open_text(ANNOTATIONS)
        self._count = 0
        self._stream.write('<?xml version="1.0" encoding="utf-8"?>\n<annotations>\n<version>1.1</version>\n')
        self._stream.write("<meta><task><name>groundlabel</name><mode>annotation</mode><labels>\n")
        fields = "<mutable>False</mutable><input_type>text</input_type><default_value></default_value><values></values>"
        declared = "".join(f"<attribute><name>{name}</name>{fields}</attribute>" for name in _ATTRIBUTES)
        for spec in context.classes.classes:
            color = "#{:02x}{:02x}{:02x}".format(*spec.color)
            self._stream.write(
                f"<label><name>{escape(spec.name)}</name><color>{color}</color><type>any</type>"
                f"<attributes>{declared}</attributes></label>\n"
            )
        self._stream.write("</labels></task></meta>\n")

    def add(self, image: ExportImage, side: str | None) -> None:
        """Write an `<image>` element."""
        image = self.context.without_crowds(image)
        height, width = image.image_hw
        head = {"id": self._count, "name": image.path, "width": width, "height": height}
        self._stream.write(_tag("image", head))
        for found in image.objects:
            self._stream.write(_shape(found))
        self._stream.write("</image>\n")
        self._count += 1
        self.context.place(image, self.folder / IMAGES, image.path)
        self.context.count(image, side)

    def finish(self) -> None:
        """Close the document."""
        self._stream.write("</annotations>\n")


def row_major_runs(mask: NDArray[np.bool_]) -> list[int]:
    """Return the lengths of the runs of 0, 1, 0 … of a mask (h, w), row by row; the first may be 0."""
    flat = mask.ravel().astype(np.int8)
    edges = np.flatnonzero(np.diff(flat)) + 1
    runs = np.diff(np.concatenate([[0], edges, [flat.size]])).tolist()
    return [0, *runs] if flat.size and flat[0] else list(runs)


def _shape(found: ExportObject) -> str:
    source = "manual" if found.provenance == "human" else "auto" if found.provenance == "model" else "semi-auto"
    head: dict[str, object] = {"label": found.class_name, "source": source, "occluded": 0}
    cropped = crop_mask(found.mask) if found.mask is not None else None
    if cropped is None:
        kind = "box"
        head |= {key: f"{edge:.2f}" for key, edge in zip(("xtl", "ytl", "xbr", "ybr"), found.box_xyxy, strict=True)}
    else:
        kind = "mask"
        head["rle"] = ", ".join(map(str, row_major_runs(cropped[1])))
        head |= dict(zip(("left", "top", "width", "height"), map(int, cropped[0]), strict=True))
    head["z_order"] = 0
    values = {name: getattr(found, name) for name in _ATTRIBUTES}
    texts = {name: f"{value:.6g}" if isinstance(value, float) else str(value) for name, value in values.items()}
    inner = "".join(
        f'<attribute name="{name}">{escape(texts[name])}</attribute>'
        for name in _ATTRIBUTES
        if values[name] is not None
    )
    return f"{_tag(kind, head)}{inner}</{kind}>\n"


def _tag(name: str, attributes: Mapping[str, object]) -> str:
    return f"<{name} " + " ".join(f"{key}={quoteattr(str(value))}" for key, value in attributes.items()) + ">"
