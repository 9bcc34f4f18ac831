"""Writing a mended COCO file: complete or not at all, and never over something that is there."""

import gzip
import json
from pathlib import Path
from typing import Any

from pipeline.errors import UserError
from pipeline.store.durable import write_file


def check_target(path: Path) -> None:
    """Raise UserError where a file cannot be written without replacing something."""
    if path.exists():
        raise UserError(f"{path} is there already; --fix writes a new file, so choose another name")
    if not path.absolute().parent.is_dir():
        raise UserError(f"{path.parent}: no such folder to write {path.name} into")


def write_fixed(content: dict[str, Any], path: Path) -> None:
    """Write a COCO file, compressed where its name ends in .gz; a NaN that could not be mended stays one.

    Args:
        content: COCO's object.
        path: A new file.

    Raises:
        OSError: Writing failed; there is no file.
    """
    data = (json.dumps(content, separators=(",", ":")) + "\n").encode("ascii")
    write_file(path, gzip.compress(data) if path.suffix == ".gz" else data)
