"""A COCO file's entries as columns, so that a million annotations are looked at together."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeGuard

import numpy as np
from numpy.typing import NDArray

from pipeline.lint.findings import Finding
from pipeline.lint.regions import Regions, measure_regions

_NO_NUMBERS = (np.nan,) * 4


@dataclass(frozen=True)
class Table:
    """Entries of a COCO file; whatever is no object counts as an empty one.

    Attributes:
        images: I entries.
        annotations: N entries.
        categories: C entries.
        has_nan: See `CocoFile`.
    """

    images: list[Any]
    annotations: list[Any]
    categories: list[Any]
    has_nan: bool

    @classmethod
    def from_content(cls, content: dict[str, Any], has_nan: bool) -> "Table":
        """Take the lists of a COCO file."""
        return cls(content["images"], content["annotations"], content["categories"], has_nan)

    def column(self, key: str) -> list[Any]:
        """Return a value of each annotation; None where it is missing."""
        return [entry.get(key) if isinstance(entry, dict) else None for entry in self.annotations]

    @cached_property
    def boxes_xywh(self) -> NDArray[np.float64]:
        """(N, 4) pixels; NaN where there are not four numbers."""
        boxes = [box if is_box(box) else _NO_NUMBERS for box in self.column("bbox")]
        return np.array(boxes, np.float64).reshape(-1, 4)

    @cached_property
    def areas(self) -> NDArray[np.float64]:
        """(N,) `area` in square pixels; NaN where there is no number."""
        return np.array([area if is_number(area) else np.nan for area in self.column("area")], np.float64)

    @cached_property
    def crowds(self) -> NDArray[np.bool_]:
        """(N,) whether `iscrowd` is 1."""
        return np.array([crowd == 1 for crowd in self.column("iscrowd")], bool)

    @cached_property
    def image_rows(self) -> NDArray[np.int64]:
        """(N,) the row of each annotation's image, the first with its id; -1 for none."""
        return _rows_of(self.column("image_id"), self.images)

    @cached_property
    def category_rows(self) -> NDArray[np.int64]:
        """(N,) the row of each annotation's category, the first with its id; -1 for none."""
        return _rows_of(self.column("category_id"), self.categories)

    @cached_property
    def image_sizes(self) -> NDArray[np.float64]:
        """(I, 2) width and height in pixels; NaN where they are not whole numbers over 0."""
        sizes = [image_size(entry) or _NO_NUMBERS[:2] for entry in self.images]
        return np.array(sizes, np.float64).reshape(-1, 2)

    @cached_property
    def sizes(self) -> NDArray[np.float64]:
        """(N, 2) width and height of each annotation's image; NaN where they are not known."""
        with_none = np.concatenate([self.image_sizes, np.full((1, 2), np.nan)])
        return np.asarray(with_none[self.image_rows])

    @cached_property
    def regions(self) -> Regions:
        """What the segmentations enclose."""
        return measure_regions(self.column("segmentation"))

    def finding(self, kind: str, row: int, code: str, text: str) -> Finding:
        """Make a finding on an entry."""
        return Finding(kind, row, id_of(self.entries(kind)[row]), code, text)

    def entries(self, kind: str) -> list[Any]:
        """Return the list of "category", "image" or "annotation"."""
        return {"category": self.categories, "image": self.images, "annotation": self.annotations}[kind]


def is_number(value: Any) -> TypeGuard[int | float]:
    """Tell whether a value of a JSON file is a number, NaN and infinity included."""
    return type(value) is int or type(value) is float


def is_box(value: Any) -> bool:
    """Tell whether a value of a JSON file is a list of four numbers."""
    return isinstance(value, list) and len(value) == 4 and all(map(is_number, value))


def id_of(entry: Any) -> int | float | str | None:
    """Return an entry's id; None where it has none that can be one."""
    found = entry.get("id") if isinstance(entry, dict) else None
    return found if isinstance(found, int | float | str) and not isinstance(found, bool) else None


def image_size(entry: Any) -> tuple[int, int] | None:
    """Return (width, height) of an image's entry; None where they are not whole numbers over 0."""
    width, height = (entry.get("width"), entry.get("height")) if isinstance(entry, dict) else (None, None)
    if is_number(width) and is_number(height) and 1 <= width < np.inf and 1 <= height < np.inf:
        return (int(width), int(height)) if int(width) == width and int(height) == height else None
    return None


def _rows_of(ids: Sequence[Any], entries: Sequence[Any]) -> NDArray[np.int64]:
    rows: dict[Any, int] = {}
    for row, entry in enumerate(entries):
        if (known := id_of(entry)) is not None:
            rows.setdefault(known, row)
    return np.array([rows.get(key, -1) if isinstance(key, int | float | str) else -1 for key in ids], np.int64)
