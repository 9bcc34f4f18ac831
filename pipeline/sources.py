"""Finding the images: a folder, one file, a glob, a .txt list or a Parquet table of paths; or addresses of them.

Nothing is opened here except lists: whether a file is an image shows when it is read, and one that is not becomes a
failed row. Ids come from the path relative to the image root, so the root is fixed by what was asked for:

- folder: the folder itself; it is searched with its sub-folders for the endings in `ENDINGS`, whatever their case.
  Hidden names (starting with ".") and run folders are left out. A link to a folder is followed once, and only after
  everything that is there without links; so loops end, and each real folder is read once.
- file: its folder. Glob ("photos/*/[ab]*.jpg", "photos/**/*.png"): the part before the first wildcard.
- .txt list or Parquet (`pipeline.path_lists`): the folder of the list, or `root` when given. Relative paths start
  there, and a path outside is refused.
- address ("s3://bucket/photos", "https://host/a.jpg"): of a folder, with its sub-folders, or of one image; its root is
  that folder. Lists may hold addresses: one below the root is as a path below it, any other is its own path.
"""

import glob
import os
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from pipeline.addresses import (
    DEFAULT_SCHEMES,
    address_to_root,
    check_address,
    is_address,
    join_address,
    root_to_address,
    scheme_of,
)
from pipeline.errors import UserError
from pipeline.path_lists import read_parquet_list, read_text_list
from pipeline.paths import path_to_image_id, path_to_stored, stored_to_path
from pipeline.store.run import RUN_FILE, SHARDS_FOLDER

_CHUNK = 1024
ENDINGS = frozenset(
    (
        *(".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".apng", ".webp", ".bmp", ".dib", ".gif", ".tif", ".tiff"),
        *(".ppm", ".pgm", ".pbm", ".pnm", ".tga", ".ico", ".jp2", ".j2k", ".jpx", ".jpf", ".avif", ".avifs", ".pcx"),
        *(".sgi", ".rgb", ".rgba", ".bw", ".qoi", ".dds", ".psd"),
    )
)
"""Endings that a folder search takes for images, lower case; a list or a glob may name any file."""


class ImageRef(NamedTuple):
    """One image to label: its id and its stored path (see `pipeline.paths`)."""

    image_id: str
    path: str

    @classmethod
    def from_path(cls, path: str) -> "ImageRef":
        """Make the reference of a path relative to the root, as Python gives it."""
        return cls(path_to_image_id(path), path_to_stored(path))

    def locate(self, root: str) -> str:
        """Return the path to open, or the address to fetch."""
        path = stored_to_path(self.path)
        if is_address(path):
            return path
        address = root_to_address(root)
        return join_address(address, path) if address else os.path.join(root, path)


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
        root: Absolute folder that the paths start from, or an address in that form (`pipeline.addresses`).
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


def open_images(
    images: str | Path | Sequence[str | Path],
    root: str | Path | None = None,
    schemes: Collection[str] = DEFAULT_SCHEMES,
) -> ImageSource:
    """Look at what a user names, without listing it.

    Args:
        images: As `find_images`.
        root: As `find_images`.
        schemes: Kinds of addresses that may be fetched.

    Raises:
        UserError: There is no such thing.
    """
    if not isinstance(images, str | Path):
        local = [path for path in images if not is_address(os.fspath(path))]
        start = Path(root) if root is not None else Path(os.path.commonpath([_parent(path) for path in local] or ["."]))
        return _list_source(start, images, "the list of images", schemes)
    text = os.fspath(images)
    if is_address(text):
        return _open_address(text, root, schemes)
    path = Path(text)
    if not os.path.lexists(path):
        if glob.has_magic(text):
            return _open_glob(text, root, schemes)
        raise UserError(f"{text}: no such file or folder; give a folder of images, an image, a glob or a list")
    if path.is_dir():
        return _open_folder(path, root)
    start = Path(root) if root is not None else path.parent
    if path.suffix.lower() in (".txt", ".parquet"):
        entries = read_text_list(path) if path.suffix.lower() == ".txt" else read_parquet_list(path)
        return _list_source(start, entries, text, schemes)
    return _list_source(start, [path.absolute()], text, schemes)


def _parent(path: str | Path) -> str:
    return os.path.dirname(os.path.abspath(path))


def _list_source(root: Path, entries: Iterable[str | Path], name: str, schemes: Collection[str]) -> ImageSource:
    if address := root_to_address(os.fspath(root)):
        from pipeline.fetching import check_fetchable

        check_fetchable(address, schemes)
        return ImageSource(root, name, _relative_paths(entries, root, name, schemes))
    if not root.is_dir():
        raise UserError(f"{root}: no such folder to start the paths of {name} from; --root names another")
    return ImageSource(root.absolute(), name, _relative_paths(entries, root.absolute(), name, schemes))


def _open_address(address: str, root: str | Path | None, schemes: Collection[str]) -> ImageSource:
    from pipeline.fetching import FetchSettings, check_fetchable, list_folder

    check_fetchable(address, schemes)
    if "*" in address:
        raise UserError(f"{address}: wildcards are for paths on this machine; give the folder, or a .txt list")
    folder, _, name = address.rpartition("/")
    ending = os.path.splitext(name)[1].lower()
    if ending in (".txt", ".parquet"):
        raise UserError(f"{address}: a list is read from this machine only; fetch it first")
    if ending in ENDINGS:
        start = Path(root) if root is not None else address_to_root(folder)
        return _list_source(start, [address], address, schemes)
    if root is not None:
        raise UserError(f"--root {root}: only lists take a root; the root of a folder is the folder itself")
    source = ImageSource(address_to_root(address), address, iter(()), unique=True)

    def images() -> Iterator[str]:
        for path in list_folder(address, FetchSettings(frozenset(schemes))):
            if os.path.splitext(path)[1].lower() in ENDINGS:
                yield path
            else:
                source.others += 1

    source.paths = images()
    return source


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


def _open_glob(pattern: str, root: str | Path | None, schemes: Collection[str]) -> ImageSource:
    fixed = []
    for part in Path(pattern).parts[:-1]:
        if glob.has_magic(part):
            break
        fixed.append(part)
    start = Path(root) if root is not None else Path(*fixed)
    if not start.is_dir():
        raise UserError(f"{pattern}: no such file or folder; the glob starts at {start}, which does not exist")
    found = sorted(os.path.abspath(path) for path in glob.iglob(pattern, recursive=True) if not os.path.isdir(path))
    return _list_source(start, found, pattern, schemes)


def _relative_paths(entries: Iterable[str | Path], root: Path, source: str, schemes: Collection[str]) -> Iterator[str]:
    """Yield each entry relative to the root, or its address, without touching the files."""
    address, known = root_to_address(os.fspath(root)), set[str]()
    base, texts, passed = os.path.normpath(root), (os.fspath(entry) for entry in entries), 0
    while chunk := list(islice(texts, _CHUNK)):
        first, passed = passed + 1, passed + len(chunk)
        if _are_plain(chunk):
            yield from chunk
            continue
        for row, text in enumerate(chunk, start=first):
            if is_address(text):
                yield _checked_address(text, f"{source}, entry {row}", address, schemes, known)
                continue
            relative = os.path.normpath(text)
            if relative.startswith(("/", "..")):
                relative = os.path.relpath(os.path.normpath(os.path.join(base, text)), base)
            if relative == ".." or relative.startswith("../") or "\0" in text:
                raise UserError(
                    f"{source}, entry {row}: {text!r} lies outside of {base}; "
                    "--root names a folder that holds all of them"
                )
            yield relative


def _are_plain(texts: list[str]) -> bool:
    """Tell, for most lists and quickly, whether all paths lie below the root and are as they would be stored."""
    whole = "\n".join(("", *texts, ""))
    return not any(odd in whole for odd in ("//", "/.", "\n/", "\n.", "/\n", "\n\n", "\0"))


def _checked_address(text: str, place: str, root: str, schemes: Collection[str], known: set[str]) -> str:
    """Return an address of a list, relative to the root where it is a plain path below that.

    Args:
        text: The address.
        place: Where it stands, for messages.
        root: Address that paths start from; empty for a folder.
        schemes: That are allowed.
        known: Those whose package was found to be installed; is added to.
    """
    from pipeline.fetching import check_fetchable

    try:
        if scheme_of(text) in known:
            check_address(text, schemes)
        else:
            check_fetchable(text, schemes)
            known.add(scheme_of(text))
    except UserError as error:
        raise UserError(f"{place}: {error}") from error
    below = text.removeprefix(f"{root}/") if root else text
    return below if os.path.normpath(below) == below and not below.startswith(("/", "..")) else text
