"""`--prefilter .98`: how many classes keep so many boxes, found on the run's own images and kept with the run."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from models.training.scenes import TRAINED_PAIRS, SceneConfig, render_scene
from pipeline.build import build_annotator
from pipeline.config import AnnotateConfig
from pipeline.errors import UserError
from pipeline.prefilter import Calibration, choose_classes, read_calibration, write_calibration
from pipeline.records import AnnotatedImage
from pipeline.run import check_job
from pipeline.sources import find_images
from pipeline.store.output import PREFILTER_FILE, settings_to_config
from pipeline.store.run import Run
from pipeline.store.writer import RunWriter

NAMES = TRAINED_PAIRS[:24]


@given(st.lists(st.integers(1, 50), min_size=1), st.floats(0.01, 0.99))
def test_the_fewest_classes_that_keep_the_share(ranks: list[int], asked: float) -> None:
    found = choose_classes(ranks, asked, 3, 50)
    assert found.recall == np.mean(np.array(ranks) <= found.classes) >= asked
    assert np.mean(np.array(ranks) < found.classes) < asked


def test_nothing_found_leaves_all_classes() -> None:
    found = choose_classes([], 0.98, 7, 50)
    assert found == Calibration(0.98, 50, 1.0, 0, 7)
    assert str(found) == "Prefilter: nothing was found in the first 7 images, so all classes are asked for."


@pytest.mark.parametrize("given_", ["0", "1.5", "1.0", "many", "-0.5", "nan", 2.5])
def test_what_is_no_prefilter(given_: object) -> None:
    with pytest.raises(UserError, match="must be a number of classes, or a recall between 0 and 1"):
        AnnotateConfig(prefilter=given_)  # type: ignore[arg-type]


def test_a_number_or_a_recall() -> None:
    for given_ in ("40", 40):
        config = AnnotateConfig(prefilter=given_)  # type: ignore[arg-type]
        assert (config.prefilter_classes, config.prefilter_recall) == (40, None)
    for given_ in (".98", 0.98):
        config = AnnotateConfig(prefilter=given_)  # type: ignore[arg-type]
        assert (config.prefilter_classes, config.prefilter_recall) == (None, 0.98)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for row in range(5):
        scene = render_scene(930_000 + row, SceneConfig(size=160, max_objects=6, pairs=NAMES))
        Image.fromarray(scene.image).save(folder / f"{row}.png")
    return folder


def test_the_number_is_kept_with_the_run(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.prefilter.SAMPLES", 4)
    output, options = tmp_path / "run", AnnotateConfig(device="cpu", mask="none", prefilter=".9")
    job = check_job(photos, ", ".join(NAMES), output, options, {})
    found = job.prefilter
    assert found is not None
    assert (found.asked, found.images) == (0.9, 4)
    assert 1 <= found.classes < len(NAMES)
    assert found.recall >= 0.9
    assert job.parts["prefilter"] == found.classes == job.config.prefilter_classes
    assert sorted(job.source.paths) == [f"{row}.png" for row in range(5)], "what was looked at is labelled, too"
    number = check_job(photos, ", ".join(NAMES), output, options, {"prefilter": found.classes})
    assert number.parts == job.parts, "the same run as with the number itself"
    with RunWriter(output, job.parts, job.ontology, job.source.root, job.config):
        write_calibration(output, found)
    settings = Run.open(output).settings
    assert settings_to_config(settings, AnnotateConfig()).prefilter_classes == found.classes

    def refuse(*given_: object, **more: object) -> None:
        raise AssertionError("the models are not needed again")

    monkeypatch.setattr("pipeline.run.load_detector", refuse)
    again = check_job(photos, ", ".join(NAMES), output, options, {})
    assert (again.parts, again.prefilter) == (job.parts, found)
    assert read_calibration(output, 0.95) is None
    (output / PREFILTER_FILE).write_text("{}")
    with pytest.raises(UserError, match=r"prefilter.json: cannot be read"):
        check_job(photos, ", ".join(NAMES), output, options, {})


def test_the_boxes_of_the_exact_run_are_found_again(photos: Path, tmp_path: Path) -> None:
    options = AnnotateConfig(device="cpu", mask="none", prefilter=".9")
    job = check_job(photos, ", ".join(NAMES), tmp_path / "run", options, {})
    assert job.prefilter is not None
    images = find_images(photos)
    classes: list[list[list[str]]] = []
    for config in (options.merged({"prefilter": len(NAMES)}), job.config):
        annotator = build_annotator(config, job.ontology)
        records = annotator(images.refs, str(images.root)).records
        annotator.close()
        classes.append([sorted(record.class_names) for record in records if isinstance(record, AnnotatedImage)])
    exact, filtered = classes
    assert sum(map(len, exact)) == job.prefilter.boxes > 5
    pairs = zip(exact, filtered, strict=True)
    again = sum(min(one.count(name), other.count(name)) for one, other in pairs for name in set(one))
    assert again >= 0.8 * job.prefilter.boxes
