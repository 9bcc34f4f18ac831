"""What is remembered of an image file, so that a later call can tell whether it is still the same one."""

import hashlib
import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_MIX = 0x9E3779B97F4A7C15
_MASK = 2**64 - 1
_CONTENT_BYTES = 16
UNKNOWN_STAMP = 0
ABSENT_STAMP = 1
"""Stamps (see `FileState.stamp`) of an image about which nothing was noted, and of one without a file."""


@dataclass(frozen=True)
class FileState:
    """Size, time and content of a file at one moment.

    Attributes:
        size: Bytes; -1 where there is no such file.
        mtime_ns: Time of the last change, nanoseconds since 1970.
        content: Hexadecimal hash of the content; empty for what is no regular file or cannot be read.
    """

    size: int
    mtime_ns: int
    content: str

    @property
    def stamp(self) -> int:
        """Size and time as one number below 2^64."""
        return size_and_time_to_stamp(self.size, self.mtime_ns)


def size_and_time_to_stamp(size: int, mtime_ns: int) -> int:
    """Return size and time of a file as one number below 2^64; a size below 0 stands for a file that is absent."""
    if size < 0:
        return ABSENT_STAMP
    return max((mtime_ns ^ (size * _MIX)) & _MASK, ABSENT_STAMP + 1)


def read_stamp(path: str | os.PathLike[str]) -> int:
    """Return the stamp of a file as it is now, without opening it."""
    try:
        status = os.stat(path)
    except OSError:
        return ABSENT_STAMP
    return size_and_time_to_stamp(status.st_size, status.st_mtime_ns)


def read_stamps(paths: Sequence[str]) -> NDArray[np.uint64]:
    """Return the stamps of files as they are now; (N,), N may be 0. Much quicker than one by one."""
    found, absent = [], (-1, 0)
    for path in paths:
        try:
            status = os.stat(path)
            found.append((status.st_size, status.st_mtime_ns))
        except OSError:
            found.append(absent)
    states = np.array(found, np.int64).reshape(-1, 2)
    sizes, times = states[:, 0], states[:, 1].astype(np.uint64)
    stamps = np.maximum(times ^ (sizes.astype(np.uint64) * np.uint64(_MIX)), np.uint64(ABSENT_STAMP + 1))
    return np.where(sizes < 0, np.uint64(ABSENT_STAMP), stamps)


def read_state(path: str | os.PathLike[str], with_content: bool = True) -> FileState:
    """Return the state of a file as it is now.

    Args:
        path: Any; a pipe is not waited for.
        with_content: Read the file for its hash; False leaves it unopened, for one that may hang its reader.
    """
    try:
        status = os.stat(path)
    except OSError:
        return FileState(-1, 0, "")
    content = read_content_hash(path) if with_content and stat.S_ISREG(status.st_mode) else ""
    return FileState(status.st_size, status.st_mtime_ns, content)


def read_content_hash(path: str | os.PathLike[str]) -> str:
    """Return 32 hexadecimal digits for the content of a regular file; empty when it cannot be read."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(descriptor, "rb", buffering=0) as file:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                return ""
            return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=_CONTENT_BYTES)).hexdigest()
    except OSError:
        return ""
