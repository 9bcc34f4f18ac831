"""`groundlabel calibrate` on runs that were reviewed: what counts as right, what is written, what is refused."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from jobs.bench.calibrate import _Column, _describe, _half, _try
from jobs.cli import main
from models.ontology import Ontology
from pipeline.calibration.calibrate import calibrate
from pipeline.calibration.judged import KnownImage, KnownObject, judge_image, known_from_review
from pipeline.calibration.prompt_wins import PromptWins, describe_prompts, idle_prompts
from pipeline.calibration.thresholds import Finding
from pipeline.errors import UserError
from pipeline.reviewed.base import read_base
from pipeline.reviewed.changes import Change, Kind, ReviewedImage, ReviewedObject
from pipeline.reviewed.layer import ReviewedLayer
from pipeline.store.run import Run
from pipeline.store.verify import verify_run
from tests.accepted_runs import accepted_run
from tests.review_runs import ONTOLOGY, labelled, write_run

BOX = (10.0, 10.0, 30.0, 30.0)
FAR = (50.0, 10.0, 70.0, 30.0)


def label(object_id: str, name: str = "car", box: tuple[float, ...] = BOX, score: float = 0.5) -> ReviewedObject:
    left, top, right, bottom = box
    return ReviewedObject(object_id, name, (left, top, right, bottom), score=score)


def moved(by: float) -> tuple[float, float, float, float]:
    return BOX[0] + by, BOX[1], BOX[2] + by, BOX[3]


def review(*objects: ReviewedObject, removed: tuple[ReviewedObject, ...] = ()) -> KnownImage:
    image = Change(image=None, kind=Kind.ADDED).image  # type: ignore[arg-type]
    return known_from_review(ReviewedImage(image, objects, removed), [])


def test_what_a_person_did_with_a_label_says_whether_it_was_right() -> None:
    car = label("a")
    for known, right, missed in (
        (review(car), True, {}),
        (review(replace(car, box_xyxy=moved(6))), True, {}),
        (review(replace(car, box_xyxy=moved(8))), False, {"car": 1}),
        (review(replace(car, class_name="BUS")), False, {"bus": 1}),
        (review(replace(car, class_name=" Car")), True, {}),
        (review(replace(car, tags=("rejected",))), False, {}),
        (review(removed=(car,)), False, {}),
        (review(label("drawn"), removed=(car,)), False, {"car": 1}),
        (review(car, label("drawn", box=FAR)), True, {"car": 1}),
        (review(car, label("b", "bus", FAR)), True, {"bus": 1}),
    ):
        judged = judge_image([car], known)
        assert (judged.rights, dict(judged.missed)) == ((right,), missed)
    assert judge_image([], review()).rights == ()


def test_the_label_that_a_person_kept_has_the_object() -> None:
    """Of two labels on an object the one that was deleted is wrong, whatever its score."""
    better, worse = label("a", score=0.9), label("b", box=moved(1), score=0.4)
    judged = judge_image([better, worse], review(worse, removed=(better,)))
    assert (judged.rights, dict(judged.missed)) == ((False, True), {})


def test_labels_of_a_later_run_are_judged_by_overlap() -> None:
    known = review(label("old"))
    judged = judge_image([label("x", score=0.3), label("y", box=moved(2), score=0.8), label("z", box=FAR)], known)
    assert judged.rights == (False, True, False)
    assert not judged.missed


def test_a_crowd_is_neither_right_nor_wrong() -> None:
    known = KnownImage((KnownObject("car", (0.0, 0.0, 40.0, 40.0), crowd=True),))
    judged = judge_image([label("a"), label("b", "bus"), label("c", box=FAR)], known)
    assert judged.rights == (None, False, False)
    assert not judged.missed


def test_an_image_that_was_accepted_as_it_stood() -> None:
    car = label("a")
    image = Change(image=None, kind=Kind.ADDED).image  # type: ignore[arg-type]
    assert judge_image([car], known_from_review(ReviewedImage(image, None), [car])).rights == (True,)


def test_prompts_that_never_win_are_named() -> None:
    wins = PromptWins(Ontology.from_dict({"car": ["car", "taxi"], "bus": ["bus", "coach"], "dog": "dog"}))
    wins.add(["car", "car", "dog"], [True, False, None])
    wins.add([])
    assert [(one.prompt, one.wins, one.judged, one.right) for one in wins.counts()] == [
        ("car", 2, 2, 1),
        ("taxi", 0, 0, 0),
        ("bus", 0, 0, 0),
        ("coach", 0, 0, 0),
    ]
    # Nothing is known of the class of which no prompt found anything.
    assert idle_prompts(wins.counts()) == {"car": ["taxi"]}
    assert describe_prompts(wins.counts(), wins.images) == [
        "prompts of car: car 2 (1 of 2 right), taxi 0",
        "prompts of bus: bus 0, coach 0",
        "never won on 2 images, so car may do without: taxi",
    ]
    assert describe_prompts((), 5) == []


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return accepted_run(tmp_path)


def test_thresholds_come_from_the_accepted_images(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ontology = tmp_path / "classes.yaml"
    ontology.write_text("# mine\nround thing: [circle, disc]  # two\nsquare:\n", encoding="utf-8")
    assert main(["calibrate", str(run), "--precision", "0.9", "--write", str(ontology)]) == 0
    printed = capsys.readouterr().out
    assert "60 of 80 images judged, by the images that are accepted; asked is a precision of 0.9" in printed
    assert "images that were changed and are not accepted, and so left out: 1" in printed
    assert "too few reviews; left as it is" in printed
    assert "square: 35 more reviewed labels are needed, some 140 images" in printed
    assert "prompts of round thing: circle 160 (90 of 120 right), disc 0" in printed
    assert "never won on 80 images, so round thing may do without: disc" in printed
    values = json.loads((run / "calibration" / "calibration.json").read_text())
    there, square = values["classes"]
    assert (there["judged"], there["right"], there["missed"], there["finding"]) == (120, 90, 2, "met")
    assert (there["kept"], there["precision"], there["recall"]) == (60, 1.0, pytest.approx(60 / 92))
    assert there["threshold"] == pytest.approx(0.62, abs=1e-4)
    assert there["threshold_now"] == 0.35
    assert (square["finding"], square["threshold"], square["judged"]) == ("too few", None, 15)
    classes = Ontology.from_file(ontology).classes
    assert [spec.box_threshold for spec in classes] == [there["threshold"], None]
    assert ontology.read_text(encoding="utf-8").startswith("# mine\nround thing: {prompts: [circle, disc], box_")
    with Image.open(run / "calibration" / "calibration.png") as plot:
        assert min(plot.size) > 200
    table = pq.read_table(run / "calibration" / "scores.parquet").to_pylist()
    assert len(table) == 180
    by_class = {name: [row for row in table if row["class_name"] == name] for name in ("round thing", "square")}
    assert {row["calibrated_score"] for row in by_class["square"]} == {None}
    high = [row["calibrated_score"] for row in by_class["round thing"] if row["score"] > 0.6]
    low = [row["calibrated_score"] for row in by_class["round thing"] if row["score"] < 0.6]
    assert min(high) > 0.9
    assert max(low) == pytest.approx(0.5, abs=0.1)
    assert not verify_run(run).problems


def test_where_all_boxes_may_stay_the_run_s_own_threshold_is_proposed(run: Path) -> None:
    found = calibrate(run, precision=0.6).classes[0]
    assert (found.threshold.finding, found.threshold.is_lowest) == (Finding.SHOWN, True)
    assert found.proposed == 0.35


def test_a_truth_takes_the_place_of_a_review(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [str(run), "--output", str(tmp_path / "coco"), "--images", "none"]
    assert main(["export", *words]) == 0
    truth = tmp_path / "coco" / "annotations.json"
    content = json.loads(truth.read_text())
    square = next(one["id"] for one in content["categories"] if one["name"] == "square")
    content["categories"] = [one for one in content["categories"] if one["id"] != square]
    content["annotations"] = [one for one in content["annotations"] if one["category_id"] != square]
    content["images"] = content["images"][:70]
    kept = {one["id"] for one in content["images"]}
    content["annotations"] = [one for one in content["annotations"] if one["image_id"] in kept]
    truth.write_text(json.dumps(content))
    capsys.readouterr()
    output = tmp_path / "figures"
    assert main(["calibrate", str(run), "--truth", str(truth), "--output", str(output)]) == 0
    printed = capsys.readouterr().out
    assert f"70 of 80 images judged, by {truth}" in printed
    assert "classes that the truth does not have keep their threshold: square" in printed
    (there,) = json.loads((output / "calibration.json").read_text())["classes"]
    assert (there["judged"], there["right"]) == (140, 110)
    assert not (run / "calibration").exists()


def test_a_sample_from_the_head_of_a_queue_is_said_to_be_one(run: Path, tmp_path: Path) -> None:
    """The first 60 images have lower scores than the others; once all are accepted there is nothing to compare."""
    assert any("no fair sample" in note and "too high" in note for note in calibrate(run).notes)
    opened = Run.open(run)
    base = read_base(opened, [record.image_id for record in opened.records()])
    tags = [Change(one.image, Kind.ACCEPTED, tags_after=("accepted",)) for one in base.values()]
    ReviewedLayer(run).add(tags)
    again = calibrate(run)
    assert again.images == 80
    assert not again.notes


def test_what_cannot_be_judged_is_refused(run: Path, tmp_path: Path) -> None:
    for options, message in (
        ({"precision": 1.0}, "--precision must be above 0 and below 1"),
        ({"width": 0.0}, "--width must be above 0 and below 1"),
        ({"truth": tmp_path / "none.json"}, "none.json"),
    ):
        with pytest.raises(UserError, match=message):
            calibrate(run, **options)
    other = write_run(tmp_path / "other", [labelled("a.png", (20, 20), [])])
    with pytest.raises(UserError, match="has not been reviewed"):
        calibrate(other)
    strange = tmp_path / "strange.json"
    image = {"id": 1, "file_name": "elsewhere.png", "width": 4, "height": 4}
    strange.write_text(json.dumps({"images": [image], "annotations": [], "categories": [{"id": 1, "name": "square"}]}))
    with pytest.raises(UserError, match="none of its images"):
        calibrate(run, truth=strange)


def test_nothing_is_written_where_a_class_is_not_in_the_file(run: Path, tmp_path: Path) -> None:
    ontology = tmp_path / "other.yaml"
    ontology.write_text("square: box\n")
    assert main(["calibrate", str(run), "--write", str(ontology)]) == 2
    assert ontology.read_text() == "square: box\n"
    assert [prompt.text for prompt in ONTOLOGY.prompts] == ["circle", "disc", "square"]


def test_the_bench_holds_half_of_the_scenes_out(capsys: pytest.CaptureFixture[str]) -> None:
    """On boxes that are right as often as their score says, a threshold reaches what was asked on the other half."""
    random = np.random.default_rng(3)
    scores = random.uniform(0.5, 1, 2000)
    column = _Column(scores.tolist(), (random.random(2000) < scores).tolist(), list(range(2000)))
    reviewed = _half(2000, 0)
    assert reviewed.sum() == 1000
    kept = _try(column, reviewed, 0.9)
    assert kept is not None
    assert kept.reached > 0.87
    assert kept.boxes == (scores[~reviewed] >= kept.threshold).sum()
    assert kept.loss_calibrated < kept.loss_raw + 0.01
    assert "1000 reviewed boxes" in _describe("car", column, reviewed, 0.9)
    assert _describe("car", column, reviewed, 0.9).endswith(": met")
    assert _try(_Column(column.scores, [False] * 2000, column.scenes), reviewed, 0.9) is None
    # The real detector, on too few scenes to say anything.
    assert main(["bench", "calibrate", "--n", "3"]) == 2
    printed = capsys.readouterr()
    assert "3 scenes, half reviewed and half held out" in printed.out
    assert "no class has a threshold: more scenes" in printed.err
