"""Setting right what has one right answer; docs/lint.md says what that is for each code."""

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.lint.boxes import box_ious, format_box, has_size
from pipeline.lint.findings import Finding
from pipeline.lint.image_files import FileFacts
from pipeline.lint.masks import has_mask
from pipeline.lint.regions import Kind
from pipeline.lint.table import Table, id_of, image_size, is_number

SAME_OBJECT_IOU = 0.5
"""Overlap of a box with its mask's from which both are of the same object, so that the mask's is right."""


@dataclass(frozen=True)
class Change:
    """What was changed because of a finding."""

    finding: Finding
    text: str


def fix_findings(
    content: dict[str, Any], table: Table, findings: Sequence[Finding], files: dict[str, FileFacts] | None
) -> tuple[dict[str, Any], list[Change]]:
    """Set right what has one right answer.

    Args:
        content: COCO's object; it stays as it is.
        table: Of it.
        findings: In it.
        files: What is known of the image files; None where they were not looked at.

    Returns:
        The mended object, and what was changed.
    """
    fixer = _Fixer(content, table, files or {})
    fixer.note_twins([finding.row for finding in findings if finding.code in ("B203", "S102")])
    changes = []
    for finding in findings:
        text = fixer.fix(finding)
        if text is not None:
            changes.append(Change(finding, text))
    return fixer.mended(), changes


class _Fixer:
    """Changes copies of entries.

    Args:
        content: COCO's object.
        table: Of it.
        files: What is known of the image files by name.
    """

    def __init__(self, content: dict[str, Any], table: Table, files: dict[str, FileFacts]) -> None:
        self._content = content
        self._table = table
        self._files = files
        self._new: dict[tuple[str, int], dict[str, Any]] = {}
        self._dropped: set[tuple[str, int]] = set()
        self._twins: set[int] = set()
        self._has_mask = has_mask(table)
        self._has_size = has_size(table)
        ids = [entry.get("id") for entry in table.annotations if isinstance(entry, dict)]
        self._first_rows = {kind: _first_rows(table.entries(kind)) for kind in ("category", "image")}
        self._next_id = max((known for known in ids if type(known) is int), default=0) + 1

    def note_twins(self, rows: Sequence[int]) -> None:
        """Remember which of these annotations say the same as an earlier one in everything but the id."""
        table = self._table
        images = {int(table.image_rows[row]) for row in rows}
        first: dict[str, int] = {}
        for row in np.flatnonzero(np.isin(table.image_rows, list(images))).tolist() if rows else []:
            rest = {key: value for key, value in table.annotations[row].items() if key != "id"}
            if first.setdefault(json.dumps(rest, sort_keys=True), row) != row:
                self._twins.add(row)

    def fix(self, finding: Finding) -> str | None:
        """Return what was done about a finding; None where there is no one right answer."""
        if (finding.kind, finding.row) in self._dropped or finding.kind == "file":
            return None
        ways: dict[str, Callable[[Finding], str | None]] = {
            "S101": self._fill_in,
            "S102": self._drop_copy_or_renumber,
            "S103": self._drop_copy,
            "S104": self._drop_copy,
            "S107": self._replace_nan,
            "B201": self._clip,
            "B202": self._box_from_mask,
            "B203": self._drop_twin,
            "M301": self._correct_area,
            "M302": self._box_from_mask,
            "M304": self._drop_open_parts,
            "M308": self._correct_crowd,
        }
        return ways[finding.code](finding) if finding.code in ways else None

    def mended(self) -> dict[str, Any]:
        """Return the object with all changes."""
        lists = {}
        for kind, key in (("category", "categories"), ("image", "images"), ("annotation", "annotations")):
            lists[key] = [
                self._new.get((kind, row), entry)
                for row, entry in enumerate(self._content[key])
                if (kind, row) not in self._dropped
            ]
        return {**self._content, **lists}

    def _entry(self, finding: Finding) -> dict[str, Any]:
        """Return the entry's copy to change."""
        key = (finding.kind, finding.row)
        return self._new.setdefault(key, dict(self._table.entries(finding.kind)[finding.row]))

    def _drop(self, finding: Finding) -> str:
        self._dropped.add((finding.kind, finding.row))
        return f"left out the copy, {finding.kind} {finding.row} of the list"

    def _fill_in(self, finding: Finding) -> str | None:
        entry = self._table.entries(finding.kind)[finding.row]
        if finding.kind == "annotation" and isinstance(entry, dict) and entry.get("bbox") is None:
            return self._box_from_mask(finding)
        if finding.kind == "image" and isinstance(entry, dict) and image_size(entry) is None:
            facts = self._files.get(str(entry.get("file_name")))
            if facts is not None and facts.size is not None and facts.size == facts.stored_size:
                changed = self._entry(finding)
                changed["width"], changed["height"] = facts.size
                return f"width and height are the file's, {facts.size[0]} × {facts.size[1]}"
        return None

    def _drop_copy(self, finding: Finding) -> str | None:
        entries = self._table.entries(finding.kind)
        first = entries[self._first_rows[finding.kind][finding.id]]
        return self._drop(finding) if first == entries[finding.row] else None

    def _drop_copy_or_renumber(self, finding: Finding) -> str | None:
        if finding.row in self._twins:
            return self._drop(finding)
        if type(finding.id) is not int:
            return None
        self._entry(finding)["id"] = self._next_id
        self._next_id += 1
        return f"annotation {finding.row} of the list has the new id {self._next_id - 1}"

    def _drop_twin(self, finding: Finding) -> str | None:
        return self._drop(finding) if finding.row in self._twins else None

    def _replace_nan(self, finding: Finding) -> str | None:
        if finding.kind != "annotation":
            return None
        done = []
        entry = self._table.annotations[finding.row]
        if not np.isfinite(self._table.boxes_xywh[finding.row]).all() and self._has_mask[finding.row]:
            done.append(self._box_from_mask(finding))
        if is_number(entry.get("area")) and not math.isfinite(entry["area"]):
            done.append(self._correct_area(finding))
        return "; ".join(text for text in done if text is not None) or None

    def _box_from_mask(self, finding: Finding) -> str | None:
        row = finding.row
        if not self._has_mask[row]:
            return None
        bounds = self._table.regions.bounds_xywh[row]
        if self._has_size[row] and box_ious(self._table.boxes_xywh[row : row + 1], bounds[None])[0] < SAME_OBJECT_IOU:
            return None
        if not (bounds[2:] > 0).all():
            return None
        self._entry(finding)["bbox"] = _numbers(bounds)
        return f"bbox is the mask's, {format_box(bounds)}"

    def _correct_area(self, finding: Finding) -> str | None:
        row = finding.row
        if self._has_mask[row]:
            area, what = float(self._table.regions.areas[row]), "mask"
        elif self._has_size[row] and self._table.regions.kinds[row] != Kind.BROKEN:
            area, what = float(self._table.boxes_xywh[row, 2:].prod()), "box"
        else:
            return None
        self._entry(finding)["area"] = _numbers(np.array([area]))[0]
        return f"area is the {what}'s, {area:g}"

    def _clip(self, finding: Finding) -> str | None:
        """Cut a box off at the border of an image whose file confirms its size."""
        row = finding.row
        image = self._table.images[self._table.image_rows[row]]
        facts = self._files.get(str(image.get("file_name")))
        if facts is None or facts.size is None or facts.size != image_size(image) or self._has_mask[row]:
            return None
        box = self._table.boxes_xywh[row]
        low = np.maximum(box[:2], 0)
        high = np.minimum(box[:2] + box[2:], self._table.sizes[row])
        if not (high > low).all():
            return None
        clipped = np.concatenate([low, high - low])
        self._entry(finding)["bbox"] = _numbers(clipped)
        text = f"bbox ends at the image's border, {format_box(clipped)}"
        if math.isclose(self._table.areas[row], box[2:].prod(), rel_tol=1e-6):
            area = clipped[2:].prod()
            self._entry(finding)["area"] = _numbers(np.array([area]))[0]
            text += f", and area with it, {area:g}"
        return text

    def _drop_open_parts(self, finding: Finding) -> str | None:
        row = finding.row
        if not self._has_mask[row]:
            return None
        entry = self._entry(finding)
        open_parts = self._table.regions.open_parts[row]
        segmentation = self._table.annotations[row]["segmentation"]
        if len(entry["segmentation"]) < len(segmentation):
            return None
        entry["segmentation"] = [part for place, part in enumerate(segmentation) if place not in open_parts]
        return f"left out polygons that enclose nothing: {', '.join(map(str, open_parts))}"

    def _correct_crowd(self, finding: Finding) -> str | None:
        given = self._table.annotations[finding.row].get("iscrowd")
        if given is None and self._table.regions.kinds[finding.row] in (Kind.RLE, Kind.BROKEN):
            return None
        if given is None or (isinstance(given, bool | float) and given in (0, 1)):
            self._entry(finding)["iscrowd"] = int(given or 0)
            return f"iscrowd is {int(given or 0)}"
        return None


def _first_rows(entries: Sequence[Any]) -> dict[Any, int]:
    """Return id -> row of the first entry with it."""
    rows: dict[Any, int] = {}
    for row, entry in enumerate(entries):
        rows.setdefault(id_of(entry), row)
    return rows


def _numbers(values: Any) -> list[int | float]:
    """Return numbers for JSON, whole ones without a point."""
    return [int(value) if value == int(value) else float(value) for value in values.tolist()]
