"""One writer a run folder.

The lock is the kernel's (`flock`) on the file `lock`, so that it ends with its process, however that dies. The file
says who holds it. Where a folder is shared between machines that don't share locks, a fresh file of another host
counts as held: the holder touches it every few seconds.
"""

import errno
import fcntl
import json
import os
import socket
import time
from pathlib import Path
from typing import Any, Self

from pipeline.errors import UserError

LOCK_NAME = "lock"
STALE_SECONDS = 120.0
"""Age after which the lock of another host counts as left over."""
TOUCH_SECONDS = 10.0


def holder_of(folder: Path) -> str:
    """Return who writes to a run, as far as can be seen without taking the lock; empty for nobody.

    Args:
        folder: The run; it may be read-only.
    """
    path = folder / LOCK_NAME
    try:
        holder = json.loads(path.read_bytes() or b"{}")
        age = time.time() - path.stat().st_mtime
        host, pid = str(holder["host"]), int(holder["pid"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""
    lives = process_lives(pid) if host == socket.gethostname() else age < STALE_SECONDS
    return f"process {pid} on {host}" if lives else ""


def process_lives(pid: int) -> bool:
    """Say whether this machine has a process of that number."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


class RunLock:
    """Holds a run folder for writing, as a context manager.

    Args:
        folder: The run, which exists.

    Raises:
        UserError: Another living process writes to the run.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._path = folder / LOCK_NAME
        self._touched = time.monotonic()
        self._descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            self._take()
        except BaseException:
            os.close(self._descriptor)
            raise

    def _take(self) -> None:
        holder = self._read()
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                raise UserError(f"{self._folder}: its file system cannot lock files ({error.strerror})") from error
            raise self._held(holder) from error
        age = time.time() - os.fstat(self._descriptor).st_mtime
        if holder and holder.get("host") != socket.gethostname() and age < STALE_SECONDS:
            raise self._held(holder)
        self._write({"host": socket.gethostname(), "pid": os.getpid()})

    def _held(self, holder: dict[str, Any]) -> UserError:
        who = f"process {holder.get('pid', '?')} on {holder.get('host', '?')}"
        return UserError(
            f"{self._folder}: another groundlabel writes to this run ({who}); wait until it is done, stop it, "
            "or give another output folder"
        )

    def _read(self) -> dict[str, Any]:
        try:
            values = json.loads(os.pread(self._descriptor, 4096, 0) or b"{}")
        except ValueError:
            return {}
        return values if isinstance(values, dict) else {}

    def _write(self, holder: dict[str, Any]) -> None:
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, json.dumps(holder).encode() if holder else b"", 0)

    def touch(self) -> None:
        """Show that the holder lives; cheap enough to call at any time."""
        if time.monotonic() - self._touched >= TOUCH_SECONDS:
            self._touched = time.monotonic()
            os.utime(self._descriptor)

    def release(self) -> None:
        """Give the run free; the empty lock file stays."""
        self._write({})
        os.close(self._descriptor)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()
