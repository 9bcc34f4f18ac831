"""The folder of an export: written aside and moved in when complete, never over somebody's files."""

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from pipeline.errors import UserError

MARKER = "export.json"
"""Says what an export holds and what was left out; its presence marks a folder as ours to overwrite."""
IMAGE_MODES = ("link", "copy", "none")
_PART = ".groundlabel-part"


@dataclass(frozen=True)
class ExportOptions:
    """What every format takes.

    Attributes:
        images: "link" (symbolic links), "copy" or "none": how image files come into the export.
        overwrite: Replace an earlier export in the same folder.
        licence: Name of the licence of the images, for formats that carry one.

    Raises:
        UserError: `images` is none of the three.
    """

    images: str = "link"
    overwrite: bool = False
    licence: str = ""

    def __post_init__(self) -> None:
        if self.images not in IMAGE_MODES:
            raise UserError(f"images must be one of {', '.join(IMAGE_MODES)}, not {self.images!r}")


@dataclass
class Written:
    """What an export holds and what it left out.

    Attributes:
        output: The folder.
        images: Images in it, also those without objects.
        annotations: Objects in it.
        failed: (path, reason) of each image that failed in the run.
        empty_masks: (path, instance id) of each object whose mask has no pixel.
    """

    output: Path
    images: int = 0
    annotations: int = 0
    failed: list[tuple[str, str]] = field(default_factory=list)
    empty_masks: list[tuple[str, str]] = field(default_factory=list)


def export_folder(
    output: Path, format_name: str, fingerprint: str, options: ExportOptions, write: Callable[[Path], Written]
) -> Written:
    """Let `write` fill an empty folder inside the output, then put its files in place.

    Args:
        output: Made where it does not exist.
        format_name: For the marker.
        fingerprint: Of the labels, for the marker.
        options: Whether an earlier export may be replaced.
        write: Fills the folder that it is given.

    Raises:
        UserError: The output is a file, or holds something that is not to be replaced.
        OSError: Writing failed; the output is as it was before.
    """
    if output.exists() and not output.is_dir():
        raise UserError(f"{output} is a file; --output must be a folder")
    earlier = _earlier_entries(output, options.overwrite)
    part = output / _PART
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    try:
        written = write(part)
        written.output = output
        entries = sorted(entry.name for entry in part.iterdir())
        (part / MARKER).write_text(_marker(written, format_name, fingerprint, options, entries), encoding="utf-8")
        for name in earlier:
            _remove(output / name)
        for name in [*entries, MARKER]:
            if os.path.lexists(output / name):
                raise UserError(f"{output / name} is in the way and not from an earlier export; move it away")
            os.replace(part / name, output / name)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return written


def place_image(source: Path, folder: Path, path: str, mode: str) -> None:
    """Bring one image file into an export.

    Args:
        source: The image file of the run.
        folder: The folder of images in the export.
        path: Its POSIX path below that folder.
        mode: One of IMAGE_MODES.

    Raises:
        UserError: The file is gone, or its path leads out of the folder.
    """
    if mode == "none":
        return
    parts = PurePosixPath(path).parts
    if ".." in parts or PurePosixPath(path).is_absolute():
        raise UserError(f"{path!r} leads out of the export's folder; export with --images none")
    if not source.is_file():
        raise UserError(f"the image {source} of the run is gone; put it back or export with --images none")
    target = folder.joinpath(*parts)
    target.parent.mkdir(parents=True, exist_ok=True)
    if mode == "link":
        target.symlink_to(source.resolve())
    else:
        shutil.copy2(source, target)


def _earlier_entries(output: Path, overwrite: bool) -> list[str]:
    """Return the names of an earlier export's files in a folder; none where the folder is free."""
    if not output.is_dir() or all(entry.name == _PART for entry in output.iterdir()):
        return []
    if not overwrite:
        raise UserError(
            f"{output} is not empty; choose another --output, or replace an earlier export with --overwrite"
        )
    try:
        names = json.loads((output / MARKER).read_text(encoding="utf-8"))["files"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{output} holds files and no readable {MARKER}, so it is no earlier export and is not overwritten; "
            "choose another --output"
        ) from error
    return [PurePosixPath(str(name)).name for name in [*names, MARKER]]


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _marker(written: Written, format_name: str, fingerprint: str, options: ExportOptions, entries: list[str]) -> str:
    content: dict[str, Any] = {
        "format": format_name,
        "fingerprint": fingerprint,
        "image_mode": options.images,
        "files": entries,
        "images": written.images,
        "annotations": written.annotations,
        "failed_images": [{"path": path, "reason": reason} for path, reason in written.failed],
        "empty_masks": [{"path": path, "instance_id": instance_id} for path, instance_id in written.empty_masks],
    }
    return json.dumps(content, indent=2, allow_nan=False) + "\n"
