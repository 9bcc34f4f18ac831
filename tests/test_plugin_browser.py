"""The plugin as a person uses it: the command, a real browser that calls the operators, and what the run has after it.

The pictures of docs/review.md are made here: GROUNDLABEL_PICTURES=docs pytest tests/test_plugin_browser.py
"""

import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.config import AnnotateConfig
from pipeline.records import AnnotatedImage
from pipeline.reviewed.changes import REJECTED_TAG
from pipeline.reviewed.layer import ReviewedLayer
from pipeline.store.run import Run
from tests.app_browser import PATIENCE_SECONDS, ROOT, needs_a_browser, opened_page, review_command
from tests.plugin_runs import label_folder

pytestmark = [
    needs_a_browser,
    pytest.mark.skipif("GROUNDLABEL_PICTURES" not in os.environ, reason="wants a quiet machine; run as said above"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning"),
    pytest.mark.timeout(900),
]
CELLS = ROOT / "examples" / "images" / "cells"
CLASSES = "red blood cell, white blood cell, platelet"
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

    def photograph(self, name: str) -> None:
        self.page.wait_for_timeout(1500)
        self.page.screenshot(path=self._pictures / f"review-{name}.jpg", type="jpeg", quality=70)

    def click_object(self, record: AnnotatedImage, row: int) -> None:
        """Click into the middle of an object's box in the open image."""
        place = self.page.locator('[data-cy="modal-looker-container"]').bounding_box()
        height, width = record.image_hw
        scale = min(place["width"] / width, place["height"] / height)
        x1, y1, x2, y2 = record.instances.detections.boxes_xyxy[row].tolist()
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
