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
from collections.abc import Iterable, Iterator, Sequence
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


@dataclass
class ImageSource:
    """What a user names, to be listed once.

    Attributes:
        root: Absolute folder that the paths start from.
        name: For messages.
        paths: Relative to the root, as Python gives them; reading it does the work and may raise a `UserError`.
        unique: No path comes twice.
        others: Files met so far that have no image's ending.
        may_be_empty: No path at all is no mistake.
    """

    root: Path
    name: str
    paths: Iterator[str]
    unique: bool = False
    others: int = 0
    may_be_empty: bool = False

    def nothing_found(self) -> UserError:
        """Return the error to raise when there was no path."""
        hint = f" ({self.others} other files are there)" if self.others else ""
        return UserError(f"{self.name}: no images found{hint}; known endings: {' '.join(sorted(ENDINGS))}")


def find_images(images: str | Path | Sequence[str | Path], root: str | Path | None = None) -> ImageSet:
    """Find what a user names.

    Args:
        images: A folder, file, glob, .txt list or .parquet table of paths; or paths one by one.
        root: Folder that the paths of a list start from; None means as the module says.

    Raises:
        UserError: There is no such thing, it has no images, or a list names a file outside of the root.
    """
    source = open_images(images, root)
    refs = tuple(sorted({ImageRef.from_path(path) for path in source.paths}, key=lambda ref: ref.path))
    if not refs:
        raise source.nothing_found()
    return ImageSet(source.root, refs, source.others)


def open_images(images: str | Path | Sequence[str | Path], root: str | Path | None = None) -> ImageSource:
    """Look at what a user names, without listing it.

    Args:
        images: As `find_images`.
        root: As `find_images`.

    Raises:
        UserError: There is no such thing.
    """
    if not isinstance(images, str | Path):
        start = (
            Path(root) if root is not None else Path(os.path.commonpath([_parent(path) for path in images] or ["."]))
        )
        return _list_source(start, images, "the list of images")
    text = os.fspath(images)
    if _SCHEME.match(text):
        raise UserError(f"{text}: remote images cannot be read; copy them to this machine or mount their storage")
    path = Path(text)
    if not os.path.lexists(path):
        if glob.has_magic(text):
            return _open_glob(text, root)
        raise UserError(f"{text}: no such file or folder; give a folder of images, an image, a glob or a list")
    if path.is_dir():
        return _open_folder(path, root)
    start = Path(root) if root is not None else path.parent
    if path.suffix.lower() in (".txt", ".parquet"):
        entries = _read_text_list(path) if path.suffix.lower() == ".txt" else _read_parquet_list(path)
        return _list_source(start, entries, text)
    return _list_source(start, [path.absolute()], text)


def _parent(path: str | Path) -> str:
    return os.path.dirname(os.path.abspath(path))


def _list_source(root: Path, entries: Iterable[str | Path], name: str) -> ImageSource:
    if not root.is_dir():
        raise UserError(f"{root}: no such folder to start the paths of {name} from; --root names another")
    return ImageSource(root.absolute(), name, _relative_paths(entries, root.absolute(), name))


def _open_folder(folder: Path, root: str | Path | None) -> ImageSource:
    try:
        os.scandir(folder).close()
    except OSError as error:
        raise UserError(f"{folder}: cannot be read ({error.strerror}); check the folder's permissions") from error
    if root is not None and Path(root).absolute() != folder.absolute():
        raise UserError(f"--root {root}: only lists take a root; the root of a folder is the folder itself")
    source = ImageSource(folder.absolute(), str(folder), iter(()), unique=True)

    def images() -> Iterator[str]:
        for name in walk_files(os.fspath(folder)):
            if os.path.splitext(name)[1].lower() in ENDINGS:
                yield name
            else:
                source.others += 1

    source.paths = images()
    return source


def walk_files(folder: str) -> Iterator[str]:
    """Yield the paths below a folder that are no folders, relative to it, sorted.

    What is reached through links to folders comes after the rest.

    Args:
        folder: To be read with its sub-folders; one that cannot be read counts as empty, except for itself.
    """
    visited: set[tuple[int, int]] = set()
    _is_new(folder, visited)
    links: list[str] = []
    open_folders = [_read_folder(folder, "", links)]
    while open_folders or links:
        if not open_folders:
            links.sort(reverse=True)
            link = links.pop()
            if _is_new(os.path.join(folder, link), visited):
                open_folders.append(_read_folder(folder, link, links))
            continue
        path = next(open_folders[-1], None)
        if path is None:
            open_folders.pop()
        elif not path.endswith("/"):
            yield path
        elif _is_new(os.path.join(folder, path), visited):
            open_folders.append(_read_folder(folder, path[:-1], links))


def _read_folder(top: str, inner: str, links: list[str]) -> Iterator[str]:
    """Return the entries of a folder, sorted as whole paths are; real folders end with "/", links to folders go apart.

    Args:
        top: The folder that paths are relative to.
        inner: The folder to read, relative to it.
        links: Is added to.
    """
    names = []
    try:
        with os.scandir(os.path.join(top, inner)) as listing:
            for entry in listing:
                if entry.name.startswith("."):
                    continue
                if _is_folder(entry, follow=False):
                    names.append(entry.name + "/")
                elif _is_folder(entry, follow=True):
                    links.append(os.path.join(inner, entry.name))
                else:
                    names.append(entry.name)
    except OSError:
        return iter(())
    if RUN_FILE in names and SHARDS_FOLDER + "/" in names:
        return iter(())
    names.sort()
    return (os.path.join(inner, name) for name in names)


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


def _open_glob(pattern: str, root: str | Path | None) -> ImageSource:
    fixed = []
    for part in Path(pattern).parts[:-1]:
        if glob.has_magic(part):
            break
        fixed.append(part)
    start = Path(root) if root is not None else Path(*fixed)
    if not start.is_dir():
        raise UserError(f"{pattern}: no such file or folder; the glob starts at {start}, which does not exist")
    found = sorted(os.path.abspath(path) for path in glob.iglob(pattern, recursive=True) if not os.path.isdir(path))
    return _list_source(start, found, pattern)


def _relative_paths(entries: Iterable[str | Path], root: Path, source: str) -> Iterator[str]:
    """Yield each entry relative to the root, without touching the files."""
    base = os.path.normpath(root)
    for row, entry in enumerate(entries, start=1):
        text = os.fspath(entry)
        if _SCHEME.match(text):
            raise UserError(f"{source}, entry {row}: {text!r} is a remote address; only local files can be read")
        relative = os.path.normpath(text)
        if relative.startswith(("/", "..")):
            relative = os.path.relpath(os.path.normpath(os.path.join(base, text)), base)
        if relative == ".." or relative.startswith("../") or "\0" in text:
            raise UserError(
                f"{source}, entry {row}: {text!r} lies outside of {base}; --root names a folder that holds all of them"
            )
        yield relative


def _read_text_list(path: Path) -> Iterator[str]:
    """Return the lines of a list, which is read on the way; whether it can be is found out now."""
    try:
        path.open("rb").close()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error

    def lines() -> Iterator[str]:
        with path.open("rb") as stream:
            for row, line in enumerate(stream):
                line = line.removeprefix(b"\xef\xbb\xbf") if row == 0 else line
                if line.strip():
                    yield os.fsdecode(line.rstrip(b"\n").rstrip(b"\r"))

    return lines()


def _read_parquet_list(path: Path) -> Iterator[str]:
    """Return the paths of a table; its schema is read now and its rows on the way."""
    try:
        table = pq.ParquetFile(path)
        names = table.schema_arrow.names
        column = next((name for name in PATH_COLUMNS if name in names), None)
        if column is None:
            raise UserError(f"{path}: no column of paths; it needs one of {', '.join(PATH_COLUMNS)}, has {names}")
    except (OSError, ValueError) as error:
        raise _no_table(path, error) from error

    def rows() -> Iterator[str]:
        row = 0
        with table:
            try:
                for batch in table.iter_batches(columns=[column]):
                    for value in batch.column(0).to_pylist():
                        row += 1
                        if not isinstance(value, str) or not value:
                            raise UserError(f"{path}, row {row}: the column {column!r} must hold a path in each row")
                        yield value
            except (OSError, ValueError) as error:
                raise _no_table(path, error) from error

    return rows()


def _no_table(path: Path, error: Exception) -> UserError:
    return error if isinstance(error, UserError) else UserError(f"{path}: cannot be read as Parquet ({error})")
