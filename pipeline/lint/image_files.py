"""Checks of image files: there, readable, of the size that the labels say, and no two of the same content."""

import hashlib
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from pipeline.coco_file import locate_image
from pipeline.images import UnreadableImageError, prepare_decoding, read_image
from pipeline.lint.findings import Finding
from pipeline.lint.table import Table, image_size


@dataclass(frozen=True)
class FileFacts:
    """What is known of one image file.

    Attributes:
        is_there: It is a file.
        reason: Why it cannot be read; "" where it can.
        size: (width, height) upright; None where it cannot be read.
        stored_size: (width, height) before the EXIF orientation is applied.
        digest: SHA-256 of the file; "" where it is not there.
    """

    is_there: bool
    reason: str = ""
    size: tuple[int, int] | None = None
    stored_size: tuple[int, int] | None = None
    digest: str = ""


def look_at_files(names: Sequence[str], folder: Path) -> dict[str, FileFacts]:
    """Read each image file once, as many at a time as there are cores.

    Args:
        names: Relative to the folder; one that comes twice is read once.
        folder: Of the images.
    """
    prepare_decoding()
    different = list(dict.fromkeys(names))
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        found = pool.map(lambda name: _look_at(locate_image(folder, name)), different)
        return dict(zip(different, found, strict=True))


def _look_at(path: Path) -> FileFacts:
    if not path.is_file():
        return FileFacts(is_there=False)
    try:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        height, width = read_image(path).shape[:2]
        with Image.open(path) as image:
            return FileFacts(True, "", (width, height), image.size, digest)
    except UnreadableImageError as error:
        return FileFacts(True, str(error), digest=digest)
    except OSError as error:
        return FileFacts(True, error.strerror or str(error))


def file_names(table: Table) -> list[str | None]:
    """Return the file name of each image; None where it has none."""
    return [
        entry["file_name"] if isinstance(entry, dict) and isinstance(entry.get("file_name"), str) else None
        for entry in table.images
    ]


def check_files(table: Table, files: dict[str, FileFacts]) -> Iterator[Finding]:
    """I501, I502, I503, I504: missing, unreadable, of another size, the same content as an earlier one."""
    first: dict[str, int] = {}
    for row, name in enumerate(file_names(table)):
        if name is None:
            continue
        facts = files[name]
        if not facts.is_there:
            yield table.finding("image", row, "I501", f"there is no file {name!r}")
        elif facts.size is None:
            yield table.finding("image", row, "I502", f"{name!r} cannot be read: {facts.reason}")
        else:
            given = image_size(table.images[row])
            if given is not None and given != facts.size:
                yield table.finding("image", row, "I503", _size_text(name, given, facts))
        if facts.digest and first.setdefault(facts.digest, row) != row:
            other: dict[str, Any] = table.images[first[facts.digest]]
            text = f"{name!r} has the content of {other['file_name']!r} (image {other.get('id')})"
            yield table.finding("image", row, "I504", text)


def _size_text(name: str, given: tuple[int, int], facts: FileFacts) -> str:
    upright, stored = facts.size, facts.stored_size
    text = f"{name!r} is said to be {given[0]} × {given[1]} and is {_times(upright)}"
    if stored == given:
        return f"{text} upright; the labels are of the pixels as stored, before the EXIF orientation"
    return text


def _times(size: tuple[int, int] | None) -> str:
    return " × ".join(map(str, size or ()))
