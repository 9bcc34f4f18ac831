"""Corrections by mouse in the App, a crash, new labels, and every edit there; on request, with GROUNDLABEL_BROWSER set.

The command is started and a real browser opens it. `edit` does what a person does in the App's own annotation, which
takes minutes where a browser has no GPU.
"""

import os
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from models.masks import decode_mask
from pipeline.export.labels import open_labels
from pipeline.export.objects import ExportImage
from pipeline.reviewed.layer import ReviewedLayer, read_changes
from tests.app_browser import (
    Served,
    database_state,
    drag,
    needs_a_browser,
    opened_page,
    processes_that_mention,
    review_command,
    saved,
    select_to_annotate,
    stored_samples,
)
from tests.review_runs import HW, a_photo, disc, odd_records, write_run

pytestmark = [
    pytest.mark.skipif("GROUNDLABEL_BROWSER" not in os.environ, reason="takes minutes: set GROUNDLABEL_BROWSER=1"),
    needs_a_browser,
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning"),
    pytest.mark.timeout(1200),
]


SHOWN = {"edited.png": ["round thing", "square", "square"], "untouched.png": ["round thing", "round thing", "square"]}
"""Labels at the end, by path."""


def stored_ids(run: Path, cache: Path, path: str) -> tuple[str, list[str]]:
    """Return the ids that FiftyOne has given to an image and to its labels."""
    sample = stored_samples(run, cache)[path]
    return str(sample["_id"]), [str(label["_id"]) for label in sample["predictions"]["detections"]]


def open_annotation(page: Any, url: str, sample_id: str) -> None:
    page.goto(f"{url}?id={sample_id}", wait_until="commit")
    page.locator('[data-cy="annotate"]').dispatch_event("click")  # the mouse waits for frames, of which few come yet
    page.locator('[data-cy^="annotate-label"]').first.wait_for()


def edit(page: Any, label_ids: list[str]) -> None:
    """Relabel the first label, delete the third, brush the second, and draw one more, by mouse."""
    window = page.locator('[data-cy="modal"]')

    select_to_annotate(page, label_ids[0])
    with saved(page, "square"):
        window.get_by_text("square", exact=True).last.click()
    window.locator('[data-cy="annotate-edit-back"]').click()
    select_to_annotate(page, label_ids[2])
    window.locator('[data-cy="label-menu-trigger"]').click()
    with saved(page, "remove"):
        page.get_by_role("menuitem", name="Delete label").click()
    window.locator(f'[data-cy="annotate-label-{label_ids[2]}"]').wait_for(state="detached")
    select_to_annotate(page, label_ids[1])
    window.locator('[data-cy="brush"]').click()
    window.get_by_text("Paint to create a mask").wait_for()
    with saved(page, "mask"):
        drag(page, HW, (50, 35), (40, 35), (34, 35))
    window.locator('[data-cy="annotate-edit-back"]').click()
    window.locator('[data-cy="detection-mode"]').click()
    window.get_by_text("Click and drag to create a bounding box").wait_for()
    with saved(page, "add"):
        drag(page, HW, (50, 4), (60, 10), (70, 16))
    window.locator('[data-cy="annotate-edit-back"]').wait_for()
    with saved(page, "round thing"):
        window.get_by_text("round thing", exact=True).last.click()


def kill_everything(served: Served, cache: Path) -> None:
    """Kill mongod, its keeper, the App's server and the command, as a crash of the machine would."""
    time.sleep(0.5)  # mongod writes its journal every 10 ms
    pids = database_state(cache)
    command = served.process.pid
    children = Path(f"/proc/{command}/task/{command}/children").read_text().split()
    for pid in (pids["mongod"], pids["keeper"], *map(int, children), command):
        os.kill(pid, signal.SIGKILL)
    served.process.wait(30)
    assert (cache / "groundlabel" / "mongodb" / "state.json").exists()  # nobody had the time to put things in order


def check_every_edit(run: Path) -> None:
    """Check the corrected labels as every export reads them."""
    records = {record.path: record for record in open_labels(run).records() if isinstance(record, ExportImage)}
    assert set(records) == {"edited.png"}
    relabelled, brushed, drawn = records["edited.png"].objects
    assert [found.class_name for found in (relabelled, brushed, drawn)] == ["square", "square", "round thing"]
    assert relabelled.mask is not None
    assert brushed.mask is not None
    np.testing.assert_array_equal(decode_mask(relabelled.mask), disc(HW, (20, 20), 10))
    mask, before = decode_mask(brushed.mask), disc(HW, (55, 35), 10)
    assert mask[34:37, 34:50].any(axis=0).all()
    assert (mask & before).sum() > 0.97 * before.sum()
    assert 15 < (mask & ~before).sum() < 150
    assert (drawn.mask, drawn.score, drawn.provenance) == (None, None, "human")
    np.testing.assert_allclose(drawn.box_xyxy, [50, 4, 70, 16], atol=0.2)
    assert {"relabelled", "deleted", "mask", "added"} <= {str(change.kind) for change in read_changes(run)}
    (image,) = ReviewedLayer(run).images.values()
    assert [found.class_name for found in image.removed] == ["round thing"]


def check_that_the_deleted_object_is_not_proposed(sample: dict[str, Any]) -> None:
    """Check that what the new labels have where nobody deleted anything is all that is proposed."""
    proposed = sample["proposals"]["detections"]
    assert [found["label"] for found in proposed] == ["round thing"]  # in the place of the relabelled one
    np.testing.assert_allclose(proposed[0]["bounding_box"][:2], (9 / 80, 9 / 60), atol=0.01)


def test_edits_by_mouse_outlive_a_crash_and_new_thresholds(tmp_path: Path) -> None:
    cache, others = tmp_path / "cache", odd_records()
    names = tuple(SHOWN)
    run = write_run(tmp_path, [*others, *(a_photo(name, 10, "low") for name in names)])
    with opened_page(900, 560) as page:  # a small canvas is drawn soon
        with review_command(run, cache) as served:
            sample_id, label_ids = stored_ids(run, cache, "edited.png")
            open_annotation(page, served.url, sample_id)
            edit(page, label_ids)
            kill_everything(served, cache)  # most likely before a sync has noted all of it

        write_run(tmp_path, [*others, *(a_photo(name, 11) for name in names)], "e" * 64)
        with review_command(run, cache) as served:
            check_every_edit(run)
            for name in names:
                open_annotation(page, served.url, stored_ids(run, cache, name)[0])
                found = page.locator('[data-cy^="annotate-label"]').all_inner_texts()
                assert sorted(found) == SHOWN[name]
            check_that_the_deleted_object_is_not_proposed(stored_samples(run, cache)["edited.png"])
            served.end()
    check_every_edit(run)
    assert processes_that_mention(str(cache)) == []
