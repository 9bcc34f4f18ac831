"""Checks of entries: their form, ids, references and numbers."""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from pipeline.lint.findings import Finding
from pipeline.lint.regions import Kind
from pipeline.lint.table import Table, id_of, image_size, is_box

_NEEDED_TEXTS = {"image": "file_name", "category": "name"}


def check_form(table: Table) -> Iterator[Finding]:
    """S101: entries that are no objects or lack what every reader needs."""
    for kind in ("category", "image", "annotation"):
        for row, entry in enumerate(table.entries(kind)):
            if not isinstance(entry, dict):
                yield table.finding(kind, row, "S101", f"the entry is a {type(entry).__name__}, not an object")
                continue
            if id_of(entry) is None:
                yield table.finding(kind, row, "S101", "it has no id that is a number or a text")
            needed = _NEEDED_TEXTS.get(kind)
            if needed is not None and not isinstance(entry.get(needed), str):
                yield table.finding(kind, row, "S101", f"it has no {needed}")
            if kind == "image" and image_size(entry) is None:
                yield table.finding(kind, row, "S101", "width and height are not whole numbers over 0")
            if kind == "annotation" and not is_box(entry.get("bbox")):
                said = "no bbox" if entry.get("bbox") is None else "a bbox that is not four numbers"
                yield table.finding(kind, row, "S101", f"it has {said}")


def check_ids(table: Table) -> Iterator[Finding]:
    """S102, S103, S104: ids that two entries have."""
    for kind, code in (("annotation", "S102"), ("image", "S103"), ("category", "S104")):
        entries = table.entries(kind)
        first: dict[Any, int] = {}
        for row, entry in enumerate(entries):
            known = id_of(entry)
            if known is not None and first.setdefault(known, row) != row:
                same = "all is the same" if entry == entries[first[known]] else "another entry"
                yield table.finding(kind, row, code, f"{kind} {row} of the list has the id of {first[known]}: {same}")


def check_references(table: Table) -> Iterator[Finding]:
    """S105, S106: annotations of images and categories that the file does not have."""
    for code, key, rows in (
        ("S105", "image_id", table.image_rows),
        ("S106", "category_id", table.category_rows),
    ):
        for row in np.flatnonzero(rows < 0).tolist():
            entry = table.annotations[row]
            if isinstance(entry, dict):
                said = f"{key} {entry[key]!r} is no {key[:-3]} of this file" if key in entry else f"it has no {key}"
                yield table.finding("annotation", row, code, said)


def check_numbers(table: Table) -> Iterator[Finding]:
    """S107: NaN and infinity, which JSON does not know and which spoil what they are added to."""
    for kind in ("category", "image", "annotation"):
        entries = table.entries(kind)
        rows = range(len(entries)) if table.has_nan else _infinite_rows(table) if kind == "annotation" else []
        for row in rows:
            if isinstance(entries[row], dict):
                keys = [key for key, value in entries[row].items() if _has_nan(value)]
                if keys:
                    yield table.finding(kind, row, "S107", f"NaN or infinity in {', '.join(keys)}")


def _infinite_rows(table: Table) -> list[int]:
    """Return rows with a number such as 1e999, which is JSON and reads as infinity."""
    infinite = np.isinf(table.boxes_xywh).any(axis=1) | np.isinf(table.areas)
    has_mask = np.isin(table.regions.kinds, (Kind.POLYGONS, Kind.RLE))
    return [int(row) for row in np.flatnonzero(infinite | (has_mask & ~np.isfinite(table.regions.areas)))]


def _has_nan(value: Any) -> bool:
    if isinstance(value, float):
        return not math.isfinite(value)
    if isinstance(value, list):
        return any(map(_has_nan, value))
    return isinstance(value, dict) and any(map(_has_nan, value.values()))
