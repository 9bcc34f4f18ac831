"""The folder of an export: written aside and moved in when complete, never over somebody's files."""

import json
import os
import shutil
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from pipeline.checksums import file_sha256
from pipeline.errors import UserError
from pipeline.export.empties import EmptyRule
from pipeline.export.names import check_inside
from pipeline.proof.box_sizes import BoxSizes

MARKER = "export.json"
"""Says what an export holds and what was left out; its presence marks a folder as ours to overwrite."""
IMAGE_MODES = ("link", "copy", "none")
COMPRESSIONS = ("none", "gzip")
ID_KINDS = ("stable", "count")
_CHUNK = 1 << 20
_PART = ".groundlabel-part"


@dataclass(frozen=True)
class ExportOptions:
    """What every format takes; each says in docs/exports.md which of the last four it uses.

    Attributes:
        images: "link" (symbolic links), "copy" or "none": how image files come into the export.
        overwrite: Replace an earlier export in the same folder.
        licence: Name of the licence of the images, for formats that carry one.
        empty: Which images without objects are kept: "keep", "drop" or a percentage such as "10%".
        classes: File that renames, merges and drops classes (`pipeline.export.classes`); None keeps them.
        compression: "none" or "gzip", of COCO's JSON.
        ids: Of COCO's lists: "stable" (a COCO file's own, else from the image alone) or "count" (1, 2, 3 …).
        epsilon: Most pixels by which a polygon may be simplified; 0 keeps every pixel.
        shard_size: Most images in a file of a format that has many; 0 means the format's default.

    Raises:
        UserError: A value is none of these.
    """

    images: str = "link"
    overwrite: bool = False
    licence: str = ""
    empty: str = "keep"
    classes: str | Path | None = None
    compression: str = "none"
    ids: str = "stable"
    epsilon: float = 0.0
    shard_size: int = 0

    def __post_init__(self) -> None:
        choices = (("images", IMAGE_MODES), ("compression", COMPRESSIONS), ("ids", ID_KINDS))
        for name, known in choices:
            if getattr(self, name) not in known:
                raise UserError(f"{name} must be one of {', '.join(known)}, not {getattr(self, name)!r}")
        EmptyRule.parse(self.empty)
        if not 0 <= self.epsilon <= 100:
            raise UserError(f"--epsilon must be 0 to 100 pixels, not {self.epsilon}")
        if self.shard_size < 0:
            raise UserError(f"--shard-size must be at least 1, not {self.shard_size}")


@dataclass
class Written:
    """What an export holds and what it left out.

    Attributes:
        output: The folder.
        images: Images in it, also those without objects.
        annotations: Objects in it.
        failed: (path, reason) of each image that failed in the run.
        empty_masks: (path, instance id) of each object whose mask has no pixel.
        empty_images: Images in it without objects.
        dropped_empty: Images left out because they hold nothing.
        dropped_classes: Objects left out by the class file, by their old class.
        not_expressible: Objects that the format has no words for, by reason.
        unassigned: Images left out because the split gave them no side.
        class_counts: Side ("" without a split) -> objects of each class.
        box_sizes: Class -> sizes of its boxes, over all sides.
        image_counts: Side -> images.
        provenance: Objects by what made them: "model", "human", "model+human" or "unknown".
        renamed: (path, path in the export) of each image that goes by another name there.
        licences: Images by the name of the licence that the source gives them.
        sha256: Of files at the top of the folder that were hashed already; the others are when all is written.
        notes: What a person should know, one line each.
    """

    output: Path
    images: int = 0
    annotations: int = 0
    failed: list[tuple[str, str]] = field(default_factory=list)
    empty_masks: list[tuple[str, str]] = field(default_factory=list)
    empty_images: int = 0
    dropped_empty: int = 0
    dropped_classes: Counter[str] = field(default_factory=Counter)
    not_expressible: Counter[str] = field(default_factory=Counter)
    unassigned: int = 0
    class_counts: dict[str, Counter[str]] = field(default_factory=dict)
    box_sizes: defaultdict[str, BoxSizes] = field(default_factory=lambda: defaultdict(BoxSizes))
    image_counts: Counter[str] = field(default_factory=Counter)
    provenance: Counter[str] = field(default_factory=Counter)
    renamed: list[tuple[str, str]] = field(default_factory=list)
    licences: Counter[str] = field(default_factory=Counter)
    sha256: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


Finish = Callable[[Path, Written], None]
"""Adds files to an export that is written but not yet in its place, such as a datasheet."""


def export_folder(
    output: Path,
    format_name: str,
    fingerprint: str,
    options: ExportOptions,
    write: Callable[[Path], Written],
    finish: Finish | None = None,
) -> Written:
    """Let `write` fill an empty folder inside the output, then put its files in place.

    Args:
        output: Made where it does not exist.
        format_name: For the marker.
        fingerprint: Of the labels, for the marker.
        options: Whether an earlier export may be replaced.
        write: Fills the folder that it is given.
        finish: Called after it with the same folder and what was written.

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
        if finish is not None:
            finish(part, written)
        written.output = output
        entries = sorted(entry.name for entry in part.iterdir())
        head = {"format": format_name, "fingerprint": fingerprint, "image_mode": options.images, "files": entries}
        _write_marker(part, head | _summary(written), written.sha256)
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
    check_inside(path)
    check_image(source)
    target = folder / path
    target.parent.mkdir(parents=True, exist_ok=True)
    if mode == "link":
        target.symlink_to(source.resolve())
    else:
        shutil.copy2(source, target)


def check_image(source: Path) -> None:
    """Refuse an image file that is not there.

    Raises:
        UserError: It is gone.
    """
    if not source.is_file():
        raise UserError(f"the image {source} is gone; put it back or export with --images none")


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


def checksums(folder: Path, known: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Yield (path below the folder, SHA-256) of every file in it that is no link, sorted within each folder.

    Args:
        folder: Holds files and folders.
        known: Of files that need not be read again, by their path below the folder.
    """
    for root, folders, names in os.walk(folder):
        folders.sort()
        for name in sorted(names):
            path = Path(root, name)
            if not path.is_symlink():
                place = path.relative_to(folder).as_posix()
                yield place, known.get(place) or file_sha256(path)


def _summary(written: Written) -> dict[str, Any]:
    return {
        "images": written.images,
        "annotations": written.annotations,
        "sides": {
            side: {"images": count, "objects": dict(sorted(written.class_counts.get(side, Counter()).items()))}
            for side, count in sorted(written.image_counts.items())
        },
        "provenance": dict(sorted(written.provenance.items())),
        "notes": written.notes,
        "images_without_objects": written.empty_images,
        "left_out": {
            "images_without_objects": written.dropped_empty,
            "images_without_a_side": written.unassigned,
            "objects_by_class": dict(sorted(written.dropped_classes.items())),
            "objects_by_reason": dict(sorted(written.not_expressible.items())),
        },
        "renamed_images": [{"path": path, "as": new} for path, new in written.renamed],
        "failed_images": [{"path": path, "reason": reason} for path, reason in written.failed],
        "empty_masks": [{"path": path, "instance_id": instance_id} for path, instance_id in written.empty_masks],
    }


def _write_marker(folder: Path, content: dict[str, Any], known: Mapping[str, str]) -> None:
    """Write the marker, with the checksums of all other files one by one as its last part."""
    head = json.dumps(content, indent=2, allow_nan=False).removesuffix("\n}")
    between = "\n"
    with (folder / MARKER).open("x", encoding="utf-8") as stream:
        stream.write(head + ',\n  "sha256": {')
        for path, digest in checksums(folder, known):
            if path != MARKER:
                stream.write(f"{between}    {json.dumps(path)}: {json.dumps(digest)}")
                between = ",\n"
        stream.write("\n  }\n}\n")
