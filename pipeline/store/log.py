"""`log.jsonl`: what happened in a run, one JSON object a line, appended by whoever writes to it."""

import errno
import json
import os
import time
from pathlib import Path
from typing import Any

LOG_FILE = "log.jsonl"


class RunLog:
    """Appends events to the log of a run.

    Args:
        folder: The run, which exists.
    """

    def __init__(self, folder: Path) -> None:
        self._descriptor = os.open(folder / LOG_FILE, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        end = os.fstat(self._descriptor).st_size
        # A writer that died in the middle of a line: ours starts on its own.
        self._before = b"\n" if end and os.pread(self._descriptor, 1, end - 1) != b"\n" else b""

    def write(self, event: str, **values: Any) -> None:
        """Write one event with the time and its values.

        Raises:
            OSError: The disk is full or the folder cannot be written.
        """
        now = time.time()
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now)) + f".{int(now * 1000) % 1000:03}Z"
        line = json.dumps({"time": stamp, "event": event, **values}, ensure_ascii=False).encode() + b"\n"
        content, self._before = self._before + line, b"\n"
        if os.write(self._descriptor, content) < len(content):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self._before = b""

    def close(self) -> None:
        """Close the file."""
        os.close(self._descriptor)
