"""From labels to what training reads: a run, a COCO export or any COCO JSON becomes two checked COCO files.

Every problem is found before training starts and named with its file and annotation id: boxes outside of the image or
without area, unknown categories and images, missing and unreadable files.
"""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from PIL import Image

from models.class_spec import normalise_prompt
from pipeline.coco_file import find_image_folder, locate_image, read_coco
from pipeline.errors import UserError
from pipeline.export.labels import open_labels
from pipeline.export.objects import annotated_to_export
from pipeline.images import prepare_decoding, upright_size
from pipeline.records import AnnotatedImage, FailedImage
from pipeline.store.run import is_run

_TOLERANCE = 2.0
"""Pixels that a box may reach out of its image; annotation tools round."""
_SHOWN = 5


@dataclass(frozen=True)
class LabelledBox:
    """A box: x, y, width, height in pixels, its class, and where it was read, for messages."""

    box_xywh: tuple[float, float, float, float]
    name: str
    origin: str


@dataclass(frozen=True)
class LabelledFile:
    """An image file with its boxes.

    Attributes:
        key: What the split goes by: the same for the same image, wherever it lies.
        path: The file.
        boxes: Its boxes; may be empty.
        size: (width, height) as the labels give it, or None.
    """

    key: str
    path: Path
    boxes: tuple[LabelledBox, ...]
    size: tuple[int, int] | None = None


@dataclass
class TrainingData:
    """Labelled image files.

    Attributes:
        origin: The file or folder they were read from.
        names: The classes, normalised, in their order there.
        files: The images.
        problems: What is wrong, each with file and annotation id; what has one is not among the boxes or files.
        notes: What a person should know and need not change.
    """

    origin: Path
    names: list[str]
    files: list[LabelledFile]
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def read_training_data(data: str | Path, images: str | Path | None = None) -> TrainingData:
    """Read labels from a COCO JSON, the folder of a COCO export, or a run folder, and check them.

    Args:
        data: The file or folder.
        images: Folder that a COCO file's `file_name` is relative to; None looks beside the file and in `images/` there.

    Raises:
        UserError: There is no such thing, it is damaged, or a class name cannot be a prompt.
    """
    path = Path(data)
    if path.is_dir() and is_run(path):
        found = _read_run(path)
    else:
        found = _read_coco(path, Path(images) if images is not None else None)
    for name in found.names:
        if not name or any(mark in name for mark in ".?"):
            raise UserError(f"{path}: the class name {name!r} cannot be a prompt: empty, or with '.' or '?'; rename it")
    twice = [name for name, count in Counter(found.names).items() if count > 1]
    if twice:
        raise UserError(f"{path}: two classes are called {twice[0]!r} (letter case does not count); rename one")
    _check_files(found)
    return found


def _read_run(folder: Path) -> TrainingData:
    labels = open_labels(folder)
    found = TrainingData(folder, [normalise_prompt(spec.name) for spec in labels.ontology.classes], [])
    failed = 0
    for record in labels.records():
        if isinstance(record, FailedImage):
            failed += 1
            continue
        image = annotated_to_export(record) if isinstance(record, AnnotatedImage) else record
        place = f"of {image.path}"
        boxes = [
            LabelledBox(one.box_xywh, normalise_prompt(one.class_name), f"{folder}: instance {one.instance_id} {place}")
            for one in image.objects
            if not one.crowd
        ]
        height, width = image.image_hw
        found.files.append(LabelledFile(image.image_id, labels.image_path(image), tuple(boxes), (width, height)))
    if failed:
        found.notes.append(f"left out: {failed} images that failed in the run")
    return found


def _read_coco(file: Path, images: Path | None) -> TrainingData:
    coco = read_coco(file)
    content = coco.content
    try:
        names = {category["id"]: normalise_prompt(str(category["name"])) for category in content["categories"]}
        records = {record["id"]: str(record["file_name"]) for record in content["images"]}
    except (KeyError, TypeError) as error:
        raise UserError(f"{file}: an image or category lacks {error}") from error
    if len(records) != len(content["images"]):
        raise UserError(f"{file}: two images have the same id")
    found = TrainingData(file, list(names.values()), [])
    root = _image_root(coco.folder, list(records.values()), images)
    boxes: dict[Any, list[LabelledBox]] = {image_id: [] for image_id in records}
    crowds = 0
    for annotation in content["annotations"]:
        crowds += bool(annotation.get("iscrowd"))
        if not annotation.get("iscrowd"):
            _add_coco_box(found, annotation, names, records, boxes)
    if crowds:
        found.notes.append(f"left out: {crowds} crowd annotations")
    for record in content["images"]:
        size = (record["width"], record["height"]) if record.get("width") and record.get("height") else None
        key = str(record.get("groundlabel_id") or record["file_name"])
        found.files.append(LabelledFile(key, locate_image(root, record["file_name"]), tuple(boxes[record["id"]]), size))
    return found


def _add_coco_box(
    found: TrainingData,
    annotation: dict[str, Any],
    names: dict[Any, str],
    records: dict[Any, str],
    boxes: dict[Any, list[LabelledBox]],
) -> None:
    image_id, category_id, box = (annotation.get(key) for key in ("image_id", "category_id", "bbox"))
    origin = f"{found.origin}: annotation {annotation.get('id')}"
    if image_id not in records:
        found.problems.append(f"{origin} is of image {image_id}, which the file does not have")
        return
    origin += f" of {records[image_id]}"
    if category_id not in names:
        found.problems.append(f"{origin} is of category {category_id}, which the file does not have")
        return
    numbers = isinstance(box, list) and len(box) == 4 and all(isinstance(side, int | float) for side in box)
    if not isinstance(box, list) or not numbers or not all(math.isfinite(side) for side in box):
        found.problems.append(f"{origin} has no bbox of four numbers")
        return
    boxes[image_id].append(LabelledBox((box[0], box[1], box[2], box[3]), names[category_id], origin))


def _image_root(folder: Path, names: Sequence[str], images: Path | None) -> Path:
    """Return the folder in which most of the image files are."""
    if images is not None:
        if not images.is_dir():
            raise UserError(f"{images}: no such folder of images")
        return images
    return find_image_folder(folder, names) or folder


def _check_files(found: TrainingData) -> None:
    """Look at every image file and box; what has a problem is taken out."""
    prepare_decoding()
    whole = []
    for file in found.files:
        size, problem = _image_size(file.path)
        if size is None:
            found.problems.append(f"{found.origin}: {file.path} {problem}")
        elif file.size is not None and tuple(file.size) != size:
            found.problems.append(
                f"{found.origin}: {file.path} is {size[0]} × {size[1]} (upright), "
                f"its labels say {file.size[0]} × {file.size[1]}"
            )
        else:
            kept = []
            for box in file.boxes:
                if (reason := _box_problem(box.box_xywh, size)) is None:
                    kept.append(box)
                else:
                    found.problems.append(f"{box.origin}: {reason}")
            whole.append(replace(file, boxes=tuple(kept), size=size))
    found.files = whole


def _image_size(path: Path) -> tuple[tuple[int, int] | None, str]:
    """Return an image's upright (width, height) from its header, or None and what is wrong."""
    if not path.is_file():
        return None, "is missing; say where the images are with --images"
    try:
        size = upright_size(path)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        return None, f"is no image that can be read ({type(error).__name__})"
    return size, ""


def _box_problem(box_xywh: Sequence[float], size: tuple[int, int]) -> str | None:
    x, y, width, height = box_xywh
    if width <= 0 or height <= 0:
        return f"the box {_numbers(box_xywh)} has no area"
    if min(x, y) < -_TOLERANCE or x + width > size[0] + _TOLERANCE or y + height > size[1] + _TOLERANCE:
        return f"the box {_numbers(box_xywh)} reaches out of the image of {size[0]} × {size[1]}"
    return None


def _numbers(values: Iterable[float]) -> str:
    return "[" + ", ".join(f"{value:g}" for value in values) + "]"


def refuse_problems(found: TrainingData, skip_bad: bool) -> None:
    """Raise what is wrong with the data, or turn it into a note.

    Raises:
        UserError: There are problems and they are not to be skipped.
    """
    if not found.problems:
        return
    shown = "\n".join(f"  {problem}" for problem in found.problems[:_SHOWN])
    rest = len(found.problems) - _SHOWN
    shown += f"\n  … and {rest} more" if rest > 0 else ""
    if not skip_bad:
        raise UserError(
            f"{found.origin}: {len(found.problems)} problems in the data; "
            f"mend them or leave them out with --skip-bad\n{shown}"
        )
    found.notes.append(f"left out: {len(found.problems)} with problems\n{shown}")
