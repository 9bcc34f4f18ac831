"""Checks of categories: unused ones, and names that differ in letter case or spaces only."""

from collections.abc import Iterator

import numpy as np

from pipeline.lint.findings import Finding
from pipeline.lint.table import Table


def check_unused(table: Table) -> Iterator[Finding]:
    """C401: categories without an annotation."""
    used = set(np.unique(table.category_rows).tolist())
    for row, entry in enumerate(table.categories):
        if isinstance(entry, dict) and row not in used:
            yield table.finding("category", row, "C401", f"no annotation is of {entry.get('name')!r}")


def check_names(table: Table) -> Iterator[Finding]:
    """C402: categories whose names are the same but for letter case and spaces."""
    first: dict[str, int] = {}
    for row, entry in enumerate(table.categories):
        if isinstance(entry, dict) and isinstance(name := entry.get("name"), str):
            key = " ".join(name.casefold().split())
            if first.setdefault(key, row) != row:
                other = table.categories[first[key]]
                text = f"{name!r} is the name of category {other.get('id')} ({other['name']!r}), too"
                yield table.finding("category", row, "C402", text)
