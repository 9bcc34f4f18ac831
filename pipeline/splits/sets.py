"""Labelled images from a run or a COCO file, as a split needs them, and COCO files of each side."""

import json
import os
import shutil
import tempfile
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.coco_file import find_image_folder, locate_image, read_coco
from pipeline.errors import UserError
from pipeline.export import ExportOptions, export_run
from pipeline.export.coco_head import read_video_names, video_of
from pipeline.paths import path_to_image_id
from pipeline.splits.sides import SplitImage
from pipeline.store.run import Run, is_run


@dataclass(frozen=True)
class LabelSet:
    """Labelled images.

    Attributes:
        path: The file or folder, as the user names it.
        content: COCO's object.
        images: One for each element of `content["images"]`, in its order.
    """

    path: Path
    content: dict[str, Any]
    images: tuple[SplitImage, ...]


def read_set(source: str | Path, images: str | Path | None = None) -> LabelSet:
    """Read the labels of a run, a COCO file or the folder of a COCO export.

    Args:
        source: The file or folder.
        images: Folder that `file_name` is relative to; None looks beside the file and in images/ and data/ there.

    Raises:
        UserError: There is no such thing, it is damaged, or there is no such folder of images.
    """
    source = Path(source)
    if images is not None and not Path(images).is_dir():
        raise UserError(f"{images}: no such folder of images")
    if is_run(source):
        return _read_run(source, images)
    coco = read_coco(source)
    names = [_file_name(image, source) for image in coco.content["images"]]
    folder = Path(images) if images is not None else find_image_folder(coco.folder, names)
    return LabelSet(source, coco.content, _split_images(coco.content, names, folder))


def _read_run(source: Path, images: str | Path | None) -> LabelSet:
    """Read a run through its COCO export, so that ids are those of an export of the whole run."""
    with tempfile.TemporaryDirectory(prefix="groundlabel-split-") as temporary:
        written = export_run(source, Path(temporary) / "coco", "coco", ExportOptions(images="none"))
        content = read_coco(written.output).content
    folder = Path(images) if images is not None else Run.open(source).images_root
    names = [_file_name(image, source) for image in content["images"]]
    return LabelSet(source, content, _split_images(content, names, folder))


def _file_name(image: Any, source: Path) -> str:
    if isinstance(image, dict) and isinstance(image.get("file_name"), str) and isinstance(image.get("id"), int | str):
        return str(image["file_name"])
    raise UserError(f"{source}: an image without id or file_name: {str(image)[:100]}; see `groundlabel lint {source}`")


def _split_images(content: Mapping[str, Any], names: Sequence[str], folder: Path | None) -> tuple[SplitImage, ...]:
    categories = {
        category["id"]: str(category.get("name", category["id"]))
        for category in content["categories"]
        if isinstance(category, dict) and isinstance(category.get("id"), int | str)
    }
    classes: defaultdict[Any, list[str]] = defaultdict(list)
    for annotation in content["annotations"]:
        if isinstance(annotation, dict) and isinstance(annotation.get("image_id"), int | str):
            category_id = annotation.get("category_id")
            name = categories.get(category_id) if isinstance(category_id, int | str) else None
            classes[annotation["image_id"]].append(f"category {category_id}" if name is None else name)
    videos = read_video_names(content.get("videos"))
    found = []
    for image, name in zip(content["images"], names, strict=True):
        given = image.get("groundlabel_id")
        image_id = given if isinstance(given, str) and given else path_to_image_id(name)
        file = locate_image(folder, name) if folder is not None else None
        found.append(SplitImage(image_id, name, tuple(classes[image["id"]]), file, video_of(image, videos)))
    return tuple(found)


def write_sides(found: LabelSet, sides: Mapping[str, str], names: Sequence[str], output: Path, overwrite: bool) -> None:
    """Write FOLDER/train.json and so on: the images of a side with their annotations, everything else as it was.

    Args:
        found: What was split; entries keep their ids and all of their keys.
        sides: Image id -> side.
        names: The sides; one without images becomes a file with none.
        output: Made where it does not exist.
        overwrite: Replace the files of an earlier split.

    Raises:
        UserError: A file is there and not to be replaced, or an annotation has no image, so no side.
    """
    check_output(output, names, overwrite)
    side_of = {
        entry["id"]: sides[image.image_id] for entry, image in zip(found.content["images"], found.images, strict=True)
    }
    rest = {key: value for key, value in found.content.items() if key not in ("images", "annotations")}
    parts = {name: {**rest, "images": [], "annotations": []} for name in names}
    for entry, image in zip(found.content["images"], found.images, strict=True):
        parts[sides[image.image_id]]["images"].append(entry)
    for annotation in found.content["annotations"]:
        image_id = annotation.get("image_id") if isinstance(annotation, dict) else None
        if not isinstance(image_id, int | str) or image_id not in side_of:
            raise UserError(
                f"{found.path}: an annotation of image {image_id}, which the file does not have; "
                f"see `groundlabel lint {found.path}`"
            )
        parts[side_of[image_id]]["annotations"].append(annotation)
    output.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(prefix=".groundlabel-", dir=output))
    try:
        for name, content in parts.items():
            (part / f"{name}.json").write_text(json.dumps(content, separators=(",", ":")) + "\n", encoding="ascii")
        for name in names:
            os.replace(part / f"{name}.json", output / f"{name}.json")
    finally:
        shutil.rmtree(part)


def check_output(output: Path, names: Sequence[str], overwrite: bool) -> None:
    """Raise UserError where the files of a split cannot be written."""
    if output.exists() and not output.is_dir():
        raise UserError(f"{output} is a file; --output must be a folder")
    there = [f"{name}.json" for name in names if (output / f"{name}.json").exists()]
    if there and not overwrite:
        raise UserError(f"{output} has {', '.join(there)}; choose another --output, or replace them with --overwrite")
