"""Annotation files that a person edited in a tool of their own, as images with objects: COCO, CVAT's XML, Label Studio.

Only what tells one object from another is read: its id where the file kept ours, class, box and mask.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

from pipeline.errors import UserError
from pipeline.export.coco_labels import CocoLabels
from pipeline.export.objects import ExportImage
from pipeline.reviewed.cvat_file import read_cvat
from pipeline.reviewed.label_studio_file import is_label_studio, read_label_studio

_IN_FOLDERS = ("annotations.xml", "tasks.json")
"""Names that CVAT and our own exports give their files; COCO's are `pipeline.coco_file`'s."""


def read_edited(path: str | Path) -> Iterator[ExportImage]:
    """Yield the images of a COCO file, a "CVAT for images 1.1" or a Label Studio JSON, or of a folder with one of them.

    Of Label Studio only the tasks with an annotation are yielded: in the others nobody did anything. Where a file does
    not say how large an image is, it is (0, 0).

    Raises:
        UserError: There is no such file, it is none of these, or a shape in it cannot be read.
    """
    place = Path(path)
    file = next((place / name for name in _IN_FOLDERS if (place / name).is_file()), place)
    if not file.is_file():
        yield from CocoLabels.open(path).records()
        return
    try:
        if _starts_with(file, "<"):
            yield from read_cvat(file, ElementTree.parse(file).getroot())
            return
        if _starts_with(file, "["):
            tasks = json.loads(file.read_text(encoding="utf-8-sig"))
            if not is_label_studio(tasks):
                raise UserError(f"{file}: a list, but not of Label Studio's tasks; export them as JSON (not JSON-MIN)")
            yield from read_label_studio(file, tasks)
            return
    except (OSError, ValueError, ElementTree.ParseError) as error:
        raise UserError(f"{file}: the file cannot be read ({error})") from error
    yield from CocoLabels.open(file).records()


def _starts_with(file: Path, sign: str) -> bool:
    """Tell how a text file starts, without spaces and the mark of its encoding; a compressed one starts otherwise."""
    with file.open("rb") as stream:
        return stream.read(64).decode(errors="replace").lstrip("\ufeff \t\r\n").startswith(sign)
