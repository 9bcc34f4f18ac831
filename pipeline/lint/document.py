"""Reading a COCO file as it is, whatever is wrong inside, and finding the folder of its images."""

import gzip
import json
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.errors import UserError
from pipeline.export.coco_labels import IMAGE_FOLDERS
from pipeline.paths import stored_to_path

LISTS = ("images", "annotations", "categories")
"""What makes a JSON file one of COCO's."""

_LOOKED_AT = 200


@dataclass(frozen=True)
class CocoFile:
    """A COCO file's content.

    Attributes:
        path: As the user names it.
        content: The object; its lists LISTS exist and hold anything.
        has_nan: The file has the words NaN or Infinity as numbers, which JSON does not know.
    """

    path: Path
    content: dict[str, Any]
    has_nan: bool


def read_coco(path: str | Path) -> CocoFile:
    """Read a COCO file, also a compressed one (.gz).

    Raises:
        UserError: It cannot be read, is not JSON, or not COCO.
    """
    path = Path(path)
    constants: list[str] = []

    def keep(name: str) -> float:
        constants.append(name)
        return float(name)

    try:
        raw = path.read_bytes()
        content = json.loads(gzip.decompress(raw) if path.suffix == ".gz" else raw, parse_constant=keep)
    except (ValueError, EOFError, zlib.error, gzip.BadGzipFile, RecursionError) as error:
        raise UserError(f"{path}: not JSON: {error}") from error
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}; give a COCO JSON file") from error
    if not isinstance(content, dict) or not all(isinstance(content.get(name), list) for name in LISTS):
        has = ", ".join(map(str, content)) if isinstance(content, dict) else f"a {type(content).__name__}"
        raise UserError(f"{path}: not COCO: it must be an object with the lists {', '.join(LISTS)}, and has {has}")
    return CocoFile(path, content, bool(constants))


def find_image_folder(path: Path, names: Sequence[str]) -> Path | None:
    """Return the usual folder in which most of the first images are; None where none of them is in any.

    Args:
        path: The COCO file.
        names: File names as it gives them.
    """
    looked_at = names[:_LOOKED_AT]
    found = {
        folder: sum((path.parent / folder / name).is_file() for name in looked_at) for folder in reversed(IMAGE_FOLDERS)
    }
    best = max(found, key=lambda folder: found[folder], default="")
    return path.parent / best if found.get(best) else None


def locate_image(folder: Path, name: str) -> Path:
    """Return where an image is: by its name as it stands, or by what it stands for in a run (`pipeline.paths`)."""
    path = folder / name
    return path if "%" not in name or path.is_file() else folder / stored_to_path(name)
