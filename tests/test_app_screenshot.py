"""The App as a user sees it: a real browser shows masks where they are, and Ctrl-C ends all that was started."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from models.masks import decode_mask
from pipeline.records import AnnotatedImage
from tests.app_browser import needs_a_browser, opened_page, processes_that_mention, review_command
from tests.review_runs import disc, labelled, odd_records, write_run

pytestmark = [
    needs_a_browser,
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning"),
    pytest.mark.timeout(600),
]
SHOWN_HW = (120, 200)


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


def a_shown_image() -> AnnotatedImage:
    """Return an image with a ring and a square in two colours."""
    ring = disc(SHOWN_HW, (60, 55), 40) & ~disc(SHOWN_HW, (60, 55), 18)
    square = np.zeros(SHOWN_HW, bool)
    square[60:, 140:] = True
    return labelled("0.png", SHOWN_HW, [(ring, (15, 10, 105, 100), 0), (square, (140, 60, 200, 120), 2)])


def test_the_app_shows_the_masks_where_they_are_and_ends_with_ctrl_c(tmp_path: Path) -> None:
    shown, cache = a_shown_image(), tmp_path / "cache"
    others = odd_records()
    run = write_run(tmp_path, [shown, *others])
    with opened_page(1280, 800) as page, review_command(run, cache) as served:
        page.goto(served.url, wait_until="commit")
        page.locator('[data-cy="looker"]').nth(len(others)).wait_for()
        page.wait_for_timeout(4000)
        page.screenshot(path=tmp_path / "app.png")
        page.locator('[data-cy="looker"]').first.screenshot(path=tmp_path / "image.png")
        served.end()
    assert processes_that_mention(str(cache)) == []
    photo = np.asarray(Image.open(tmp_path / "image.png").convert("RGB").resize(SHOWN_HW[::-1])).astype(np.int64)
    seen = [colour_mask(photo, (0, 2), (1,)), colour_mask(photo, (1,), (0, 2))]
    for mask, rle in zip(seen, shown.instances.masks, strict=True):
        assert iou_off_the_outline(mask, decode_mask(rle)) > 0.95
    assert np.ptp(photo[~seen[0] & ~seen[1]], axis=-1).mean() < 10
