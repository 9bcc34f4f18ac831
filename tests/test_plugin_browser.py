"""The plugin as a person uses it: the command, a real browser that calls the operators, and what the run has after it.

The pictures of docs/review.md are made here: GROUNDLABEL_PICTURES=docs pytest tests/test_plugin_browser.py
"""

import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from models.masks import decode_mask
from pipeline.config import AnnotateConfig
from pipeline.records import AnnotatedImage
from pipeline.review.documents import document_key, place_mask, rel_to_box, unpack_mask
from pipeline.review.plugin.edits import Document
from pipeline.review.plugin.similar import MOST_SHOWN
from pipeline.reviewed.changes import REJECTED_TAG, BoxXyxy
from pipeline.reviewed.layer import ReviewedLayer
from pipeline.store.run import Run
from tests.app_browser import (
    PATIENCE_SECONDS,
    ROOT,
    drag,
    needs_a_browser,
    opened_page,
    review_command,
    saved,
    stored_samples,
)
from tests.plugin_runs import label_folder
from tests.review_runs import disc

pytestmark = [
    needs_a_browser,
    pytest.mark.skipif("GROUNDLABEL_PICTURES" not in os.environ, reason="wants a quiet machine; run as said above"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning"),
    pytest.mark.timeout(900),
]
CELLS = ROOT / "examples" / "images" / "cells"
CLASSES = "red blood cell, white blood cell, platelet"
MISSED_IN = "BloodImage_00055.jpg"
MISSED_CELL, MISSED_RADIUS = (377, 52), 42
"""Middle and radius, in pixels, of a red blood cell of that image that the run does not find."""
PATIENCE = 1000 * PATIENCE_SECONDS
"""Milliseconds: the models are loaded, and the machine may be busy."""
_TRIES = 3


class Person:
    """Somebody at the App."""

    def __init__(self, page: Any, pictures: Path) -> None:
        self.page, self._pictures = page, pictures

    def call(self, name: str) -> None:
        """Call an operator by keyboard; again where the App was too busy to take a key."""
        from playwright.sync_api import TimeoutError as NotSeenError

        browser = self.page.locator('[data-cy="operators-browser"]')
        for _ in range(_TRIES):
            try:
                self.page.keyboard.press("`")
                self.page.locator('[data-cy="operators-browser-search"]').wait_for(timeout=PATIENCE / _TRIES)
                self.page.keyboard.type(name)
                browser.get_by_text(name, exact=True).first.wait_for(timeout=PATIENCE / _TRIES)
                self.page.wait_for_timeout(500)
                self.page.keyboard.press("Enter")
                browser.wait_for(state="hidden", timeout=PATIENCE / _TRIES)
                return
            except NotSeenError:
                self.page.keyboard.press("Escape")
        pytest.fail(f"the App did not open {name}")

    def sees(self, text: str) -> Any:
        """Wait for a text and return the element; where it does not come, say what is there."""
        from playwright.sync_api import TimeoutError as NotSeenError

        found = self.page.get_by_text(re.compile(text)).first
        try:
            found.wait_for(timeout=PATIENCE)
        except NotSeenError:
            pytest.fail(f"{text!r} is not in the App, but {self.page.locator('body').inner_text()!r}")
        return found

    def is_told(self, text: str) -> None:
        """Wait for an operator's end in its window of progress, and close that."""
        self.sees(text)
        self.page.get_by_role("button", name="Done").click()

    def select_object(self, image_hw: tuple[int, int], box_xyxy: BoxXyxy) -> None:
        """Click an object of the open image until it is selected: that is possible once its mask is drawn."""
        for _ in range(10):
            self.page.wait_for_timeout(3000)
            self.click_box(image_hw, box_xyxy)
            self.page.wait_for_timeout(1000)
            if self.page.locator('[data-cy="action-manage-selected"]').get_by_text("1", exact=True).count():
                return
        pytest.fail("no click selects the object")

    def photograph(self, name: str) -> None:
        self.page.wait_for_timeout(1500)
        self.page.screenshot(path=self._pictures / f"review-{name}.jpg", type="jpeg", quality=70)

    def click_object(self, record: AnnotatedImage, row: int) -> None:
        """Click into the middle of an object's box in the open image."""
        self.click_box(record.image_hw, tuple(record.instances.detections.boxes_xyxy[row].tolist()))

    def click_box(self, image_hw: tuple[int, int], box_xyxy: BoxXyxy) -> None:
        """Click into the middle of a box (pixels) of the open image."""
        place = self.page.locator('[data-cy="modal-looker-container"]').bounding_box()
        height, width = image_hw
        scale = min(place["width"] / width, place["height"] / height)
        x1, y1, x2, y2 = box_xyxy
        left = place["x"] + (place["width"] - scale * width) / 2
        top = place["y"] + (place["height"] - scale * height) / 2
        self.page.mouse.click(left + scale * (x1 + x2) / 2, top + scale * (y1 + y2) / 2)


def accept_an_image(person: Person) -> None:
    person.page.locator('[data-cy="checkbox-tags"]').first.click()
    first = person.page.locator('[data-cy="looker"]').first
    first.click(position={"x": 18, "y": 18})
    person.call("Accept")
    person.sees("Accepted 1 image")
    person.page.locator('[data-cy="looker"]').first.wait_for(timeout=PATIENCE)
    person.photograph("accept")
    person.page.locator('[data-cy="looker"]').first.click(position={"x": 18, "y": 18})


def explain_an_object(person: Person, record: AnnotatedImage) -> None:
    person.page.locator('[data-cy="looker"]').nth(1).click(position={"x": 120, "y": 100})
    person.page.locator('[data-cy="modal-looker-container"]').wait_for(timeout=PATIENCE)
    largest = int(np.argmax(np.prod(np.diff(record.instances.detections.boxes_xyxy.reshape(-1, 2, 2), axis=1), -1)))
    for _ in range(5):  # an object can be clicked once its mask is drawn
        person.page.wait_for_timeout(3000)
        person.click_object(record, largest)
        person.page.wait_for_timeout(500)
        person.call("Explain this box")
        said = person.sees("Detector tiny, segmenter|select one label").inner_text()
        if "select one" not in said:
            break
        person.page.get_by_role("button", name="Close").click()
    text = person.page.locator("body").inner_text()
    assert record.prompts[largest] in text
    assert f"{record.instances.detections.scores[largest]:.3f}" in text
    person.photograph("explain")
    person.page.get_by_role("button", name="Close").click()
    person.page.keyboard.press("Escape")
    person.page.keyboard.press("Escape")
    person.page.locator('[data-cy="modal"]').wait_for(state="hidden", timeout=PATIENCE)


def move_a_threshold(person: Person) -> int:
    """Reject what is under a higher threshold; returns how many labels the form said."""
    person.call("Move threshold")
    slider = person.page.locator('input[type="range"]').last
    slider.wait_for(timeout=PATIENCE)
    slider.focus()
    for _ in range(20):
        slider.press("ArrowRight")
    said = person.sees(r"^[1-9]\d* labels? rejected")
    person.page.wait_for_timeout(3000)
    count = int(said.inner_text().split()[0])
    person.photograph("threshold")
    person.page.get_by_role("button", name="Execute").click()
    person.sees("Threshold of red blood cell is")
    return count


def fit_thresholds(person: Person) -> None:
    """Ask which thresholds one accepted image gives; nothing is written."""
    person.call("Fit thresholds")
    person.sees("Judged by 1 accepted image")
    person.page.get_by_role("button", name="Execute").click()
    person.sees("nothing was written")
    person.sees("too few reviews; left as it is")
    person.photograph("fit")
    table = person.page.locator("table").last
    inside, outside = table.bounding_box(), table.locator("xpath=ancestor::*[@role='dialog'][1]").bounding_box()
    assert inside["x"] + inside["width"] <= outside["x"] + outside["width"], "the table is cut off"
    assert table.evaluate("table => table.parentElement.scrollWidth <= table.parentElement.clientWidth")
    person.page.get_by_role("button", name="Close").click()


def look_at_the_other_forms(person: Person) -> None:
    person.call("Label selection")
    prompts = person.page.get_by_role("textbox").last
    prompts.wait_for(timeout=PATIENCE)
    prompts.fill("purple circle, blue circle")
    person.sees("what is new becomes a proposal")
    person.photograph("label")
    person.page.get_by_role("button", name="Cancel").click()
    person.page.locator('[data-cy="new-panel-btn"]').first.click()
    person.sees("^Review progress$").click()
    person.sees("1 of 8 images accepted")
    person.photograph("progress")


def test_a_person_accepts_explains_and_moves_a_threshold(tmp_path: Path) -> None:
    run = label_folder(CELLS, tmp_path / "cells", AnnotateConfig(device="cpu"), CLASSES)
    first, second = [record for record in Run.open(run).records() if isinstance(record, AnnotatedImage)][:2]
    pictures = Path(os.environ.get("GROUNDLABEL_PICTURES") or tmp_path)
    with review_command(run, tmp_path / "cache") as served, opened_page(1440, 860) as page:
        page.goto(served.url, wait_until="commit")
        page.locator('[data-cy="looker"]').first.wait_for()
        page.wait_for_timeout(3000)
        person = Person(page, pictures)
        accept_an_image(person)
        explain_an_object(person, second)
        rejected = move_a_threshold(person)
        fit_thresholds(person)
        look_at_the_other_forms(person)
        served.end()
    states = ReviewedLayer(run).images
    assert [key for key, state in states.items() if state.is_accepted] == [first.image_id]
    tagged = [found for state in states.values() for found in state.objects or () if REJECTED_TAG in found.tags]
    assert len(tagged) == rejected
    assert {found.class_name for found in tagged} == {"red blood cell"}


def segment_a_moved_box(person: Person, stored: Callable[[], Document], image_hw: tuple[int, int]) -> str:
    """Draw a box beside a cell that nothing found, move it there, and have its mask drawn; returns the label's key.

    The App lets nobody move the box of a label that has a mask.
    """
    page, known = person.page, {label["_id"] for label in stored()["predictions"]["detections"]}
    (x, y), side = MISSED_CELL, 2 * MISSED_RADIUS
    page.locator('[data-cy="annotate"]').dispatch_event("click")
    page.locator('[data-cy="detection-mode"]').click()
    page.get_by_text("Click and drag to create a bounding box").wait_for()
    left, top = x - MISSED_RADIUS - 16, y - MISSED_RADIUS + 12
    with saved(page, "add"):
        drag(page, image_hw, (left, top), (left + side / 2, top + side / 2), (left + side, top + side))
    page.locator('[data-cy="annotate-edit-back"]').wait_for()
    (drawn,) = [label for label in stored()["predictions"]["detections"] if label["_id"] not in known]
    if drawn.get("label") != "red blood cell":
        with saved(page, "red blood cell"):
            page.locator('[data-cy="modal"]').get_by_text("red blood cell", exact=True).last.click()
    with saved(page, "bounding_box"):
        drag(page, image_hw, (x - 16, y + 12), (x - 8, y + 6), (x, y))
    moved = label_of(stored(), document_key(drawn))
    box = rel_to_box(moved["bounding_box"], image_hw)
    np.testing.assert_allclose([box[0], box[1]], [left + 16, top - 12], atol=2)
    assert not moved.get("mask")
    page.locator('[data-cy="annotate-edit-back"]').click()
    page.locator('[data-cy="explore"]').dispatch_event("click")
    person.select_object(image_hw, box)
    person.call("Re-segment")
    person.sees("1 mask drawn")
    person.photograph("resegment")
    person.page.get_by_role("button", name="Done").click()
    drawn = label_of(stored(), document_key(moved))
    mask, (left, top, right, bottom) = placed_mask(drawn, image_hw), rel_to_box(drawn["bounding_box"], image_hw)
    assert np.flatnonzero(mask.any(0))[[0, -1]].tolist() == [left, right - 1], "the box is not tight around the mask"
    assert np.flatnonzero(mask.any(1))[[0, -1]].tolist() == [top, bottom - 1]
    cell = disc(image_hw, MISSED_CELL, MISSED_RADIUS)
    assert (mask & cell).sum() / (mask | cell).sum() > 0.6
    return document_key(moved)


def find_similar_objects(
    person: Person, stored: Callable[[], dict[str, Document]], image_hw: tuple[int, int], key: str
) -> None:
    """Select an object, ask what is like it, and check which objects the App shows, and in which order."""
    label = label_of(stored()[MISSED_IN], key)
    person.select_object(image_hw, rel_to_box(label["bounding_box"], image_hw))
    with person.page.expect_request(lambda request: "setViewMutation" in (request.post_data or "")) as asked:
        person.call("Find similar objects")
    person.is_told(r"^\d+ objects of \d+, the most similar first")
    person.page.locator('[data-cy="modal"]').wait_for(state="hidden", timeout=PATIENCE)
    person.sees(r"^\d+ patches$")
    person.photograph("similar")
    (order,) = [stage for stage in asked.value.post_data_json["variables"]["view"] if stage["_cls"].endswith(".Select")]
    shown = dict(order["kwargs"])["sample_ids"]
    assert shown[0] == str(label["_id"])
    assert len(shown) == min(MOST_SHOWN, sum(len(sample["predictions"]["detections"]) for sample in stored().values()))


def export_what_is_shown(person: Person, output: Path) -> None:
    """Fill in the form, and wait until the files are written."""
    person.call("Export this view")
    person.sees("with what people corrected")
    person.page.get_by_role("textbox").last.fill(str(output))
    person.page.wait_for_timeout(3000)
    person.photograph("export")
    person.page.get_by_role("button", name="Execute").click()
    person.is_told(rf"^{output}: \d+ images")


def find_missed_objects(person: Person) -> int:
    """Have the detector look again; returns how many images the App says to miss something."""
    person.call("Find missed objects")
    said = person.sees(r"^\d+ images? of the run with boxes just under the threshold").inner_text()
    person.page.get_by_role("button", name="Done").click()
    person.sees("^Likely missed$")
    person.photograph("missed")
    return int(said.split()[0])


def label_of(sample: Document, key: str) -> Document:
    """Return one label of a stored sample."""
    (found,) = [label for label in sample["predictions"]["detections"] if document_key(label) == key]
    return dict(found)


def placed_mask(label: Document, image_hw: tuple[int, int]) -> NDArray[np.bool_]:
    """Return the mask of a stored label in its image."""
    return decode_mask(place_mask(unpack_mask(label["mask"]), rel_to_box(label["bounding_box"], image_hw), image_hw))


def test_a_person_segments_finds_and_exports(tmp_path: Path) -> None:
    run, cache = label_folder(CELLS, tmp_path / "cells", AnnotateConfig(device="cpu"), CLASSES), tmp_path / "cache"
    records = {record.path: record for record in Run.open(run).records() if isinstance(record, AnnotatedImage)}
    pictures = Path(os.environ.get("GROUNDLABEL_PICTURES") or tmp_path)

    def samples() -> dict[str, Document]:
        return stored_samples(run, cache)

    with review_command(run, cache, order="gain") as served, opened_page(1200, 720) as page:
        page.goto(f"{served.url}&id={samples()[MISSED_IN]['_id']}", wait_until="commit")
        person = Person(page, pictures)
        person.sees("^Review order$")
        image_hw = records[MISSED_IN].image_hw
        key = segment_a_moved_box(person, lambda: samples()[MISSED_IN], image_hw)
        find_similar_objects(person, samples, image_hw, key)
        export_what_is_shown(person, tmp_path / "out")
        missed = find_missed_objects(person)
        assert missed == sum(sample["likely_missed"] > 0 for sample in samples().values()) > 0
        mask = placed_mask(label_of(samples()[MISSED_IN], key), image_hw)
        served.end()
    (state,) = [state for state in ReviewedLayer(run).images.values() if state.image.path == MISSED_IN]
    (kept,) = [found for found in state.objects or () if found.object_id == key]
    assert (kept.class_name, kept.origin, kept.score) == ("red blood cell", "human", None)
    assert kept.mask is not None
    np.testing.assert_array_equal(decode_mask(kept.mask), mask)
    content = json.loads((tmp_path / "out" / "annotations.json").read_text())
    assert {image["file_name"] for image in content["images"]} == set(records)
    (exported,) = [row for row in content["annotations"] if row["object_id"] == key]
    assert exported["area"] == mask.sum()
