"""The plugin as a person uses it: the command, a real browser that calls the operators, and what the run has after it.

The pictures of docs/review.md are made here: GROUNDLABEL_PICTURES=docs pytest tests/test_plugin_browser.py
"""

import os
import re
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.config import AnnotateConfig
from pipeline.records import AnnotatedImage
from pipeline.reviewed.changes import REJECTED_TAG
from pipeline.reviewed.layer import ReviewedLayer
from pipeline.store.run import Run
from tests.plugin_runs import label_folder
from tests.test_app_screenshot import CHROMIUM, FLAGS, ROOT, review_command, why_skipped

pytestmark = [
    pytest.mark.skipif(bool(why_skipped()), reason=why_skipped() or "everything is here"),
    pytest.mark.skipif("GROUNDLABEL_PICTURES" not in os.environ, reason="wants a quiet machine; run as said above"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning"),
    pytest.mark.timeout(1800),
]
CELLS = ROOT / "examples" / "images" / "cells"
CLASSES = "red blood cell, white blood cell, platelet"
PATIENCE = 400_000
"""Milliseconds: the models are loaded, and the machine may be busy."""


class Person:
    """Somebody at the App."""

    def __init__(self, page: Any, pictures: Path) -> None:
        self.page, self._pictures = page, pictures

    def call(self, name: str) -> None:
        """Call an operator by keyboard."""
        self.page.keyboard.press("`")
        search = self.page.locator('[data-cy="operators-browser-search"]')
        search.wait_for(timeout=PATIENCE)
        self.page.keyboard.type(name)
        self.page.locator('[data-cy="operators-browser"]').get_by_text(name, exact=True).first.wait_for()
        self.page.wait_for_timeout(500)
        self.page.keyboard.press("Enter")

    def sees(self, text: str) -> Any:
        """Wait for a text and return the element."""
        found = self.page.get_by_text(re.compile(text)).first
        found.wait_for(timeout=PATIENCE)
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
    from playwright.sync_api import sync_playwright

    run = label_folder(CELLS, tmp_path / "cells", AnnotateConfig(device="cpu"), CLASSES)
    first, second = [record for record in Run.open(run).records() if isinstance(record, AnnotatedImage)][:2]
    pictures = Path(os.environ.get("GROUNDLABEL_PICTURES") or tmp_path)
    with review_command(run, tmp_path / "cache") as (command, url), sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        page = browser.new_page(viewport={"width": 1440, "height": 860})
        page.route(lambda address: "127.0.0.1" not in address, lambda route: route.abort())
        page.goto(url, wait_until="commit", timeout=PATIENCE)
        page.locator('[data-cy="looker"]').first.wait_for(timeout=PATIENCE)
        page.wait_for_timeout(3000)
        if page.get_by_text("Dismiss").is_visible():
            page.get_by_text("Dismiss").click()
        person = Person(page, pictures)
        accept_an_image(person)
        explain_an_object(person, second)
        rejected = move_a_threshold(person)
        look_at_the_other_forms(person)
        browser.close()
        command.send_signal(signal.SIGINT)
        command.wait(60)
        assert command.returncode == 0
    states = ReviewedLayer(run).images
    assert [key for key, state in states.items() if state.is_accepted] == [first.image_id]
    tagged = [found for state in states.values() for found in state.objects or () if REJECTED_TAG in found.tags]
    assert len(tagged) == rejected
    assert {found.class_name for found in tagged} == {"red blood cell"}
