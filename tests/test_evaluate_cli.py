"""`groundlabel evaluate` as a person calls it: what it prints, its status, and a report that needs nothing else."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jobs.cli import main
from pipeline.errors import UserError
from pipeline.proof.evaluate import below_limits, evaluate, parse_limits
from pipeline.proof.pictures import COLORS, draw_worst
from pipeline.proof.report import report_values, write_report
from pipeline.proof.report_page import render_html
from tests.proof_pairs import IMAGE_HW, coco, write_json
from tests.review_runs import odd_records, write_run

BOXES = [(8.0, 8.0, 20.0, 20.0), (40.0, 20.0, 30.0, 30.0)]
TRUTH = [(0, 0, BOXES[0], None), (0, 1, BOXES[1], None), (1, 0, BOXES[0], None), (2, 1, BOXES[1], None)]
FOUND = [(0, 0, BOXES[0], 0.9), (0, 0, BOXES[1], 0.8), (1, 0, BOXES[0], 0.7), (1, 1, (50.0, 40.0, 9.0, 9.0), 0.4)]
NAMES = ("<car>", "traffic light")
PATHS = ("a & b.png", "sub/b.png", "c.png")


@pytest.fixture
def files(tmp_path: Path) -> tuple[str, str]:
    """Return a truth and labels, with images, of which one has another size than the labels say."""
    for path in PATHS:
        file = tmp_path / "images" / path
        file.parent.mkdir(parents=True, exist_ok=True)
        size = (50, 50) if path == "c.png" else IMAGE_HW[::-1]
        Image.new("RGB", size, (120, 120, 120)).save(file)
    truth = write_json(tmp_path / "truth.json", coco(PATHS, NAMES, TRUTH))
    return str(truth), str(write_json(tmp_path / "labels" / "labels.json", coco(PATHS, NAMES, FOUND)))


class Needs(HTMLParser):
    """Collects what a page would load, and its text."""

    def __init__(self) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.tags: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.loads += [value or "" for name, value in attrs if name in ("src", "href", "srcset", "data")]

    def handle_data(self, data: str) -> None:
        self.text += data


def test_a_report_stands_alone_and_says_what_is_printed(
    files: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = tmp_path / "report"
    assert main(["evaluate", *files, "--against", files[1], "--output", str(report)]) == 0
    printed = capsys.readouterr().out
    assert "3 images, 4 objects of 2 classes, 4 labels" in printed
    assert "clicks: 6 from these labels, 12 from nothing" in printed
    assert "class 33.5 (1)" in printed
    assert f"against {files[1]}:" in printed
    page = Needs()
    html = (report / "report.html").read_text(encoding="utf-8")
    page.feed(html)
    assert page.loads
    assert all(address.startswith("data:image/") for address in page.loads)
    assert not {"script", "link", "iframe"} & set(page.tags)
    assert "url(" not in html
    assert "<car>" in page.text
    assert "<car>" not in html
    assert "a & b.png · 2 clicks" in page.text
    assert "the image file has another size than the labels say" in page.text
    assert "not told apart" in page.text
    values = json.loads((report / "report.json").read_text(encoding="utf-8"))
    assert values["figures"]["clicks_saved"] == pytest.approx(0.5)
    assert values["confusion"] == {
        "names": ["<car>", "traffic light", "background"],
        "matrix": [[2, 0, 0], [1, 0, 1], [0, 1, 0]],
    }
    assert values["mistakes"]["boxes"]["counts"]["class"] == 1
    assert [one["clicks"] for one in values["images_with_most_clicks"]] == [3, 2, 1]
    assert values["comparison"]["figures"]["AP"]["verdict"] == "not told apart"


def test_a_report_replaces_itself_and_nothing_else(files: tuple[str, str], tmp_path: Path) -> None:
    evaluation = evaluate(*files)
    (tmp_path / "r").mkdir()
    (tmp_path / "r" / "mine.txt").write_text("mine")
    first = write_report(evaluation, tmp_path / "r").read_bytes()
    assert write_report(evaluation, tmp_path / "r").read_bytes() == first, "the same evaluation, the same report"
    assert sorted(path.name for path in (tmp_path / "r").iterdir()) == ["mine.txt", "report.html", "report.json"]
    with pytest.raises(UserError, match=r"mine.txt is a file; --output must be a folder"):
        write_report(evaluation, tmp_path / "r" / "mine.txt")


def test_status_1_where_a_figure_is_too_low(files: tuple[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", *files, "--fail-under", "ap50=.2", "--fail-under", "clicks_saved=0.5"]) == 0
    assert main(["evaluate", *files, "--fail-under", "AP50=.2", "--fail-under", "AR100=0.9"]) == 1
    assert "too low: AR100 is 0.5000, below 0.9" in capsys.readouterr().out
    assert main(["evaluate", *files, "--fail-under", "AP60=.2"]) == 2
    assert "no figure 'AP60' here; there are AP, AP50" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["AP50", "AP50=", "AP50=high", "AP50=nan", "=.5=.5"])
def test_a_limit_of_another_form_is_refused_before_anything_is_read(
    text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluate", str(tmp_path / "none"), str(tmp_path / "none"), "--fail-under", text]) == 2
    assert "--fail-under takes FIGURE=NUMBER" in capsys.readouterr().err


def test_a_figure_that_cannot_be_computed_is_below_its_limit() -> None:
    assert parse_limits(["AP_large=.5", "x=1."]) == {"AP_large": 0.5, "x": 1.0}
    assert below_limits({"AP_large": float("nan")}, {"ap_large": 0.0}) == ["AP_large is nan, below 0"]


def test_a_lowest_score_leaves_labels_out_of_clicks_and_pictures(files: tuple[str, str]) -> None:
    every, some = evaluate(*files), evaluate(*files, min_score=0.75)
    assert every.figures["AP"] == some.figures["AP"]
    assert every.clicks.deleted == 1
    assert some.clicks.deleted == 0
    picture = next(picture for picture in draw_worst(some) if picture.path == "sub/b.png")
    assert {kind: count for kind, count in picture.counts.items() if count} == {"missed": 1}
    with pytest.raises(UserError, match="--min-score must be from 0 to 1"):
        evaluate(*files, min_score=3)


def test_pictures_show_the_marks_where_they_are(files: tuple[str, str]) -> None:
    import base64
    import io

    worst = draw_worst(evaluate(*files))
    assert [picture.clicks for picture in worst] == [3, 2, 1]
    picture = next(picture for picture in worst if picture.path == PATHS[0])
    pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(picture.data.split(",")[1]))).convert("RGB")).astype(int)
    assert pixels.shape[:2] == (420, 560)
    scale = 7
    for kind, (left, top, width, height) in (("right", BOXES[0]), ("class", BOXES[1])):
        bottom, middle = round((top + height) * scale), round((left + width / 2) * scale)
        line = pixels[bottom - 3 : bottom + 3, middle]
        assert np.abs(line - np.array(COLORS[kind])).sum(1).min() < 90, kind
    assert np.abs(pixels[10:20, 10:20] - 120).max() < 6


def test_images_that_are_not_there_are_drawn_grey(files: tuple[str, str], tmp_path: Path) -> None:
    (tmp_path / "images").rename(tmp_path / "elsewhere")
    assert all("say where with --images" in picture.note for picture in draw_worst(evaluate(*files)))
    found = draw_worst(evaluate(*files, images=tmp_path / "elsewhere"))
    assert sum(not picture.note for picture in found) == 2
    with pytest.raises(UserError, match="no such folder of images"):
        evaluate(*files, images=tmp_path / "nowhere")


def test_a_run_against_itself_is_perfect(tmp_path: Path) -> None:
    run = write_run(tmp_path, odd_records())
    evaluation = evaluate(run, run)
    assert evaluation.figures["AP"] == evaluation.figures["mask_AP"] == evaluation.figures["boundary_AP"] == 1
    assert evaluation.outlines is not None
    assert (evaluation.outlines.mask_iou, evaluation.outlines.boundary_iou) == (1, 1)
    assert evaluation.clicks.from_labels == 0
    html = render_html(evaluation, draw_worst(evaluation))
    assert "No image needs a click." in html
    assert "No class was taken for another." in html


def test_no_labels_at_all(tmp_path: Path) -> None:
    truth = write_json(tmp_path / "t.json", coco(PATHS, NAMES, TRUTH))
    nothing = write_json(tmp_path / "p.json", coco(PATHS, NAMES, []))
    evaluation = evaluate(truth, nothing)
    assert evaluation.figures["AP"] == evaluation.figures["clicks_saved"] == 0
    assert evaluation.mistakes["boxes"].counts["missed"] == 4
    assert re.search(r"save 0\.0 % of the clicks", render_html(evaluation, draw_worst(evaluation)))
    json.dumps(report_values(evaluation), allow_nan=False)
