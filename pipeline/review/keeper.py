"""What runs as a child process: keeps mongod while somebody uses it, or the App's server while its parent lives.

Run by path (`python -P keeper.py database …` or `… app …`), so it imports the standard library only.

The database keeper holds a lock that says "this data directory is in use" and waits for another that every user of
the database shares. The kernel frees a dead process's locks, so it learns of the last user's end however that came,
stops mongod with SIGINT and goes. mongod inherits the first lock: it is free only when both are gone.
"""

import argparse
import asyncio
import contextlib
import ctypes
import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import NoReturn

LOOPBACK = "127.0.0.1"
START_SECONDS = 120
STOP_SECONDS = 60
_LOG_BYTES = 4_000_000
_PORT_TAKEN = 48
_JOURNAL_MILLISECONDS = 10
"""What a killed mongod may lose of a person's last edit; its own default is 100."""
_PR_SET_PDEATHSIG = 1


class _StopRequestedError(Exception):
    """A signal asked the keeper to end, or mongod ended by itself."""


def die_with_parent(signal_number: int) -> None:
    """Have the kernel send this process a signal when its parent ends; does nothing where that is not Linux."""
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal_number)


def free_port() -> int:
    """Return a TCP port that nobody listens on at this moment."""
    with socket.socket() as listener:
        listener.bind((LOOPBACK, 0))
        return int(listener.getsockname()[1])


def listens(port: int) -> bool:
    """Say whether something on this machine accepts connections at a port."""
    with socket.socket() as client:
        client.settimeout(1)
        return client.connect_ex((LOOPBACK, port)) == 0


def log_reason(log: Path, start: int) -> str:
    """Return the last error in mongod's log after its first `start` bytes, in one line; empty where there is none."""
    if not log.is_file():
        return ""
    reason = ""
    for line in log.read_bytes()[start:].decode(errors="replace").splitlines():
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        if entry.get("s") in ("E", "F"):
            details = entry.get("attr", {})
            detail = next((details[key] for key in ("error", "message", "msg") if details.get(key)), "")
            text = f"{entry.get('msg', '')} {detail if isinstance(detail, str) else json.dumps(detail)}".strip()
            reason = text if text != "***aborting after fassert() failure" or not reason else reason
    return reason


def _stop(number: int, frame: FrameType | None) -> NoReturn:
    raise _StopRequestedError(signal.Signals(number).name)


def _command(mongod: str, home: Path, port: int) -> list[str]:
    limits = ["--wiredTigerCacheSizeGB", "1", "--setParameter", "diagnosticDataCollectionEnabled=false"]
    often = str(_JOURNAL_MILLISECONDS)
    journal = ["--wiredTigerEngineConfigString", "log=(file_max=16MB)", "--journalCommitInterval", often]
    place = ["--dbpath", str(home / "data"), "--logpath", str(home / "mongod.log"), "--logappend"]
    return [mongod, "--port", str(port), "--bind_ip", LOOPBACK, "--nounixsocket", "--quiet", *place, *limits, *journal]


def _start(mongod: str, home: Path, libraries: str, held: int) -> tuple[subprocess.Popen[bytes], int]:
    """Start mongod on a free port and wait until it accepts connections; ends with a message where it does not."""
    environment = dict(os.environ)
    if libraries:
        environment["LD_LIBRARY_PATH"] = os.pathsep.join(
            filter(None, [libraries, environment.get("LD_LIBRARY_PATH", "")])
        )
    log, complaints = home / "mongod.log", home / "mongod.stderr"
    log_start = log.stat().st_size if log.is_file() else 0
    for _ in range(5):
        port = free_port()
        with complaints.open("wb") as stderr:
            child = subprocess.Popen(
                _command(mongod, home, port),
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=stderr,
                pass_fds=[held],
                preexec_fn=lambda: die_with_parent(signal.SIGINT),
            )
        _write_state(home, {"keeper": os.getpid(), "mongod": child.pid, "port": port, "host": socket.gethostname()})
        end = time.monotonic() + START_SECONDS
        while child.poll() is None and time.monotonic() < end:
            if listens(port):
                return child, port
            time.sleep(0.05)
        if child.poll() is None:
            _end(child)
            raise RuntimeError(f"it accepted no connection within {START_SECONDS} s")
        if child.returncode != _PORT_TAKEN:
            complaint = complaints.read_text(errors="replace").strip()
            raise RuntimeError(complaint or log_reason(log, log_start) or f"exit status {child.returncode}")
    raise RuntimeError("no free port was found in five tries")


def _write_state(home: Path, state: dict[str, int | str]) -> None:
    partial = home / "state.json.part"
    partial.write_text(json.dumps(state))
    os.replace(partial, home / "state.json")


def _end(child: subprocess.Popen[bytes]) -> None:
    if child.poll() is None:
        child.send_signal(signal.SIGINT)
    try:
        child.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()


def _answer(reply: dict[str, int | str]) -> None:
    """Tell the starter how it went, then let go of its pipes; it may be gone by now, which the locks tell."""
    try:
        os.write(1, json.dumps(reply).encode() + b"\n")
    except BrokenPipeError:
        reply.clear()
    nowhere = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(nowhere, stream)


def keep_database(mongod: str, home: Path, libraries: str) -> int:
    """Run mongod until its last user is gone.

    Args:
        mongod: The executable.
        home: Folder with `data/`, `in_use.lock`, `users.lock`, `state.json` and `mongod.log`.
        libraries: What to put before LD_LIBRARY_PATH for mongod alone; may be empty.

    Returns:
        0, or 1 where mongod did not start.
    """
    if os.fork():
        return 0  # whoever started us has nothing to wait for
    held = os.open(home / "in_use.lock", os.O_RDWR | os.O_CREAT, 0o600)
    users = os.open(home / "users.lock", os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.flock(held, fcntl.LOCK_EX)
    (home / "state.json").unlink(missing_ok=True)
    log = home / "mongod.log"
    if log.is_file() and log.stat().st_size > _LOG_BYTES:
        os.replace(log, home / "mongod.log.old")
    stops = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
    try:
        child, port = _start(mongod, home, libraries, held)
    except (OSError, RuntimeError) as error:
        (home / "state.json").unlink(missing_ok=True)
        _answer({"error": str(error)})
        return 1
    try:
        with contextlib.suppress(_StopRequestedError):
            for number in (*stops, signal.SIGCHLD):
                signal.signal(number, _stop)
            _answer({"port": port, "mongod": child.pid})
            if child.poll() is None:
                fcntl.flock(users, fcntl.LOCK_EX)
    finally:
        for number in stops:
            signal.signal(number, signal.SIG_IGN)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        _end(child)
        (home / "state.json").unlink(missing_ok=True)
    return 0


def serve_app(parent: int, listener: int) -> int:
    """Run FiftyOne's server in this process, which ends with the parent.

    Args:
        parent: Process id that must still be ours, else it ended before the kernel was asked.
        listener: Descriptor of a socket that listens already; so the port is ours before the server is ready.

    Source: fiftyone/server/main.py, which can only bind a port itself.
    """
    die_with_parent(signal.SIGKILL)
    if os.getppid() != parent:
        return 1
    os.environ["FIFTYONE_SERVER"] = "1"
    sys.path.append(str(Path(__file__).parents[2]))  # where our plugin finds the project, installed or not
    from fiftyone.server.app import app
    from fiftyone.server.events import set_port
    from hypercorn.asyncio import serve
    from hypercorn.config import Config

    config = Config()
    config.bind = [f"fd://{listener}"]
    with socket.socket(fileno=os.dup(listener)) as known:
        set_port(known.getsockname()[1])
    asyncio.run(serve(app, config))
    return 0


def main() -> int:
    """Read the command line and run one of the two."""
    parser = argparse.ArgumentParser()
    commands = parser.add_subparsers(required=True)
    database = commands.add_parser("database")
    database.add_argument("--mongod", required=True)
    database.add_argument("--home", type=Path, required=True)
    database.add_argument("--libraries", default="")
    database.set_defaults(work=lambda given: keep_database(given.mongod, given.home, given.libraries))
    app = commands.add_parser("app")
    app.add_argument("--parent", type=int, required=True)
    app.add_argument("--listener", type=int, required=True)
    app.set_defaults(work=lambda given: serve_app(given.parent, given.listener))
    given = parser.parse_args()
    work: Callable[[argparse.Namespace], int] = given.work
    return work(given)


if __name__ == "__main__":
    sys.exit(main())
