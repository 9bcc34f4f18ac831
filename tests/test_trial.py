"""`groundlabel try`: two ontologies on the same images, with the bundled models and by hand."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jobs.cli import main
from jobs.try_prompts import _describe_judgement
from models.detections import Detections, Instances
from models.ontology import Ontology
from models.training.scenes import SceneConfig, write_scenes
from pipeline.config import AnnotateConfig
from pipeline.errors import UserError
from pipeline.paths import path_to_image_id
from pipeline.proof.intervals import Difference, Interval
from pipeline.records import AnnotatedImage
from pipeline.trial.agreement import ClassAgreement, compare_labels, match_boxes
from pipeline.trial.arms import Arm
from pipeline.trial.judge import Judgement
from pipeline.trial.sheet import _class_colors
from pipeline.trial.trial import try_prompts

BOXES_ONLY = AnnotateConfig(mask="none", device="cpu")
PAIRS = ("red circle", "blue star", "green square", "yellow heart")


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scenes")
    write_scenes(folder, 5, 7, SceneConfig(size=128, max_objects=4, pairs=PAIRS))
    (folder / "images" / "broken.jpg").write_bytes(b"no image")
    return folder


@pytest.fixture(scope="module")
def ontologies(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    folder = tmp_path_factory.mktemp("classes")
    (folder / "a.yaml").write_text("\n".join(f"{pair}:" for pair in PAIRS))
    (folder / "b.yaml").write_text(f"{PAIRS[0]}: [red circle, orange ring]\n{PAIRS[1]}:\npurple cross:\n")
    return str(folder / "a.yaml"), str(folder / "b.yaml")


def image(name: str, rows: list[tuple[str, tuple[float, ...]]]) -> AnnotatedImage:
    """Return an image with labels; a row is (class, box)."""
    ontology = Ontology.from_names(sorted({label for label, _ in rows}) or ["car"])
    ids = np.array([[spec.name for spec in ontology.classes].index(label) + 1 for label, _ in rows], np.int64)
    boxes = np.array([box for _, box in rows], np.float32).reshape(-1, 4)
    found = Detections((100, 100), boxes, np.full(len(rows), 0.5, np.float32), ids, ids - 1)
    return AnnotatedImage.from_instances(path_to_image_id(name), name, Instances.boxes_only(found), ontology)


def by_id(*images: AnnotatedImage) -> dict[str, AnnotatedImage]:
    return {one.image_id: one for one in images}


def test_labels_agree_by_class_and_overlap() -> None:
    first = by_id(
        image("a", [("car", (0, 0, 10, 10)), ("car", (50, 50, 60, 60)), ("bus", (20, 20, 40, 40))]),
        image("b", [("car", (0, 0, 10, 10))]),
        image("only here", [("car", (0, 0, 10, 10))]),
    )
    second = by_id(
        image("a", [("Car", (0, 0, 10, 9)), ("tram", (20, 20, 40, 39))]), image("b", [("car", (0, 0, 10, 10))])
    )
    found = compare_labels(first, second)
    assert found.by_class == (
        ClassAgreement("bus", 0, 1, 0),
        ClassAgreement("car", 2, 1, 0),
        ClassAgreement("tram", 0, 0, 1),
    )
    assert found.renamed == 1
    assert found.disputed == {path_to_image_id("a"): 3}
    assert found.share == pytest.approx(4 / 7)


def test_no_labels_agree_about_nothing() -> None:
    found = compare_labels(by_id(image("a", [])), by_id(image("a", [])))
    assert (found.by_class, found.renamed, dict(found.disputed)) == ((), 0, {})
    assert found.share != found.share
    assert compare_labels(by_id(image("a", [])), by_id(image("a", [("car", (0, 0, 5, 5))]))).share == 0


def test_the_largest_overlap_is_matched_first() -> None:
    rows, columns = match_boxes(np.array([[0.6, 0.9], [0.5, 0.8], [0.1, 0.2]]))
    assert list(zip(rows.tolist(), columns.tolist(), strict=True)) == [(0, 1), (1, 0)]
    assert len(match_boxes(np.zeros((0, 3)))[0]) == 0


def test_a_class_has_one_colour_in_all_ontologies() -> None:
    first, second = Ontology.from_names("car, bus"), Ontology.from_dict({"Bus": {"color": "#010203"}, "dog": "dog"})
    colors = _class_colors([first, second])
    assert list(colors) == ["car", "bus", "dog"]
    assert len(set(colors.values())) == 3
    assert colors["bus"] == first.colors[1]


def test_two_ontologies_side_by_side(
    scenes: Path, ontologies: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["try", str(scenes / "images"), "--sample", "9", "--mask", "none", "--output", str(tmp_path)]
    assert main([*words, *(word for file in ontologies for word in ("--classes", file))]) == 0
    printed = capsys.readouterr().out
    assert "6 of 6 images, each with 2 ontologies and the same models" in printed
    assert "failed: broken.jpg: " in printed
    assert "prompts of red circle: red circle " in printed
    assert "No truth was given: this says where they differ, not which is better." in printed
    assert "Keep" not in printed
    values = json.loads((tmp_path / "try.json").read_text())
    first, second = values["ontologies"]
    (agreement,) = values["agreement"]
    for side, one in (("only_first", first), ("only_second", second)):
        for name, count in one["labels_by_class"].items():
            mine = [row["both"] + row[side] for row in agreement["by_class"] if row["name"] == name]
            assert sum(mine) == count
    assert first["labels"] > 0
    assert first["seconds"] > 0
    assert values["truth"] is None
    with Image.open(tmp_path / "sheet.jpg") as sheet:
        assert sheet.width > 2 * 500
        assert sheet.height > 5 * 500


def test_a_truth_says_which_to_keep(scenes: Path, ontologies: tuple[str, str]) -> None:
    """The second asks for two of the four classes only, so its precision over all four is lower."""
    trial = try_prompts(
        scenes / "images", ontologies, sample=4, seed=3, truth=scenes / "instances.json", config=BOXES_ONLY
    )
    assert (trial.sample, trial.of_images, dict(trial.failed)) == (4, 5, {})
    judged = trial.judgement
    assert judged is not None
    assert judged.best == 0
    assert judged.leads[0] is None
    assert judged.leads[1] is not None
    assert judged.precisions[0].value > judged.precisions[1].value
    assert judged.leads[1].change.value == pytest.approx(judged.precisions[0].value - judged.precisions[1].value)
    assert set(judged.classes) >= {*PAIRS, "purple cross"}
    again = try_prompts(
        scenes / "images", ontologies, sample=4, seed=3, truth=scenes / "instances.json", config=BOXES_ONLY
    )
    assert [row.path for row in again.arms[0].rows] == [row.path for row in trial.arms[0].rows]


@pytest.mark.parametrize(("lead", "advice"), [(0.2, "Keep a."), (0.0, "not told apart from all others")])
def test_what_is_said_of_the_better_one(lead: float, advice: str) -> None:
    change = Difference(0.7, 0.7 - lead, Interval(lead, lead - 0.1, lead + 0.1), 0.9)
    judgement = Judgement(("car",), 9, (Interval(0.7, 0.6, 0.8), Interval(0.7 - lead, 0.4, 0.8)), 0, (None, change))
    arms = [Arm("a", Ontology.from_names("car"), Path()), Arm("b", Ontology.from_names("Car, tram"), Path())]
    text = "\n".join(_describe_judgement(judgement, arms))
    assert advice in text
    assert "the truth does not have, and so nobody judged: tram" in text
    assert f"a against b: {100 * lead:+.1f}" in text


@pytest.mark.parametrize(
    ("classes", "options", "message"),
    [
        (["car"], {}, "must be given twice or more"),
        (["car", "car"], {}, "given twice"),
        (["car", "bus"], {"sample": 0}, "--sample must be at least 1"),
        (["car", "none.yaml"], {}, "none.yaml does not exist"),
        (["car", "bus"], {"truth": "none.json"}, "none.json"),
    ],
)
def test_a_wrong_request_is_one_message(scenes: Path, classes: list[str], options: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        try_prompts(scenes / "images", classes, **options)


def test_a_truth_of_other_images_or_classes_is_refused(scenes: Path, tmp_path: Path) -> None:
    content = json.loads((scenes / "instances.json").read_text())
    for one in content["images"]:
        one["file_name"] = f"other/{one['file_name']}.png"
    (tmp_path / "truth.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match="it has none of the 6 images"):
        try_prompts(scenes / "images", ["red circle", "blue star"], truth=tmp_path / "truth.json")
    with pytest.raises(UserError, match="no ontology asks for one"):
        try_prompts(scenes / "images", ["zebra", "dog"], sample=1, truth=scenes / "instances.json", config=BOXES_ONLY)
