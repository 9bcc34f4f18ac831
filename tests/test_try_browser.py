"""`groundlabel try --app` as a person sees it, in a real browser; the picture of docs/thresholds.md is made here.

GROUNDLABEL_PICTURES=docs pytest tests/test_try_browser.py
"""

import os
from pathlib import Path

import pytest

from tests.app_browser import ROOT, app_command, needs_a_browser, opened_page, processes_that_mention

pytestmark = [
    needs_a_browser,
    pytest.mark.skipif("GROUNDLABEL_PICTURES" not in os.environ, reason="wants a quiet machine; run as said above"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning"),
    pytest.mark.timeout(900),
]
FIELDS = ("ontology_1_first", "ontology_2_second")
COUNT = 4


def test_two_ontologies_are_shown_on_the_same_images(tmp_path: Path) -> None:
    (tmp_path / "first.yaml").write_text("blue star:\ngreen crescent:\nblue ring:\n")
    (tmp_path / "second.yaml").write_text("blue star:\nyellow triangle:\nred circle:\n")
    cache, pictures = tmp_path / "cache", Path(os.environ["GROUNDLABEL_PICTURES"])
    files = [word for name in ("first", "second") for word in ("--classes", str(tmp_path / f"{name}.yaml"))]
    place = [*files, "--sample", str(COUNT), "--output", str(tmp_path / "tried"), "--device", "cpu", "--app"]
    with (
        app_command(["try", str(ROOT / "examples" / "images" / "scenes"), *place], cache) as served,
        opened_page(1440, 860) as page,
    ):
        page.goto(served.url, wait_until="commit")
        page.locator('[data-cy="looker"]').nth(COUNT - 1).wait_for()
        for field in FIELDS:
            page.get_by_text(field, exact=True).first.wait_for()
        page.wait_for_timeout(6000)
        page.screenshot(path=pictures / "try-app.jpg", type="jpeg", quality=70)
        assert page.locator('[data-cy="looker"]').count() == COUNT
        served.end()
    assert (tmp_path / "tried" / "try.json").is_file()
    assert processes_that_mention(str(cache)) == []
