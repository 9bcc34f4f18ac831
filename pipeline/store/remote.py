"""A folder on another file system, through fsspec, whose files are complete or absent.

On an object store, a file that is written is there as a whole or not at all. In a folder it is written under a
temporary name and renamed. What may pass is tried again.
"""

import os
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from fsspec.asyn import AsyncFileSystem, sync

from pipeline.addresses import is_address, scheme_of
from pipeline.errors import UserError
from pipeline.fetching import FetchSettings, is_final, open_system
from pipeline.images import describe_error
from pipeline.store.durable import TEMPORARY

OBJECT_STORES = ("s3", "gs", "abfs", "memory")
"""Each write is one object, complete or absent; memory:// is fsspec's own, which ends with the process."""
FOLDERS = ("file",)
ATTEMPTS = 4
THREADS = 8
"""Files that are on their way at once."""
_PART = 256
"""Files that are handed out at once."""
_WAIT_SECONDS = 1.0
_SECONDS = 60.0
_SLOWEST_BYTES = 1024**2
"""A second; a larger file is given more time."""
_WHOLE_BYTES = 64 * 1024**2
"""Files up to this size are sent from memory, in one request where the store allows that."""
_CHANGING = ("size", "ETag", "etag", "generation", "mtime", "LastModified", "last_modified", "updated", "created")
T = TypeVar("T")


class RemoteError(UserError):
    """Another file system cannot be read or written; the message names the file and the cause."""


class RemoteFolder:
    """A folder at an address; several threads may use it.

    Args:
        address: Of the folder, such as s3://bucket/run; it need not exist.

    Raises:
        UserError: Files cannot be kept there, or a package for it is missing.
    """

    def __init__(self, address: str) -> None:
        self.address = address.rstrip("/")
        scheme = _check(address)
        self._renames = scheme in FOLDERS
        self._system: Any = open_system(scheme, FetchSettings())
        self._top = self._system._strip_protocol(self.address).rstrip("/")
        self._made: set[str] = set()

    def is_within(self, folder: Path) -> bool:
        """Tell whether this is a folder of this machine, or lies in it."""
        top = Path(self._top).resolve()
        return self._renames and folder.resolve() in (top, *top.parents)

    def read(self, name: str, size: int = 0) -> bytes | None:
        """Return a file's content; None where there is none.

        Args:
            name: Of the file.
            size: About how large it is, in bytes: a large one is given more time.

        Raises:
            RemoteError: It cannot be read.
        """
        content: bytes | None = self._try("read", name, lambda path: bytes(self._ask("cat_file", path, size=size)))
        return content

    def read_into(self, name: str, path: Path) -> bool:
        """Copy a file to this machine; returns whether there is one.

        Raises:
            RemoteError: It cannot be read.
        """

        def copy(source: str) -> bool:
            size = self._ask("info", source)["size"] or 0
            self._ask("get_file", source, str(path), size=size)
            return True

        return bool(self._try("read", name, copy))

    def write(self, name: str, content: bytes) -> None:
        """Write a file, complete or not at all.

        Raises:
            RemoteError: It cannot be written.
        """
        self._write(name, lambda path: self._ask("pipe_file", path, content, size=len(content)))

    def write_from(self, name: str, path: Path) -> None:
        """Write a file from one of this machine, as `write` does.

        Raises:
            RemoteError: It cannot be written.
        """
        size = path.stat().st_size
        if size <= _WHOLE_BYTES:
            self.write(name, path.read_bytes())
        else:
            self._write(name, lambda target: self._ask("put_file", str(path), target, size=size))

    def remove(self, names: Iterable[str]) -> None:
        """Remove files; those that are gone are passed over.

        Raises:
            RemoteError: One cannot be removed.
        """
        run_together(names, lambda name: self._try("removed", name, lambda path: self._ask("rm_file", path)))

    def sizes(self, folder: str = "") -> dict[str, int]:
        """Return the size of each file in a folder by name, and of each folder in it 0; empty where there is none.

        Raises:
            RemoteError: It cannot be listed.
        """
        found = self._try("listed", folder, self._list) or []
        return {
            item["name"].rstrip("/").rpartition("/")[2]: (item["size"] or 0) if item["type"] == "file" else 0
            for item in found
            if item["name"].rstrip("/") != f"{self._top}/{folder}".rstrip("/")
        }

    def mark(self, name: str) -> str:
        """Return what tells one state of a file from another; empty where there is none.

        Raises:
            RemoteError: It cannot be looked at.
        """
        return self._try("looked at", name, self._look) or ""

    def _list(self, path: str) -> list[dict[str, Any]]:
        self._system.invalidate_cache()
        listing: list[dict[str, Any]] = self._ask("ls", path, True)
        return listing

    def _look(self, path: str) -> str:
        self._system.invalidate_cache()
        info = self._ask("info", path)
        return " ".join(str(info[key]) for key in _CHANGING if key in info)

    def _write(self, name: str, put: Callable[[str], object]) -> None:
        def write(path: str) -> bool:
            if not self._renames:
                put(path)
                return True
            folder, _, last = path.rpartition("/")
            if folder not in self._made:
                self._system.makedirs(folder, exist_ok=True)
                self._made.add(folder)
            temporary = f"{folder}/{TEMPORARY}{os.uname().nodename}-{os.getpid()}-{last}"
            put(temporary)
            self._system.mv(temporary, path)
            return True

        if not self._try("written", name, write):
            raise RemoteError(f"{self.address}/{name}: cannot be written (no such folder or bucket)")

    def _ask(self, method: str, *arguments: Any, size: int = 0) -> Any:
        if isinstance(self._system, AsyncFileSystem):
            limit = _SECONDS + size / _SLOWEST_BYTES
            return sync(self._system.loop, getattr(self._system, f"_{method}"), *arguments, timeout=limit)
        return getattr(self._system, method)(*arguments)

    def _try(self, verb: str, name: str, work: Callable[[str], T]) -> T | None:
        """Do something with a file, several times where what is wrong may pass; None where there is no such file.

        Raises:
            RemoteError: It did not succeed.
        """
        path = f"{self._top}/{name}".rstrip("/")
        for attempt in range(1, ATTEMPTS + 1):
            try:
                return work(path)
            except FileNotFoundError:
                return None
            except Exception as error:  # each of fsspec's systems raises its own
                if is_final(error) or attempt == ATTEMPTS:
                    again = f", {attempt} attempts" if attempt > 1 else ""
                    where = f"{self.address}/{name}".rstrip("/")
                    reason = describe_error(error) if str(error) else type(error).__name__
                    raise RemoteError(f"{where}: cannot be {verb} ({reason}{again})") from error
            time.sleep(_WAIT_SECONDS * 2 ** (attempt - 1))
        return None


def run_together(items: Iterable[T], work: Callable[[T], object]) -> None:
    """Do something with each item in a few threads; an error ends it after the items that are in hand."""
    rest = iter(items)
    with ThreadPoolExecutor(THREADS) as pool:
        try:
            while part := list(islice(rest, _PART)):
                for call in [pool.submit(work, item) for item in part]:
                    call.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _check(address: str) -> str:
    """Return the scheme of an address at which files can be kept.

    Raises:
        UserError: They cannot.
    """
    scheme = scheme_of(address) if is_address(address) else ""
    if scheme not in (*OBJECT_STORES, *FOLDERS):
        known = ", ".join(f"{name}://" for name in (*OBJECT_STORES, *FOLDERS))
        raise UserError(
            f"--mirror {address}: must be an address at which a file is complete or absent ({known}), "
            "such as s3://bucket/run"
        )
    parts = urlsplit(address)
    if not parts.path.strip("/"):
        raise UserError(f"--mirror {address}: name a folder of its own in it, such as {scheme}://bucket/run")
    if parts.password:
        raise UserError("--mirror: an address with a password would be shown; give it in fsspec's configuration")
    return scheme
