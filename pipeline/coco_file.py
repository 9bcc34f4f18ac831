"""COCO files as they lie on the disk: plain or compressed (.gz), whole or in the shards of one export."""

import gzip
import hashlib
import json
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from pipeline.errors import UserError
from pipeline.paths import stored_to_path

ANNOTATION_FILES = ("annotations.json", "instances.json", "_annotations.coco.json", "labels.json")
"""Names under which a folder holds COCO annotations; also with .gz behind."""
SHARD_NAME = "annotations-{:05d}.json"
"""Name of an export's shard by its number from 0; also with .gz behind."""
IMAGE_FOLDERS = (".", "images", "data")
"""Where images usually are, from the COCO file's folder."""
LISTS = ("images", "annotations", "categories")
"""What makes a JSON file one of COCO's."""

_ENDINGS = ("", ".gz")
_LOOKED_AT = 200


@dataclass(frozen=True)
class JsonFile:
    """A JSON file's content.

    Attributes:
        path: The file.
        content: Whatever it holds.
        has_nan: It has the words NaN or Infinity as numbers, which JSON does not know.
        digest: SHA-256 of its bytes, hexadecimal.
    """

    path: Path
    content: Any
    has_nan: bool
    digest: str


@dataclass(frozen=True)
class CocoFile:
    """The content of a COCO file, or of all shards of an export.

    Attributes:
        path: The file or folder, as the user names it.
        content: COCO's object; its lists LISTS exist and hold anything.
        has_nan: See `JsonFile`.
        digest: SHA-256 of the file; of shards, that of their digests.
        folder: Where the file is, or the shards are.
    """

    path: Path
    content: dict[str, Any]
    has_nan: bool
    digest: str
    folder: Path


def find_annotations(folder: Path) -> list[Path]:
    """Return the COCO file of a folder alone, else its shards in their order; empty where there is neither."""
    places = (folder / f"{name}{ending}" for name in ANNOTATION_FILES for ending in _ENDINGS)
    if (file := next((place for place in places if place.is_file()), None)) is not None:
        return [file]
    pattern = SHARD_NAME.replace("{:05d}", "*")
    return sorted(chain.from_iterable(folder.glob(pattern + ending) for ending in _ENDINGS))


def read_json_files(path: str | Path) -> list[JsonFile]:
    """Read a JSON file, or the COCO annotations in a folder.

    Returns:
        One file, or all shards of an export.

    Raises:
        UserError: There is none, one cannot be read, is not JSON, or a shard is missing.
    """
    path = Path(path)
    if not path.is_dir():
        return [_read_json(path)]
    files = find_annotations(path)
    if not files:
        raise UserError(f"{path}: neither a run nor an export: it has no {' or '.join(ANNOTATION_FILES)}")
    if files[0].name.removesuffix(".gz") not in ANNOTATION_FILES:
        numbered = [SHARD_NAME.format(number) for number in range(len(files))]
        missing = sorted(set(numbered) - {file.name.removesuffix(".gz") for file in files})
        if missing:
            raise UserError(f"{path}: its shard {missing[0]} is missing; put it back, or export again")
    return [_read_json(file) for file in files]


def _read_json(path: Path) -> JsonFile:
    constants: list[str] = []

    def keep(name: str) -> float:
        constants.append(name)
        return float(name)

    try:
        raw = path.read_bytes()
        content = json.loads(gzip.decompress(raw) if path.suffix == ".gz" else raw, parse_constant=keep)
    except (ValueError, EOFError, zlib.error, gzip.BadGzipFile, RecursionError) as error:
        raise UserError(f"{path}: not JSON: {error}") from error
    except FileNotFoundError as error:
        raise UserError(
            f"{path}: no such file or folder; give a COCO JSON, a run or the folder of an export"
        ) from error
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from error
    return JsonFile(path, content, bool(constants), hashlib.sha256(raw).hexdigest())


def join_coco(path: str | Path, files: Sequence[JsonFile]) -> CocoFile:
    """Take JSON files for COCO: one, or the shards of an export.

    Args:
        path: As the user names them.
        files: Of `read_json_files`; not empty.

    Raises:
        UserError: One is not COCO, or shards have different categories.
    """
    for file in files:
        content = file.content
        if not isinstance(content, dict) or not all(isinstance(content.get(name), list) for name in LISTS):
            has = ", ".join(map(str, content)) if isinstance(content, dict) else f"a {type(content).__name__}"
            hint = "; a list of results has no images and cannot stand alone" if isinstance(content, list) else ""
            raise UserError(
                f"{file.path}: not COCO: it must be an object with the lists {', '.join(LISTS)}, and has {has}{hint}"
            )
        if content["categories"] != files[0].content["categories"]:
            raise UserError(f"{file.path}: its categories are not those of {files[0].path}; export the shards again")
    first = files[0]
    if len(files) == 1:
        return CocoFile(Path(path), first.content, first.has_nan, first.digest, first.path.parent)
    joined = {name: list(chain.from_iterable(file.content[name] for file in files)) for name in LISTS[:2]}
    digest = hashlib.sha256("".join(file.digest for file in files).encode()).hexdigest()
    has_nan = any(file.has_nan for file in files)
    return CocoFile(Path(path), {**first.content, **joined}, has_nan, digest, first.path.parent)


def read_coco(path: str | Path) -> CocoFile:
    """Read a COCO file, also a compressed one (.gz), or the folder of a COCO export, also one in shards.

    Raises:
        UserError: There is none, it cannot be read, is not JSON, or not COCO.
    """
    return join_coco(path, read_json_files(path))


def find_image_folder(folder: Path, names: Sequence[str]) -> Path | None:
    """Return the usual folder in which most of the first images are; None where none of them is in any.

    Args:
        folder: Where the COCO file is.
        names: File names as it gives them.
    """
    looked_at = names[:_LOOKED_AT]
    found = {place: sum(locate_image(folder / place, name).is_file() for name in looked_at) for place in IMAGE_FOLDERS}
    best = max(found, key=lambda place: found[place])
    return folder / best if found[best] else None


def locate_image(folder: Path, name: str) -> Path:
    """Return where an image is: by its name as it stands, or by what it stands for in a run (`pipeline.paths`)."""
    path = folder / name
    return path if "%" not in name or path.is_file() else folder / stored_to_path(name)
