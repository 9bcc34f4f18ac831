"""Labels with everything that a format may stumble over, for the tests of the exports."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from models.masks import Rle, encode_mask, mask_boxes_xywh
from models.ontology import Ontology
from pipeline.export.objects import ExportImage, ExportObject, LabelRecord
from pipeline.paths import path_to_image_id, stored_to_path
from pipeline.records import FailedImage

ONTOLOGY = Ontology.from_names(["round thing", "dot & <dash>", "Straße"])
HW = (60, 80)


@dataclass
class Labels:
    """Labels in memory, with their images in a folder."""

    folder: Path
    rows: Sequence[LabelRecord]
    ontology: Ontology = ONTOLOGY
    fingerprint: str = "e" * 64
    settings: dict[str, Any] = field(default_factory=lambda: {"groundlabel": "0.0.0", "parts": {}})

    def records(self) -> Iterator[LabelRecord]:
        return iter(self.rows)

    def image_path(self, record: Any) -> Path:
        return self.folder / stored_to_path(record.path)

    def images(self) -> dict[str, ExportImage]:
        return {row.path: row for row in self.rows if isinstance(row, ExportImage)}


def ring() -> NDArray[np.bool_]:
    """Return a ring with a second hole beside its centre, and a disc within it."""
    rows, columns = np.ogrid[: HW[0], : HW[1]]
    distance = np.hypot(columns - 36.5, rows - 30)
    mask = (distance < 24) & (distance > 12) | (distance < 5)
    mask[28:32, 52:55] = False
    return np.asarray(mask)


def two_parts() -> NDArray[np.bool_]:
    """Return a mask of a slanted bar and a block apart from it, both at the border."""
    mask = np.zeros(HW, bool)
    for row in range(20):
        mask[row, row // 2 : row // 2 + 6] = True
    mask[40:60, 60:80] = True
    return mask


def pixel() -> NDArray[np.bool_]:
    """Return a mask of the last pixel alone."""
    mask = np.zeros(HW, bool)
    mask[-1, -1] = True
    return mask


def masked(name: str, class_id: int, mask: NDArray[np.bool_], **more: Any) -> ExportObject:
    """Return an object that a model found, with its mask's box."""
    rle = encode_mask(mask)
    left, top, width, height = (float(side) for side in mask_boxes_xywh([rle])[0])
    values = {"score": 0.875, "mask_score": 0.75, "prompt": "a thing", "provenance": "model"} | more
    box = (left, top, left + width, top + height)
    return ExportObject(name, class_id, ONTOLOGY.name_of(class_id), box, float(mask.sum()), rle, **values)


def boxed(name: str, class_id: int, box: tuple[float, float, float, float]) -> ExportObject:
    """Return an object that a person drew as a box."""
    area = (box[2] - box[0]) * (box[3] - box[1])
    return ExportObject(name, class_id, ONTOLOGY.name_of(class_id), box, area, provenance="human")


def image(path: str, *objects: ExportObject) -> ExportImage:
    """Return a labelled image."""
    return ExportImage(path_to_image_id(path), path, HW, objects)


def rich_rows() -> list[LabelRecord]:
    """Return holes, parts, a pixel, a box alone, a crowd, two images of one stem, empty images and a failure."""
    crowd = np.zeros(HW, bool)
    crowd[5:25, 5:75] = True
    rows: list[LabelRecord] = [
        FailedImage(path_to_image_id("kaputt.jpg"), "kaputt.jpg", "not a whole image"),
        image("leer.jpg"),
        image(
            "other/001.jpg",
            boxed("b0", 3, (10.5, 20.25, 40.75, 50.0)),
            masked("b1", 1, crowd, crowd=True, score=None, mask_score=None, prompt=None, provenance=None),
        ),
        image("other/001.png", masked("c0", 2, pixel())),
        image("straße/001 ß.jpg", masked("a0", 1, ring()), masked("a1", 2, two_parts())),
        image("zzz.jpg"),
    ]
    return rows


def make_labels(folder: Path, rows: Sequence[LabelRecord] | None = None) -> Labels:
    """Write the images of records and return the labels."""
    labels = Labels(folder, rich_rows() if rows is None else rows)
    rng = np.random.default_rng(0)
    for row in labels.rows:
        if isinstance(row, ExportImage):
            path = labels.image_path(row)
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, 255, (*row.image_hw, 3), dtype=np.uint8)).save(path)
    return labels


def same_mask(rle: Rle | None, mask: NDArray[Any]) -> bool:
    """Say whether a mask is the same to the pixel."""
    return rle is not None and rle == encode_mask(np.asarray(mask, dtype=bool))
