"""The App in a real browser, for tests: the command that serves it, and a page that shows it.

Every wait has a limit: a test that finds nothing fails, and never stands still.
"""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import UserError
from pipeline.review.mongod import find_mongod

ROOT = Path(__file__).parents[1]
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update"),
]
PATIENCE_SECONDS = 150
"""Most that anything is waited for, also on a busy machine."""


def why_skipped() -> str:
    """Return what this machine lacks for such a test; empty where it has everything."""
    if CHROMIUM is None:
        return "no Chromium on PATH: apt-get install chromium"
    try:
        import playwright  # noqa: F401

        find_mongod()
    except (ImportError, UserError) as error:
        return str(error)
    return ""


needs_a_browser = pytest.mark.skipif(bool(why_skipped()), reason=why_skipped() or "everything is here")


@dataclass(frozen=True)
class Served:
    """A `groundlabel review` that serves its App.

    Attributes:
        process: The command.
        url: What it printed.
    """

    process: subprocess.Popen[bytes]
    url: str

    def end(self) -> None:
        """Press Ctrl-C and check that the command ends well."""
        self.process.send_signal(signal.SIGINT)
        assert self.process.wait(PATIENCE_SECONDS) == 0


@contextmanager
def review_command(run: Path, cache: Path) -> Iterator[Served]:
    """Run `groundlabel review` and yield it once its App's address is printed.

    What it prints goes to a file: a pipe that nobody reads fills up, and one that a child has inherited never ends.
    """
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    environment = {**os.environ, "XDG_CACHE_HOME": str(cache)}
    environment.pop("FIFTYONE_DATABASE_URI", None)
    command = [sys.executable, "-m", "jobs", "review", str(run), "--port", str(port)]
    cache.mkdir(exist_ok=True)
    printed = cache / f"review-{port}.txt"
    with printed.open("wb") as output:
        child = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output
        )
    try:
        yield Served(child, _printed_url(child, printed))
    finally:
        child.kill()
        child.wait(PATIENCE_SECONDS)


def _printed_url(child: subprocess.Popen[bytes], printed: Path) -> str:
    end = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < end and child.poll() is None:
        for line in printed.read_text(errors="replace").splitlines():
            if line.startswith("FiftyOne App: "):
                return line.split()[2]
        time.sleep(0.1)
    pytest.fail(f"no address was printed: {printed.read_text(errors='replace')}")


@contextmanager
def opened_page(width: int, height: int) -> Iterator[Any]:
    """Yield an empty page of a browser that reaches this machine only and is never asked to buy anything."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        try:
            page = browser.new_page(viewport={"width": width, "height": height})
            page.set_default_timeout(1000 * PATIENCE_SECONDS)
            page.add_init_script("window.IS_PLAYWRIGHT = true")  # or a window is laid over the App, sooner or later
            page.route(lambda address: "127.0.0.1" not in address, lambda route: route.abort())
            yield page
        finally:
            browser.close()


def processes_that_mention(text: str) -> list[str]:
    """Return the command lines of all other processes with a text in their words or environment."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_text().replace("\0", " ")
            environment = (folder / "environ").read_text(errors="replace")
        except OSError:
            continue
        if (text in words or text in environment) and int(folder.name) != os.getpid():
            found.append(words)
    return found
