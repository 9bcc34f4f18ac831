"""Serve the FiftyOne App: FiftyOne's own server in a child process of ours, on loopback unless the user asks."""

import contextlib
import errno
import ipaddress
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from typing import Self

from pipeline.errors import UserError
from pipeline.review import keeper
from pipeline.review.plugin_folder import PLUGINS_VARIABLE, link_plugins

DEFAULT_PORT = 5151
_START_SECONDS = 120
_STOP_SECONDS = 3


def is_loopback(address: str) -> bool:
    """Say whether an address (a number or a name) is reached from this machine only."""
    try:
        found = {str(entry[4][0]) for entry in socket.getaddrinfo(address, None)}
    except (OSError, UnicodeError):
        return False
    return all(ipaddress.ip_address(number.split("%")[0]).is_loopback for number in found)


def open_listener(port: int | None, address: str) -> socket.socket:
    """Take the port for the App at once, so that nobody else can have it while FiftyOne starts.

    Args:
        port: The one that the user asks for; None for 5151, or any free one where that is taken.
        address: Where it shall listen.

    Returns:
        A listening socket, which the caller closes (`AppServer` does).

    Raises:
        UserError: The port asked for is taken or not allowed, or the machine has no such address.
    """
    try:
        return _listen(DEFAULT_PORT if port is None else port, address)
    except (OSError, UnicodeError, OverflowError) as error:
        if port is None:
            with contextlib.suppress(OSError, UnicodeError):
                return _listen(0, address)
        elif isinstance(error, OSError) and error.errno in (errno.EADDRINUSE, errno.EACCES):
            message = f"--port {port} is taken or not allowed ({error.strerror}); name another or leave it out"
            raise UserError(message) from error
        given = f"--address {address}" + ("" if port is None else f" --port {port}")
        raise UserError(f"{given}: the App cannot listen there ({error})") from error


def _listen(port: int, address: str) -> socket.socket:
    family = socket.getaddrinfo(address, port, type=socket.SOCK_STREAM)[0][0]
    return socket.create_server((address, port), family=family, backlog=100)


class AppServer:
    """The App's server, running for as long as a `with` block on this object.

    Must stand inside `connected_fiftyone`, from whose environment the server takes the database. It starts beside
    other work (it needs 4 to 10 s) and ends with this process, however that ends.

    Args:
        listener: From `open_listener`; it is handed over to the server and closed here.
    """

    def __init__(self, listener: socket.socket) -> None:
        self._listener = listener
        self._address: str = listener.getsockname()[0]
        self.port: int = listener.getsockname()[1]

    def __enter__(self) -> Self:
        import fiftyone as fo

        handed = self._listener.fileno()
        plugins = link_plugins(fo.config.plugins_dir)
        self._output = tempfile.TemporaryFile()
        with self._listener:
            self._child = subprocess.Popen(
                [sys.executable, "-P", keeper.__file__, "app", "--parent", str(os.getpid()), "--listener", str(handed)],
                stdin=subprocess.DEVNULL,
                stdout=self._output,
                stderr=self._output,
                pass_fds=[handed],
                env={**os.environ, PLUGINS_VARIABLE: str(plugins)},
                start_new_session=True,
            )
        return self

    def __exit__(self, *_: object) -> None:
        self._child.terminate()
        try:
            self._child.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:  # an open browser tab keeps it
            self._child.kill()
            self._child.wait()
        self._output.close()

    def url(self, slug: str, view: str = "") -> str:
        """Return the address of a dataset, or of one of its saved views, by their slugs, in the App."""
        return f"{self._base()}/datasets/{slug}" + (f"?view={view}" if view else "")

    def _base(self) -> str:
        host = {"0.0.0.0": keeper.LOOPBACK, "::": "::1"}.get(self._address, self._address)
        return f"http://{f'[{host}]' if ':' in host else host}:{self.port}"

    def wait_until_ready(self) -> None:
        """Return when the server answers.

        Raises:
            UserError: It ended before, or did not answer in time.
        """
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        end = time.monotonic() + _START_SECONDS
        while self._child.poll() is None and time.monotonic() < end:
            with contextlib.suppress(OSError), opener.open(f"{self._base()}/fiftyone", timeout=5) as reply:
                if reply.status == 200:
                    return
            time.sleep(0.1)
        raise UserError(f"FiftyOne's server on {self._base()} did not start: {self._last_words()}")

    def wait(self, seconds: float) -> None:
        """Return after some time.

        Raises:
            UserError: The server ended by itself meanwhile.
        """
        try:
            status = self._child.wait(seconds)
        except subprocess.TimeoutExpired:
            return
        raise UserError(f"FiftyOne's server on {self._base()} ended with status {status}: {self._last_words()}")

    def _last_words(self) -> str:
        self._output.seek(0)
        lines = self._output.read().decode(errors="replace").strip().splitlines()
        return lines[-1] if lines else f"no answer in {_START_SECONDS} s, and no word why"
