"""Checkpoints that are whole or absent."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import torch


@contextmanager
def _replacing(path: Path) -> Iterator[BinaryIO]:
    """Open a temporary file beside `path`; flush it to disk and rename it into place when the block ends well."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".part")
    with temporary.open("wb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def save_atomically(state: dict[str, Any], path: Path) -> None:
    """Write a state with `torch.save`, whole or not at all."""
    with _replacing(path) as file:
        torch.save(state, file)


def write_atomically(text: str, path: Path) -> None:
    """Write a UTF-8 text file, whole or not at all."""
    with _replacing(path) as file:
        file.write(text.encode("utf-8"))


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint; only tensors and plain values are accepted.

    Raises:
        FileNotFoundError: There is no such file.
    """
    if not path.exists():
        raise FileNotFoundError(f"no checkpoint at {path}; start without --resume")
    state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    return state
