"""The App in a real browser, for tests: the command that serves it, and a page that shows it.

Every wait has a limit: a test that finds nothing fails, and never stands still.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from pymongo import MongoClient

from pipeline.errors import UserError
from pipeline.review.mongod import find_mongod
from pipeline.review.schema import dataset_name

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
    """A `groundlabel` command that serves an App.

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
def review_command(run: Path, cache: Path, order: str = "path") -> Iterator[Served]:
    """Run `groundlabel review --order …` and yield it once its App's address is printed."""
    with app_command(["review", str(run), "--order", order], cache) as served:
        yield served


@contextmanager
def app_command(words: Sequence[str], cache: Path) -> Iterator[Served]:
    """Run a command that serves an App and yield it once the App's address is printed.

    What it prints goes to a file: a pipe that nobody reads fills up, and one that a child has inherited never ends.
    """
    environment = {**os.environ, "XDG_CACHE_HOME": str(cache)}
    environment.pop("FIFTYONE_DATABASE_URI", None)
    command = [sys.executable, "-m", "jobs", *words]
    cache.mkdir(exist_ok=True)
    printed = cache / f"{words[0]}-{time.monotonic_ns()}.txt"
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


def database_state(cache: Path) -> dict[str, Any]:
    """Return pids and port of the database that a command with this cache started."""
    found: dict[str, Any] = json.loads((cache / "groundlabel" / "mongodb" / "state.json").read_text())
    return found


def stored_samples(run: Path, cache: Path) -> dict[str, dict[str, Any]]:
    """Return a run's samples as MongoDB has them at this moment, by path."""
    port = database_state(cache)["port"]
    with MongoClient(f"mongodb://127.0.0.1:{port}", serverSelectionTimeoutMS=20_000) as client:
        dataset = client["fiftyone"]["datasets"].find_one({"name": dataset_name(run)})
        found = client["fiftyone"][dataset["sample_collection_name"]].find()
        return {sample["path"]: sample for sample in found}


def select_to_annotate(page: Any, label_id: Any) -> None:
    """Click a label in the list beside an image that is open for annotation."""
    window = page.locator('[data-cy="modal"]')
    window.locator(f'[data-cy="annotate-label-{label_id}"]').click()
    window.locator('[data-cy="annotate-edit-back"]').wait_for()


def saved(page: Any, word: str) -> Any:
    """Wait until the App's server has saved a change with this word in it."""
    return page.expect_response(
        lambda reply: reply.ok and reply.request.method == "PATCH" and word in (reply.request.post_data or "")
    )


def drag(page: Any, image_hw: tuple[int, int], *points: tuple[float, float]) -> None:
    """Drag over an image that is open for annotation, from point to point in its own pixels."""
    place = page.locator('[data-cy="modal"] [data-cy="lighter-sample-renderer-canvas"]').bounding_box()
    height, width = image_hw
    scale = min(place["width"] / width, place["height"] / height)
    left = place["x"] + (place["width"] - scale * width) / 2
    top = place["y"] + (place["height"] - scale * height) / 2
    for row, (x, y) in enumerate(points):
        page.mouse.move(left + scale * x, top + scale * y, steps=1 if row == 0 else 6)
        if row == 0:
            page.mouse.down()
    page.mouse.up()


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
