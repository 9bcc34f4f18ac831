"""Start MongoDB on loopback, share it between reviews and stop it after the last one.

FiftyOne's own embedded mode attaches to whatever database another process started and dies when two start at once.
Here the data directory belongs to groundlabel; each user of it holds a shared lock, and `keeper.py` stops mongod when
nobody holds that any more, also after a kill -9.
"""

import contextlib
import fcntl
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pipeline.errors import UserError
from pipeline.review import keeper
from pipeline.review.mongod import URI_VARIABLE, MongodInfo, database_home, find_mongod, hide_password

REACH_SECONDS = 5.0
_WAIT_SECONDS = keeper.START_SECONDS + keeper.STOP_SECONDS


@contextlib.contextmanager
def open_database() -> Iterator[str]:
    """Have a MongoDB server for as long as the block runs.

    The user's own URI is only looked at. Otherwise the server of `database_home` is started, or shared where another
    review runs; the last one to leave stops it and waits until it has gone.

    Yields:
        The URI to connect to.

    Raises:
        UserError: No server can run here, or it does not start or answer.
    """
    info = find_mongod()
    if info.uri is not None:
        _check_reachable(info.uri)
        yield info.uri
        return
    home = database_home()
    try:
        (home / "data").mkdir(parents=True, exist_ok=True, mode=0o700)
        home.chmod(0o700)
        users = os.open(home / "users.lock", os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise UserError(f"{home} cannot be written: {error}; set XDG_CACHE_HOME to a folder of yours") from error
    try:
        port = _join(info, home, users)
    except BaseException:
        os.close(users)
        raise
    try:
        yield f"mongodb://{keeper.LOOPBACK}:{port}"
    finally:
        os.close(users)
        _wait_for_stop(home)


def _try_lock(descriptor: int, kind: int) -> bool:
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _lock_is_free(path: Path, kind: int) -> bool:
    """Say whether a lock of this kind could be had at this moment."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        return _try_lock(descriptor, kind)
    finally:
        os.close(descriptor)


def _join(info: MongodInfo, home: Path, users: int) -> int:
    """Become a user of the database, starting it where nobody has; returns its port."""
    end = time.monotonic() + _WAIT_SECONDS
    starting = os.open(home / "start.lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        joined = False
        while time.monotonic() < end:
            joined = joined or (_try_lock(starting, fcntl.LOCK_EX) and _try_lock(users, fcntl.LOCK_SH))
            if joined:
                if _lock_is_free(home / "in_use.lock", fcntl.LOCK_EX):
                    return _start_keeper(info, home)
                port = _running_port(home)
                if port is not None:
                    return port
            time.sleep(0.05)
    finally:
        os.close(starting)
    raise UserError(f"the database in {home} neither answers nor stops; its log is {home / 'mongod.log'}")


def _running_port(home: Path) -> int | None:
    """Return the port of the server that another process keeps, None where it is starting or stopping."""
    try:
        state = json.loads((home / "state.json").read_text())
    except (OSError, ValueError):
        return None
    if state["host"] != socket.gethostname():
        raise UserError(f"{home} is in use on {state['host']}: end the review there, or set XDG_CACHE_HOME here")
    if _has_ended(int(state["keeper"])):
        return None  # its mongod is about to end, though it may still answer
    return int(state["port"]) if keeper.listens(int(state["port"])) else None


def _has_ended(pid: int) -> bool:
    """Say whether a process of this machine is no more; one that nobody has collected yet has ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def _start_keeper(info: MongodInfo, home: Path) -> int:
    command = [sys.executable, "-P", keeper.__file__, "database", "--mongod", str(info.executable), "--home", str(home)]
    if info.library_folder:
        command += ["--libraries", str(info.library_folder)]
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True
    ) as child:
        answer = child.stdout.readline().decode(errors="replace") if child.stdout else ""
        with contextlib.suppress(ValueError):
            reply = json.loads(answer)
            if "port" in reply:
                (home / "release").write_text(info.release)
                return int(reply["port"])
            answer = reply["error"]
    raise UserError(f"{info.describe()} did not start: {answer.strip()}. Its log is {home / 'mongod.log'}")


def _wait_for_stop(home: Path) -> None:
    """Wait until the server has gone, if we were its last user; other users need no waiting for."""
    end = time.monotonic() + keeper.STOP_SECONDS
    while time.monotonic() < end and not _lock_is_free(home / "in_use.lock", fcntl.LOCK_SH):
        nobody_uses_it = _lock_is_free(home / "users.lock", fcntl.LOCK_EX)
        if not nobody_uses_it and _lock_is_free(home / "users.lock", fcntl.LOCK_SH):
            return
        time.sleep(0.02)


def _check_reachable(uri: str) -> None:
    from pymongo import MongoClient
    from pymongo.errors import PyMongoError

    try:
        client: MongoClient[Any] = MongoClient(uri, serverSelectionTimeoutMS=int(1000 * REACH_SECONDS))
        with client:
            client.admin.command("ping")
    except PyMongoError as error:
        place = urlsplit(uri).hostname or "it"
        raise UserError(
            f"{URI_VARIABLE} is {hide_password(uri)}, and {place} does not answer: {str(error).split(',')[0]}. "
            "Start that server, or unset the variable to have groundlabel start its own"
        ) from error
