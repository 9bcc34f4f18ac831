"""Reading the labels of an evaluation: a run, an export, a COCO file or a COCO list of results."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from models.class_spec import normalise_prompt
from models.masks import Rle, mask_areas, mask_boxes_xywh
from pipeline.box_source import BoxSource, refuse_boxes_without_run
from pipeline.coco_file import CocoFile, find_image_folder, join_coco, read_json_files
from pipeline.errors import UserError
from pipeline.export.labels import Labels, open_labels
from pipeline.export.objects import annotated_to_export
from pipeline.paths import stored_to_path
from pipeline.proof.label_set import LabelledImage, LabelSet, Objects
from pipeline.records import AnnotatedImage, FailedImage
from pipeline.store.run import is_run


@dataclass
class _Columns:
    """The columns of `Objects`, while they are filled."""

    image_rows: list[int] = field(default_factory=list)
    class_rows: list[int] = field(default_factory=list)
    boxes_xywh: list[Sequence[float]] = field(default_factory=list)
    areas: list[float] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    crowd: list[bool] = field(default_factory=list)
    masks: list[Rle | None] = field(default_factory=list)

    def close(self) -> Objects:
        return Objects(
            np.array(self.image_rows, np.int64),
            np.array(self.class_rows, np.int64),
            np.array(self.boxes_xywh, np.float64).reshape(-1, 4),
            np.array(self.areas, np.float64),
            np.array(self.scores, np.float64),
            np.array(self.crowd, np.bool_),
            tuple(self.masks),
        )


def read_label_set(
    path: str | Path, truth: LabelSet | None = None, images: Path | None = None, boxes: BoxSource = "mask"
) -> LabelSet:
    """Read labels.

    Args:
        path: A run folder, the folder of a COCO export, a COCO JSON (also .json.gz), or a COCO list of results.
        truth: What a list of results takes its image and category ids from; None refuses such a list.
        images: Folder that the paths of a COCO file start from; None looks where exports have it.
        boxes: Whose boxes the objects of a run have, as an export would write them.

    Raises:
        UserError: There is no such thing, it is damaged, a list of results does not go with the truth, or other boxes
            are asked of what is no run.
    """
    path = Path(path)
    if path.is_dir() and is_run(path):
        return collect_labels(open_labels(path, boxes=boxes))
    refuse_boxes_without_run(path, boxes)
    files = read_json_files(path)
    if isinstance(files[0].content, list):
        return _read_results(path, files[0].content, truth)
    return _read_coco(join_coco(path, files), images)


def collect_labels(labels: Labels) -> LabelSet:
    """Return the labels of a run, or reviewed ones; boxes are as an export has them."""
    folder = labels.folder
    images: list[LabelledImage] = []
    failed: list[tuple[str, str]] = []
    columns = _Columns()
    scored = 0
    root: Path | None = None
    for record in labels.records():
        if isinstance(record, FailedImage):
            failed.append((record.path, record.reason))
            continue
        if root is None:
            root = _root_of(labels.image_path(record), record.path)
        image = annotated_to_export(record) if isinstance(record, AnnotatedImage) else record
        for found in image.objects:
            columns.image_rows.append(len(images))
            columns.class_rows.append(found.class_id - 1)
            columns.boxes_xywh.append(found.box_xywh)
            columns.areas.append(found.area)
            columns.scores.append(1.0 if found.score is None else found.score)
            columns.crowd.append(found.crowd)
            columns.masks.append(found.mask)
            scored += found.score is not None
        images.append(LabelledImage(image.path, image.image_hw))
    names = _normalised(folder, [spec.name for spec in labels.ontology.classes])
    has_scores = scored == len(columns.scores)
    return LabelSet(folder, names, tuple(images), columns.close(), has_scores, root, tuple(failed), True, {}, {})


def _root_of(file: Path, stored: str) -> Path:
    """Return the folder that a stored path starts from, given where its file is."""
    return file.parents[len(Path(stored_to_path(stored)).parts) - 1]


def _read_coco(coco: CocoFile, images: Path | None) -> LabelSet:
    file, content = coco.path, coco.content
    try:
        classes = {category["id"]: row for row, category in enumerate(content["categories"])}
        names = _normalised(file, [str(category["name"]) for category in content["categories"]])
        rows = {image["id"]: row for row, image in enumerate(content["images"])}
        listed = tuple(
            LabelledImage(str(image["file_name"]), (int(image["height"]), int(image["width"])))
            for image in content["images"]
        )
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{file}: an image or category lacks or has a wrong {error}") from error
    if len(rows) != len(listed) or len(classes) != len(names):
        raise UserError(f"{file}: two images or two categories have the same id")
    objects, has_scores = _read_annotations(file, content["annotations"], rows, classes, listed)
    root = images or find_image_folder(coco.folder, [image.path for image in listed])
    return LabelSet(file, names, listed, objects, has_scores, root, (), True, rows, classes)


def _read_results(file: Path, content: list[Any], truth: LabelSet | None) -> LabelSet:
    if truth is None or not truth.coco_images:
        raise UserError(
            f"{file}: a list of results has the image and category ids of a COCO file; "
            "it can only be PREDICTIONS, and TRUTH must be that COCO file"
        )
    objects, has_scores = _read_annotations(file, content, truth.coco_images, truth.coco_classes, truth.images)
    root = truth.image_root
    return LabelSet(file, truth.names, truth.images, objects, has_scores, root, (), False, {}, {})


def _read_annotations(
    file: Path,
    annotations: Iterable[Any],
    images: Mapping[Any, int],
    classes: Mapping[Any, int],
    listed: Sequence[LabelledImage],
) -> tuple[Objects, bool]:
    """Return the objects, and whether each of them has a score."""
    columns = _Columns()
    scored = 0
    for place, annotation in enumerate(annotations):
        if not isinstance(annotation, dict):
            raise UserError(f"{file}: element {place} of its annotations is no object")
        origin = f"{file}: annotation {annotation.get('id', f'at place {place}')}"
        image, category = annotation.get("image_id"), annotation.get("category_id")
        if image not in images:
            raise UserError(f"{origin} is of image {image!r}, which the truth or the file does not have")
        if category not in classes:
            raise UserError(f"{origin} is of category {category!r}, which the truth or the file does not have")
        mask = _mask(annotation.get("segmentation"), listed[images[image]].image_hw, origin)
        box = _box(annotation.get("bbox"), mask, origin)
        area = annotation.get("area")
        if area is None:
            area = float(mask_areas([mask])[0]) if mask is not None else box[2] * box[3]
        columns.image_rows.append(images[image])
        columns.class_rows.append(classes[category])
        columns.boxes_xywh.append(box)
        columns.areas.append(_number(area, f"{origin}: area"))
        columns.scores.append(_number(annotation.get("score", 1.0), f"{origin}: score"))
        columns.crowd.append(bool(annotation.get("iscrowd")))
        columns.masks.append(mask)
        scored += "score" in annotation
    return columns.close(), bool(columns.scores) and scored == len(columns.scores)


def _box(box: Any, mask: Rle | None, origin: str) -> Sequence[float]:
    if box is None and mask is not None:
        return [float(side) for side in mask_boxes_xywh([mask])[0]]
    if not isinstance(box, list) or len(box) != 4:
        raise UserError(f"{origin} has no bbox of four numbers")
    return [_number(side, f"{origin}: bbox") for side in box]


def _number(value: Any, what: str) -> float:
    if not isinstance(value, int | float) or not math.isfinite(value):
        raise UserError(f"{what} must be a finite number, not {value!r}")
    return float(value)


def _mask(segmentation: Any, image_hw: tuple[int, int], origin: str) -> Rle | None:
    """Return COCO's segmentation (polygons or RLE, compressed or not) as one RLE; None where it is empty or absent."""
    if not segmentation:
        return None
    try:
        if isinstance(segmentation, list):
            return Rle.from_coco(coco_mask.merge(coco_mask.frPyObjects(segmentation, *image_hw)))
        rle = Rle.from_coco(segmentation)
    except (TypeError, ValueError, KeyError, IndexError) as error:
        raise UserError(f"{origin}: its segmentation cannot be read ({error})") from error
    if rle.size != image_hw:
        raise UserError(f"{origin}: its mask is {rle.size[0]} × {rle.size[1]}, its image {image_hw[0]} × {image_hw[1]}")
    return rle


def _normalised(origin: Path, names: Iterable[str]) -> tuple[str, ...]:
    found = tuple(normalise_prompt(name) for name in names)
    for row, name in enumerate(found):
        if name in found[:row]:
            raise UserError(f"{origin}: two classes are called {name!r} (letter case does not count); rename one")
    return found
