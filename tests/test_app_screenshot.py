"""The App as a user sees it: the command is started, a real browser opens it, and the masks are on the screen."""

import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from models.masks import decode_mask
from pipeline.errors import UserError
from pipeline.records import AnnotatedImage
from pipeline.review.mongod import find_mongod
from tests.review_runs import disc, labelled, odd_records, write_run

ROOT = Path(__file__).parents[1]
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update"),
]
IMAGE_HW = (120, 200)


def why_skipped() -> str:
    """Return what this machine lacks for the test; empty where it has everything."""
    if CHROMIUM is None:
        return "no Chromium on PATH: apt-get install chromium"
    try:
        import playwright  # noqa: F401

        find_mongod()
    except (ImportError, UserError) as error:
        return str(error)
    return ""


pytestmark = [
    pytest.mark.skipif(bool(why_skipped()), reason=why_skipped() or "everything is here"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning"),
    pytest.mark.timeout(600),
]


@contextmanager
def review_command(run: Path, cache: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Run `groundlabel review` and yield it with the App's address, once it is printed."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    environment = {**os.environ, "XDG_CACHE_HOME": str(cache)}
    environment.pop("FIFTYONE_DATABASE_URI", None)
    command = [sys.executable, "-m", "jobs", "review", str(run), "--port", str(port)]
    child = subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    try:
        assert child.stdout
        lines = []
        for line in child.stdout:
            lines.append(line)
            if "http://" in line:
                yield child, line.split()[2]
                break
        else:
            pytest.fail(f"no address was printed: {lines}")
    finally:
        child.kill()
        child.communicate()


def processes_that_mention(text: str) -> list[str]:
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


def colour_mask(photo: NDArray[np.int64], strong: tuple[int, ...], weak: tuple[int, ...]) -> NDArray[np.bool_]:
    """Return where the strong channels stand out over the weak ones."""
    return np.asarray(photo[..., list(strong)].min(-1) - photo[..., list(weak)].max(-1) > 40)


def iou_off_the_outline(shown: NDArray[np.bool_], mask: NDArray[np.bool_]) -> float:
    """Compare two masks where the App does not draw the box's outline, which has the mask's colour."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    top, bottom, left, right = rows[0], rows[-1] + 1, columns[0], columns[-1] + 1
    counts = np.ones_like(mask)
    counts[max(top - 3, 0) : bottom + 3, max(left - 3, 0) : right + 3] = False
    counts[top + 3 : bottom - 3, left + 3 : right - 3] = True
    return float((shown & mask & counts).sum() / ((shown | mask) & counts).sum())


def test_the_app_shows_the_masks_where_they_are_and_ends_with_ctrl_c(tmp_path: Path) -> None:
    from playwright.sync_api import sync_playwright

    ring = disc(IMAGE_HW, (60, 55), 40) & ~disc(IMAGE_HW, (60, 55), 18)
    square = np.zeros(IMAGE_HW, bool)
    square[60:, 140:] = True
    record = labelled("0.png", IMAGE_HW, [(ring, (15, 10, 105, 100), 0), (square, (140, 60, 200, 120), 2)])
    run, cache = write_run(tmp_path, [record, *odd_records()]), tmp_path / "cache"
    with review_command(run, cache) as (command, url), sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        page = browser.new_page(viewport={"width": 1280, "height": 800})
        page.route(lambda address: "127.0.0.1" not in address, lambda route: route.abort())
        page.goto(url, wait_until="commit", timeout=90_000)
        image = page.locator('[data-cy="looker"]').first
        image.wait_for(timeout=90_000)
        if page.get_by_text("Dismiss").is_visible():
            page.get_by_text("Dismiss").click()
        page.wait_for_timeout(4000)
        page.screenshot(path=tmp_path / "app.png")
        image.screenshot(path=tmp_path / "image.png")
        assert page.locator('[data-cy="looker"]').count() == 1 + len(odd_records())

        photo = np.asarray(Image.open(tmp_path / "image.png").convert("RGB").resize(IMAGE_HW[::-1])).astype(np.int64)
        assert isinstance(record, AnnotatedImage)
        seen = [colour_mask(photo, (0, 2), (1,)), colour_mask(photo, (1,), (0, 2))]
        for shown, rle in zip(seen, record.instances.masks, strict=True):
            assert iou_off_the_outline(shown, decode_mask(rle)) > 0.95
        grey = ~seen[0] & ~seen[1]
        assert np.ptp(photo[grey], axis=-1).mean() < 10

        command.send_signal(signal.SIGINT)
        command.wait(30)
        assert command.returncode == 0
        browser.close()
    assert processes_that_mention(str(cache)) == []
