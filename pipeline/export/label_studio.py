"""Label Studio: a task an image, masks as brush strokes to the pixel, and the labelling interface to go with them."""

import math
from pathlib import Path
from typing import Any
from urllib.parse import quote
from xml.sax.saxutils import quoteattr

import numpy as np
from numpy.typing import NDArray

from models.masks import decode_mask
from pipeline.export.json_list import JsonList
from pipeline.export.objects import ExportImage, ExportObject
from pipeline.export.writer import Context, Writer

IMAGES = "images"
_SIZES = (3, 4, 8, 16)
"""Bits of a run's length that the packing may choose from."""
_CHANNELS = 4


class LabelStudioWriter(Writer):
    """Writes tasks.json, label_config.xml and images/.

    The objects of an image in which a person drew or corrected one become an annotation, those of a model alone a
    prediction with its score: so an annotation always holds all of an image, and can be read back. Boxes are
    percentages of the image. The images' address is that of Label Studio's local storage: serve this folder as its
    document root (LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT). Crowds are left out.

    Source: Label Studio's documentation of its JSON and of brush results.
    """

    def __init__(self, folder: Path, context: Context) -> None:
        super().__init__(folder, context)
        labels = "".join(
            "    <Label value={} background={}/>\n".format(
                quoteattr(spec.name), quoteattr("#{:02x}{:02x}{:02x}".format(*spec.color))
            )
            for spec in context.classes.classes
        )
        parts = "".join(
            f'  <{kind} name="{name}" toName="image">\n{labels}  </{kind}>\n'
            for kind, name in (("BrushLabels", "brush"), ("RectangleLabels", "box"))
        )
        self.write_text("label_config.xml", f'<View>\n  <Image name="image" value="$image"/>\n{parts}</View>\n')
        self._stream = self.open_text("tasks.json")
        self._stream.write("[")
        self._list = JsonList(self._stream)

    def add(self, image: ExportImage, side: str | None) -> None:
        """Write the task of an image."""
        image = self.context.without_crowds(image)
        task: dict[str, Any] = {
            "data": {
                "image": f"/data/local-files/?d={quote(f'{IMAGES}/{image.path}')}",
                "image_id": image.image_id,
                "path": image.path,
            }
        }
        results = [_result(found, image.image_hw) for found in image.objects]
        if any(found.provenance != "model" for found in image.objects):
            task["annotations"] = [{"result": results}]
        elif results:
            scores = [found.score for found in image.objects if found.score is not None]
            task["predictions"] = [
                {
                    "model_version": self.context.labels.fingerprint[:16],
                    "score": float(np.mean(scores)) if scores else 0.0,
                    "result": results,
                }
            ]
        self._list.add(task)
        self.context.place(image, self.folder / IMAGES, image.path)
        self.context.count(image, side)

    def finish(self) -> None:
        """Close the list."""
        self._stream.write("\n]\n")


def _result(found: ExportObject, image_hw: tuple[int, int]) -> dict[str, Any]:
    height, width = image_hw
    result: dict[str, Any] = {
        "id": found.instance_id,
        "to_name": "image",
        "original_width": width,
        "original_height": height,
        "image_rotation": 0,
    }
    if found.score is not None:
        result["score"] = found.score
    if found.mask is not None:
        value: dict[str, Any] = {"format": "rle", "rle": pack_brush(decode_mask(found.mask))}
        return result | {
            "type": "brushlabels",
            "from_name": "brush",
            "value": value | {"brushlabels": [found.class_name]},
        }
    left, top, box_width, box_height = found.box_xywh
    value = {
        "x": 100 * left / width,
        "y": 100 * top / height,
        "width": 100 * box_width / width,
        "height": 100 * box_height / height,
        "rotation": 0,
        "rectanglelabels": [found.class_name],
    }
    return result | {"type": "rectanglelabels", "from_name": "box", "value": value}


def pack_brush(mask: NDArray[np.bool_]) -> list[int]:
    """Pack a mask (H, W) as Label Studio's brush has it: the bytes of an RGBA picture, run by run.

    Returns:
        Bytes: 32 bits with the number of values, 5 with the size of one less one, 4 × 4 with the sizes of a run's
        length less one; then a run each: a 1, two bits for the size that is used, the length less one, and the value.

    Source: the packing of thi.ng/rle-pack, which Label Studio uses.
    """
    flat = mask.ravel()
    bits = [f"{flat.size * _CHANNELS:032b}", f"{7:05b}", *(f"{size - 1:04b}" for size in _SIZES)]
    edges = np.flatnonzero(np.diff(flat.astype(np.int8))) + 1
    starts = np.concatenate([[0], edges])
    lengths = np.diff(np.concatenate([starts, [flat.size]])) * _CHANNELS
    longest = 1 << _SIZES[-1]
    for value, length in zip(flat[starts].tolist(), lengths.tolist(), strict=True):
        for begin in range(0, length, longest):
            run = min(length - begin, longest) - 1
            choice = next(row for row, size in enumerate(_SIZES) if run < 1 << size)
            bits.append(f"1{choice:02b}{run:0{_SIZES[choice]}b}{255 if value else 0:08b}")
    text = "".join(bits)
    text = text.ljust(8 * math.ceil(len(text) / 8), "0")
    return [int(text[start : start + 8], 2) for start in range(0, len(text), 8)]
