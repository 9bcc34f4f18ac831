"""Finding the images: a folder, one file, a glob, a .txt list or a Parquet table of paths.

Nothing is opened here except lists: whether a file is an image shows when it is read, and one that is not becomes a
failed row. Ids come from the path relative to the image root, so the root is fixed by what was asked for:

- folder: the folder itself; it is searched with its sub-folders for the endings in `ENDINGS`, whatever their case.
  Hidden names (starting with ".") and run folders are left out. A link to a folder is followed once, and only after
  everything that is there without links; so loops end, and each real folder is read once.
- file: its folder. Glob ("photos/*/[ab]*.jpg", "photos/**/*.png"): the part before the first wildcard.
- .txt list (one path a line) or Parquet (a column named in `PATH_COLUMNS`): the folder of the list, or `root` when
  given. Relative paths start there; a path outside is refused.
"""

import glob
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import pyarrow.parquet as pq

from pipeline.errors import UserError
from pipeline.paths import path_to_image_id, path_to_stored, stored_to_path
from pipeline.store.run import RUN_FILE, SHARDS_FOLDER

ENDINGS = frozenset(
    (
        *(".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".apng", ".webp", ".bmp", ".dib", ".gif", ".tif", ".tiff"),
        *(".ppm", ".pgm", ".pbm", ".pnm", ".tga", ".ico", ".jp2", ".j2k", ".jpx", ".jpf", ".avif", ".avifs", ".pcx"),
        *(".sgi", ".rgb", ".rgba", ".bw", ".qoi", ".dds", ".psd"),
    )
)
"""Endings that a folder search takes for images, lower case; a list or a glob may name any file."""

PATH_COLUMNS = ("path", "filepath", "file_path", "image_path", "file_name", "image")

_SCHEME = re.compile(r"[a-z][a-z0-9+.-]+://", re.IGNORECASE)


class ImageRef(NamedTuple):
    """One image to label: its id and its stored path (see `pipeline.paths`)."""

    image_id: str
    path: str

    @classmethod
    def from_path(cls, path: str) -> "ImageRef":
        """Make the reference of a path relative to the root, as Python gives it."""
        return cls(path_to_image_id(path), path_to_stored(path))

    def locate(self, root: str) -> str:
        """Return the path to open."""
        return os.path.join(root, stored_to_path(self.path))


@dataclass(frozen=True)
class ImageSet:
    """What was found.

    Attributes:
        root: Absolute folder that the paths start from.
        refs: Sorted by stored path, each id once; not empty.
        others: Files in the searched folders that have no image's ending.
    """

    root: Path
    refs: tuple[ImageRef, ...]
    others: int


def find_images(images: str | Path | Sequence[str | Path], root: str | Path | None = None) -> ImageSet:
    """Find what a user names.

    Args:
        images: A folder, file, glob, .txt list or .parquet table; or paths one by one.
        root: Folder that the paths of a list start from; None means as the module says.

    Raises:
        UserError: There is no such thing, it has no images, or a list names a file outside of the root.
    """
    if not isinstance(images, str | Path):
        start = (
            Path(root) if root is not None else Path(os.path.commonpath([_parent(path) for path in images] or ["."]))
        )
        return _collect(start, _relative_paths(images, start.absolute(), "the list of images"), "the list of images")
    text = os.fspath(images)
    if _SCHEME.match(text):
        raise UserError(f"{text}: remote images cannot be read; copy them to this machine or mount their storage")
    path = Path(text)
    if not os.path.lexists(path):
        if glob.has_magic(text):
            return _find_glob(text, root)
        raise UserError(f"{text}: no such file or folder; give a folder of images, an image, a glob or a list")
    if path.is_dir():
        return _find_folder(path, root)
    if path.suffix.lower() in (".txt", ".parquet"):
        start = Path(root) if root is not None else path.parent
        entries = _read_text_list(path) if path.suffix.lower() == ".txt" else _read_parquet_list(path)
        return _collect(start, _relative_paths(entries, start.absolute(), text), text)
    start = Path(root) if root is not None else path.parent
    return _collect(start, _relative_paths([path.absolute()], start.absolute(), text), text)


def _parent(path: str | Path) -> str:
    return os.path.dirname(os.path.abspath(path))


def _collect(root: Path, paths: Iterator[str], source: str, others: int = 0) -> ImageSet:
    if not root.is_dir():
        raise UserError(f"{root}: no such folder to start the paths of {source} from; --root names another")
    refs = tuple(sorted({ImageRef.from_path(path) for path in paths}, key=lambda ref: ref.path))
    if not refs:
        hint = f" ({others} other files are there)" if others else ""
        raise UserError(f"{source}: no images found{hint}; known endings: {' '.join(sorted(ENDINGS))}")
    return ImageSet(root.absolute(), refs, others)


def _find_folder(folder: Path, root: str | Path | None) -> ImageSet:
    try:
        os.scandir(folder).close()
    except OSError as error:
        raise UserError(f"{folder}: cannot be read ({error.strerror}); check the folder's permissions") from error
    if root is not None and Path(root).absolute() != folder.absolute():
        raise UserError(f"--root {root}: only lists take a root; the root of a folder is the folder itself")
    others = 0
    found = []
    for name in walk_files(os.fspath(folder)):
        if os.path.splitext(name)[1].lower() in ENDINGS:
            found.append(name)
        else:
            others += 1
    return _collect(folder, iter(found), str(folder), others)


def walk_files(folder: str) -> Iterator[str]:
    """Yield the paths below a folder that are no folders, relative to it, in no promised order.

    Args:
        folder: To be read with its sub-folders; one that cannot be read counts as empty, except for itself.
    """
    visited: set[tuple[int, int]] = set()
    _is_new(folder, visited)
    links: list[str] = []
    waiting = [""]
    while waiting or links:
        if not waiting:
            links.sort(reverse=True)
            link = links.pop()
            if not _is_new(os.path.join(folder, link), visited):
                continue
            waiting.append(link)
        current = waiting.pop()
        try:
            with os.scandir(os.path.join(folder, current)) as listing:
                entries = [entry for entry in listing if not entry.name.startswith(".")]
        except OSError:
            continue
        names = {entry.name for entry in entries}
        if RUN_FILE in names and SHARDS_FOLDER in names:
            continue
        for entry in sorted(entries, key=lambda entry: entry.name):
            path = os.path.join(current, entry.name)
            if _is_folder(entry, follow=False):
                if _is_new(os.path.join(folder, path), visited):
                    waiting.append(path)
            elif _is_folder(entry, follow=True):
                links.append(path)
            else:
                yield path


def _is_folder(entry: os.DirEntry[str], follow: bool) -> bool:
    """Tell whether an entry is a folder; a link that leads nowhere or in a circle is none."""
    try:
        return entry.is_dir(follow_symlinks=follow)
    except OSError:
        return False


def _is_new(folder: str, visited: set[tuple[int, int]]) -> bool:
    """Note a real folder as visited; False when it was before, or is gone."""
    try:
        status = os.stat(folder)
    except OSError:
        return False
    identity = (status.st_dev, status.st_ino)
    if identity in visited:
        return False
    visited.add(identity)
    return True


def _find_glob(pattern: str, root: str | Path | None) -> ImageSet:
    fixed = []
    for part in Path(pattern).parts[:-1]:
        if glob.has_magic(part):
            break
        fixed.append(part)
    start = Path(root) if root is not None else Path(*fixed)
    found = (path for path in glob.iglob(pattern, recursive=True) if not os.path.isdir(path))
    if not start.is_dir():
        raise UserError(f"{pattern}: no such file or folder; the glob starts at {start}, which does not exist")
    absolute = [os.path.abspath(path) for path in found]
    return _collect(start, _relative_paths(absolute, start.absolute(), pattern), pattern)


def _relative_paths(entries: Sequence[str | Path], root: Path, source: str) -> Iterator[str]:
    """Yield each entry relative to the root, without touching the files."""
    base = os.path.normpath(root)
    for row, entry in enumerate(entries, start=1):
        text = os.fspath(entry)
        if _SCHEME.match(text):
            raise UserError(f"{source}, entry {row}: {text!r} is a remote address; only local files can be read")
        relative = os.path.relpath(os.path.normpath(os.path.join(base, text)), base)
        if relative == ".." or relative.startswith("../") or "\0" in text:
            raise UserError(
                f"{source}, entry {row}: {text!r} lies outside of {base}; --root names a folder that holds all of them"
            )
        yield relative


def _read_text_list(path: Path) -> list[str]:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    lines = (line.rstrip(b"\r") for line in content.removeprefix(b"\xef\xbb\xbf").split(b"\n"))
    return [os.fsdecode(line) for line in lines if line.strip()]


def _read_parquet_list(path: Path) -> list[str]:
    try:
        names = pq.read_schema(path).names
        column = next((name for name in PATH_COLUMNS if name in names), None)
        if column is None:
            raise UserError(f"{path}: no column of paths; it needs one of {', '.join(PATH_COLUMNS)}, has {names}")
        values: list[str] = pq.read_table(path, columns=[column]).column(column).to_pylist()
    except (OSError, ValueError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{path}: cannot be read as Parquet ({error})") from error
    if bad := next((row for row, value in enumerate(values, start=1) if not isinstance(value, str) or not value), None):
        raise UserError(f"{path}, row {bad}: the column {column!r} must hold a path in each row")
    return values
