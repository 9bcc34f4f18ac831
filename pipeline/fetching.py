"""Fetching images from addresses, through fsspec, into files without a name.

- An attempt has a time limit, and what may pass (time-outs, broken connections, 408, 429, 5xx) is tried again. What is
  not there or not allowed is not.
- A host is checked when a connection to it is opened, so that neither a redirect, nor a name that changes its address,
  nor a number in the address leads into a private network. Redirects stay within the allowed schemes.
- What is larger than `MOST_BYTES` is broken off.
"""

import ipaddress
import socket
import tempfile
import threading
import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any, BinaryIO

import fsspec
from fsspec.asyn import AsyncFileSystem, sync
from fsspec.callbacks import Callback

from pipeline.addresses import DEFAULT_SCHEMES, WEB_SCHEMES, check_address, scheme_of
from pipeline.errors import UserError
from pipeline.images import UnreadableImageError, describe_error

MOST_BYTES = 512 * 1024**2
"""Of one image file."""
_PACKAGES = {"s3": "s3fs", "gs": "gcsfs", "http": "aiohttp", "https": "aiohttp"}
_CONNECT_SECONDS = 10.0
_READ_SECONDS = 30.0
_NAT64 = ipaddress.ip_network("64:ff9b::/96")
_PASSING = (408, 429)
_NOT_PASSING = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError, ImportError, ValueError)


class RefusedError(OSError):
    """A connection is not opened, or a redirect not followed, because it leads where it must not."""


@dataclass(frozen=True)
class FetchSettings:
    """What may be fetched, and how long it is tried.

    Attributes:
        schemes: Kinds of addresses.
        allow_private: Also from private networks and this machine.
        attempts: For each image, at least 1.
        seconds: Of one attempt.
        wait_seconds: Before the second attempt; twice as long before each later one.
    """

    schemes: frozenset[str] = field(default=DEFAULT_SCHEMES)
    allow_private: bool = False
    attempts: int = 3
    seconds: float = 60.0
    wait_seconds: float = 1.0


class Fetcher:
    """Fetches images; several threads may use one.

    Args:
        settings: What may be fetched.
    """

    def __init__(self, settings: FetchSettings) -> None:
        self._settings = settings
        self._systems: dict[str, Any] = {}
        self._lock = threading.Lock()

    def fetch(self, address: str) -> BinaryIO:
        """Fetch an image into a file without a name, which is gone once it is closed.

        Args:
            address: Of the image.

        Raises:
            UnreadableImageError: It cannot be had; the message is the reason.
        """
        try:
            check_address(address, self._settings.schemes)
            system = self._system(scheme_of(address))
        except (UserError, ImportError) as error:
            raise UnreadableImageError(str(error)) from error
        for attempt in range(self._settings.attempts):
            if attempt:
                time.sleep(self._settings.wait_seconds * 2 ** (attempt - 1))
            file = tempfile.TemporaryFile()  # noqa: SIM115 - given to the caller
            try:
                self._copy(system, address, f"/proc/self/fd/{file.fileno()}")
                return file
            except Exception as error:  # each of fsspec's systems raises its own
                file.close()
                refused = _refusal(error)
                if refused or is_final(error) or attempt + 1 == self._settings.attempts:
                    raise UnreadableImageError(_reason(error, refused, address, attempt + 1)) from error
        raise UnreadableImageError("cannot be fetched: no attempt was allowed")

    def _copy(self, system: Any, address: str, path: str) -> None:
        source, limit = system._strip_protocol(address), _SizeLimit()
        if isinstance(system, AsyncFileSystem):
            sync(system.loop, system._get_file, source, path, callback=limit, timeout=self._settings.seconds)
        else:
            system.get_file(source, path, callback=limit)

    def _system(self, scheme: str) -> Any:
        with self._lock:
            if scheme not in self._systems:
                self._systems[scheme] = open_system(scheme, self._settings)
            return self._systems[scheme]


class _SizeLimit(Callback):  # type: ignore[misc]  # fsspec has no types
    """Is told of the bytes that have come, and breaks off what is too large."""

    def set_size(self, size: int | None) -> None:
        super().set_size(size)
        self._check(size or 0)

    def relative_update(self, inc: int = 1) -> None:
        super().relative_update(inc)
        self._check(self.value)

    def _check(self, size: int) -> None:
        if size > MOST_BYTES:
            raise RefusedError(f"larger than {MOST_BYTES // 1024**2} MB")


def open_system(scheme: str, settings: FetchSettings) -> Any:
    """Return fsspec's file system for a kind of address.

    Raises:
        UserError: A package is not installed, or fsspec knows no such kind.
    """
    package = _PACKAGES.get(scheme)
    if package is not None and find_spec(package) is None:
        raise UserError(
            f"{scheme}:// needs the package {package}: pip install {package}, on every machine with workers"
        )
    options: dict[str, Any] = {}
    if scheme in WEB_SCHEMES:
        options = {"get_client": _web_client(settings), "skip_instance_cache": True}
    elif scheme == "s3":
        options = {"config_kwargs": {"connect_timeout": _CONNECT_SECONDS, "read_timeout": _READ_SECONDS}}
    try:
        return fsspec.filesystem(scheme, **options)
    except (ImportError, ValueError) as error:
        raise UserError(f"{scheme}:// cannot be fetched: {error}") from error


def check_fetchable(address: str, schemes: Collection[str]) -> None:
    """Refuse an address that cannot be fetched from, or for which a package is missing here.

    Raises:
        UserError: Says which.
    """
    try:
        check_address(address, schemes)
        open_system(scheme_of(address), FetchSettings(frozenset(schemes)))
    except UserError as error:
        raise UserError(f"{address}: {error}") from error


def list_folder(address: str, settings: FetchSettings) -> Iterator[str]:
    """Yield the paths of the files below an address, relative to it, folder by folder, each sorted.

    Raises:
        UserError: It cannot be listed.
    """
    if scheme_of(address) in WEB_SCHEMES:
        raise UserError(f"{address}: a web server's folder cannot be listed; give a .txt list of addresses")
    system = open_system(scheme_of(address), settings)
    top = system._strip_protocol(address).rstrip("/")
    try:
        for folder, _, names in system.walk(top, on_error="raise"):
            below = folder[len(top) :].strip("/")
            if any(part.startswith(".") for part in below.split("/")):
                continue
            yield from (f"{below}/{name}" if below else name for name in sorted(names) if not name.startswith("."))
    except Exception as error:  # each of fsspec's systems raises its own
        raise UserError(f"{address}: cannot be listed ({describe_error(error)})") from error


def _web_client(settings: FetchSettings) -> Any:
    """Return what makes aiohttp's session, whose connections and redirects are checked."""
    import aiohttp
    from yarl import URL

    def open_socket(info: Any) -> socket.socket:
        family, kind, protocol, _, place = info
        if not settings.allow_private and is_private(place[0]):
            raise RefusedError("its host is in a private network or on this machine (--allow-private-addresses)")
        return socket.socket(family, kind, protocol)

    async def check_redirect(_: Any, __: Any, step: Any) -> None:
        to = step.url.join(URL(step.response.headers.get("Location", "")))
        if to.scheme not in settings.schemes:
            raise RefusedError(f"it redirects to {to.scheme}:// (--remote-schemes)")

    async def make(**options: Any) -> Any:
        trace = aiohttp.TraceConfig()
        trace.on_request_redirect.append(check_redirect)
        timeout = aiohttp.ClientTimeout(
            total=settings.seconds, sock_connect=min(_CONNECT_SECONDS, settings.seconds), sock_read=_READ_SECONDS
        )
        connector = aiohttp.TCPConnector(socket_factory=open_socket)
        return aiohttp.ClientSession(connector=connector, trace_configs=[trace], timeout=timeout, **options)

    return make


def is_private(host: str) -> bool:
    """Tell whether an IP address is of this machine, a private network or no single public host.

    Args:
        host: In figures; an IPv6 address may end with its interface.
    """
    address = ipaddress.ip_address(host.partition("%")[0])
    if isinstance(address, ipaddress.IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour
        if address in _NAT64:
            inner = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        address = inner or address
    return not address.is_global or address.is_multicast


def is_final(error: BaseException) -> bool:
    """Tell whether a file system's error would come again: what is not there, not allowed or not understood."""
    status = getattr(error, "status", 0)
    return isinstance(error, _NOT_PASSING) or (400 <= status < 500 and status not in _PASSING)


def _refusal(error: BaseException | None) -> RefusedError | None:
    """Return our own refusal among the causes of an error."""
    while error is not None:
        if isinstance(error, RefusedError):
            return error
        error = getattr(error, "os_error", None) or error.__cause__ or error.__context__
    return None


def _reason(error: Exception, refused: RefusedError | None, address: str, attempts: int) -> str:
    if refused:
        return f"not fetched: {refused}"
    if isinstance(error, FileNotFoundError):
        return "cannot be fetched: not found"
    again = f", {attempts} attempts" if attempts > 1 else ""
    if isinstance(error, TimeoutError):
        return f"cannot be fetched: no answer in time{again}"
    return f"cannot be fetched: {describe_error(error, address)}{again}"
