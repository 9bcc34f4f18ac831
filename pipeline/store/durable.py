"""Files that are complete or absent, whatever dies: temporary name, flush, fsync, rename, fsync of the folder."""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

TEMPORARY = ".groundlabel-"
"""How the names of half-written files start."""


def write_file(path: Path, content: bytes | memoryview, durable: bool = True) -> None:
    """Write a file so that it is complete or absent.

    Args:
        path: The final name.
        content: All of it.
        durable: Wait until the disk has it; without, a power cut may bring the old file or an empty one back.

    Raises:
        OSError: The disk is full or the folder cannot be written; nothing is left under the final name.
    """
    write_parts(path, [content], durable)


def write_parts(path: Path, parts: Iterable[bytes | memoryview], durable: bool = True) -> None:
    """Write a file from parts, one after the other, as `write_file` does.

    Raises:
        OSError: As `write_file`.
    """
    temporary = path.with_name(f"{TEMPORARY}{os.uname().nodename}-{os.getpid()}-{path.name}")
    try:
        with open(temporary, "wb") as file:
            for part in parts:
                file.write(part)
            file.flush()
            if durable:
                os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    if durable:
        sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Wait until the names in a folder are on the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def leftovers(folder: Path) -> Iterator[Path]:
    """Yield the half-written files in a folder."""
    with os.scandir(folder) as listing:
        for entry in listing:
            if entry.name.startswith(TEMPORARY):
                yield folder / entry.name
