"""The plugin of the App: each operator through FiftyOne's executor, on a run of the bundled models."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from models.ontology import Ontology
from pipeline.config import AnnotateConfig
from pipeline.review.ingest import ingest
from pipeline.review.plugin import similar
from pipeline.review.plugin.operators import ACTIONS
from pipeline.review.plugin.panel import progress_text
from pipeline.review.plugin.progress import review_progress
from pipeline.review.plugin.similar import Similar, crop_square, find_similar
from pipeline.review.plugin.targets import stored_labels, stored_samples
from pipeline.review.schema import PREDICTIONS, PROPOSALS
from pipeline.reviewed.changes import ACCEPTED_TAG, REJECTED_TAG
from pipeline.store.run import Run
from tests.accepted_runs import accepted_run
from tests.plugin_runs import Reviewed, reviewed_run, save_scenes
from tests.review_runs import needs_mongod

pytestmark = [
    needs_mongod,
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning"),
    pytest.mark.timeout(600),
]


@pytest.fixture(scope="module")
def review(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reviewed]:
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("plugin")
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        patch.delenv("FIFTYONE_DATABASE_URI", raising=False)
        config = AnnotateConfig(device="cpu", box_threshold=0.2, agnostic_nms_iou=0.1)
        with reviewed_run(folder, save_scenes(folder / "photos", 5), config) as found:
            yield found


@pytest.fixture
def fresh(review: Reviewed) -> Iterator[Reviewed]:
    """The same, with every step of a test taken back at its end."""
    before = labels_shown(review)
    yield review
    while review.said("undo") != "There is nothing to take back.":
        pass
    assert labels_shown(review) == before


def labels_shown(review: Reviewed) -> dict[str, Any]:
    """Return all that the plugin may change, by path."""
    review.dataset.reload()
    return {
        sample["path"]: (
            sorted(sample.tags),
            {
                field: [
                    (label.id, label.label, sorted(label.tags), label.bounding_box, label.mask.tobytes())
                    for label in (sample[field].detections if sample[field] else [])
                ]
                for field in (PREDICTIONS, PROPOSALS)
            },
        )
        for sample in review.dataset
    }


def select(sample: Any, row: int, field: str = PREDICTIONS) -> list[dict[str, str]]:
    label = sample[field].detections[row]
    return [{"sample_id": sample.id, "field": field, "label_id": label.id}]


def tags_of(review: Reviewed, field: str = PREDICTIONS) -> dict[str, list[str]]:
    review.dataset.reload()
    return {label.id: label.tags for sample in review.dataset if sample[field] for label in sample[field].detections}


def test_fiftyone_finds_the_plugin_without_errors(review: Reviewed) -> None:
    import fiftyone.operators.registry as registry
    import fiftyone.plugins as fop

    (found,) = [plugin for plugin in fop.list_plugins() if plugin.name == "@groundlabel/review"]
    operators = registry.OperatorRegistry()
    assert operators.list_errors() == []
    for name in found.operators:
        assert operators.operator_exists(f"@groundlabel/review/{name}"), name


def test_a_name_that_is_typed_finds_one_operator() -> None:
    """The App looks for what is typed in names and descriptions, and Enter takes the first that it finds."""
    for action in ACTIONS:
        others = [other for other in ACTIONS if other is not action]
        assert not [other for other in others if action.label.lower() in f"{other.label} {other.description}".lower()]


def test_the_users_own_plugins_are_still_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import fiftyone as fo
    import fiftyone.plugins as fop

    from pipeline.review.plugin_folder import link_plugins

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    own = tmp_path / "plugins" / "theirs"
    own.mkdir(parents=True)
    (own / "fiftyone.yml").write_text("name: '@user/theirs'\n")
    monkeypatch.setattr(fo.config, "plugins_dir", str(link_plugins(str(own.parent))))
    assert {"@user/theirs", "@groundlabel/review"} <= {plugin.name for plugin in fop.list_plugins()}


def test_accept_and_reject_labels_and_undo(fresh: Reviewed) -> None:
    sample = fresh.dataset.first()
    first, second = (sample[PREDICTIONS].detections[row].id for row in (0, 1))
    fresh.execute("accept", selected_labels=select(sample, 0))
    fresh.execute("reject", selected_labels=select(sample, 1))
    assert tags_of(fresh)[first] == [ACCEPTED_TAG]
    assert tags_of(fresh)[second] == [REJECTED_TAG]
    fresh.execute("reject", selected_labels=select(sample, 0))
    assert tags_of(fresh)[first] == [REJECTED_TAG]
    fresh.execute("undo")
    assert tags_of(fresh)[first] == [ACCEPTED_TAG]
    fresh.sync()
    tags = {found.object_id: found.tags for found in fresh.state(sample["path"]).objects or ()}
    assert sorted(tags.values()).count((REJECTED_TAG,)) == 1


def test_accept_and_reject_images_and_patches(fresh: Reviewed) -> None:
    one, two = fresh.dataset.values("id")[:2]
    fresh.execute("accept", selected=[one])
    fresh.execute("reject", selected=[one, two])
    samples = {sample.id: sample for sample in fresh.dataset}
    for sample_id in (one, two):
        assert ACCEPTED_TAG not in samples[sample_id].tags
        assert all(REJECTED_TAG in label.tags for label in samples[sample_id][PREDICTIONS].detections)
    patches = fresh.dataset.to_patches(PREDICTIONS)
    third = patches.match({"sample_id": {"$nin": [samples[one]._id, samples[two]._id]}}).first()
    fresh.execute("accept", view=patches, selected=[third.id])
    assert tags_of(fresh)[third[PREDICTIONS].id] == [ACCEPTED_TAG]
    patches.reload()


def test_nothing_selected_is_said(review: Reviewed) -> None:
    assert review.said("accept").startswith("nothing is selected")


def test_explain_names_prompt_scores_and_what_was_beaten(review: Reviewed) -> None:
    sample = review.dataset.first()
    label = sample[PREDICTIONS].detections[0]
    text = review.execute("explain_box", selected_labels=select(sample, 0)).result["output"]
    assert f"| prompt | {label['prompt']} |" in text
    assert f"| score | {label.confidence:.2f} |" in text
    assert f"| mask score | {label['mask_score']:.2f} |" in text
    assert "Detector `tiny`, segmenter `tiny-sam`" in text
    assert review.said("explain_box", selected=[sample.id]).startswith("select one label")
    texts = (
        review.execute("explain_box", selected_labels=select(sample, row)).result["output"]
        for sample in review.dataset
        for row in range(len(sample[PREDICTIONS].detections))
    )
    assert any("NMS: overlaps a stronger box of any class" in text for text in texts)


def test_similar_objects_come_first_and_are_looked_at_once(review: Reviewed, monkeypatch: pytest.MonkeyPatch) -> None:
    images = review.dataset.values("id")
    ids, names = (
        [one for found in review.dataset.values(f"{PREDICTIONS}.detections.{name}") for one in found or ()]
        for name in ("id", "label")
    )
    classes = dict(zip(ids, names, strict=True))
    same: list[float] = []
    others: list[float] = []
    for sample in stored_samples(review.dataset, images):
        for label in stored_labels(sample, PREDICTIONS):
            asked = [(sample, PREDICTIONS, label)]
            *counts, found = find_similar(review.dataset, review.run, asked, images)
            assert isinstance(found, Similar)
            assert counts == [1, 2, 3, 4, 5]
            assert (found.label_ids[0], found.compared) == (str(label["_id"]), len(ids))
            assert sorted(found.label_ids) == sorted(ids)
            assert list(found.cosines) == sorted(found.cosines, reverse=True)
            for label_id, cosine in zip(found.label_ids[1:], found.cosines[1:], strict=True):
                (same if classes[label_id] == label["label"] else others).append(cosine)
            monkeypatch.setattr(similar, "_describe", lambda stages, crops: pytest.fail("looked at again"))
    assert (np.array(same)[:, None] > np.array(others)).mean() > 0.6
    assert found.view.values(f"{PREDICTIONS}.id") == list(found.label_ids)
    first = review.dataset.first()
    done = review.execute("find_similar", selected_labels=select(first, 0))
    (shown,) = [one for one in done.executor._requests if one.operator_uri.endswith("set_view")]
    assert first[PREDICTIONS].detections[0].id in str(shown.params)
    steps = [one.operator_uri.rsplit("/")[-1] for one in done.executor._requests]
    assert steps.index("close_sample") < steps.index("set_view"), "the App fails where an open image is not in its view"
    assert review.said("find_similar", selected=[first.id]).endswith("click it in an open image, or one patch")


def test_a_crop_is_square_and_grey_outside_of_the_image() -> None:
    image = np.full((60, 100, 3), 255, np.uint8)
    crop = crop_square(image, (80.0, 10.0, 100.0, 50.0))
    assert crop.shape == (128, 128, 3)
    assert (crop[64, 5].tolist(), crop[64, 120].tolist()) == ([255] * 3, [114] * 3)
    assert crop_square(image, (5.0, 5.0, 5.0, 5.0)).min() == 255
    assert crop_square(image, (100.0, 60.0, 100.0, 60.0)).shape == (128, 128, 3)


def test_the_panel_counts_images_agreement_and_time(fresh: Reviewed) -> None:
    sample = fresh.dataset.last()
    labels = sample[PREDICTIONS].detections
    fresh.execute("reject", selected_labels=select(sample, 0))
    fresh.execute("accept", selected=[sample.id])
    fresh.sync()
    progress = review_progress(fresh.dataset, fresh.run)
    assert (progress.images, progress.accepted) == (5, 1)
    assert progress.seconds_left is None, "one image tells no pace"
    assert sum(found.wrong for found in progress.classes) == 1
    assert sum(found.left for found in progress.classes) == len(labels) - 1
    fresh.execute("accept", selected=fresh.dataset.values("id"))
    progress = review_progress(fresh.dataset, fresh.run)
    assert (progress.accepted, progress.seconds_left) == (5, 0.0)
    text = progress_text(fresh.dataset)
    assert "**5 of 5 images accepted** (100%)" in text
    assert f"| {labels[0].label} |" in text


def test_thresholds_are_shown_and_only_written_where_a_file_is_named(review: Reviewed, tmp_path: Path) -> None:
    run = accepted_run(tmp_path)
    reviewed = Reviewed(review.fo, run, review.fo.load_dataset(ingest(Run.open(run)).dataset))
    ontology = tmp_path / "classes.yaml"
    ontology.write_text("# mine\nround thing: [circle, disc]\nsquare:\n")
    before = ontology.read_text()
    reviewed.execute("accept", selected=[reviewed.dataset.match({"path": "075.png"}).first().id])
    text = reviewed.execute("fit_thresholds", params={"precision": 0.9}).result["output"]
    assert "rest on 61 accepted images; nothing was written" in text
    (line,) = [line for line in text.splitlines() if line.startswith("| round thing |")]
    _, judged, right, missed, now, fitted, *_ = [cell.strip() for cell in line.split("|")[1:-1]]
    assert (judged, right, missed, now) == ("122", "92", "2", "0.350")
    threshold, interval = fitted.rstrip(")").split(" (")
    low, high = map(float, interval.split(" to "))
    assert 0.4 <= low <= float(threshold) <= high
    assert float(threshold) == pytest.approx(0.62, abs=0.001)
    assert "- square: too few reviews; left as it is" in text
    assert "- square: 35 more reviewed labels are needed" in text
    assert (ontology.read_text(), (run / "calibration").exists()) == (before, False)

    said = reviewed.said("fit_thresholds", params={"precision": 0.9, "file": str(ontology)})
    assert f"1 are written into {ontology}" in said
    assert ontology.read_text().startswith("# mine")
    assert [spec.box_threshold for spec in Ontology.from_file(ontology).classes] == [
        pytest.approx(0.62, abs=1e-3),
        None,
    ]
    assert (run / "calibration" / "calibration.json").exists()
    nowhere = reviewed.said("fit_thresholds", params={"precision": 0.9, "file": str(tmp_path / "no.yaml")})
    assert "no.yaml" in nowhere
    reviewed.dataset.delete()


def test_a_dataset_of_no_run_is_said(review: Reviewed) -> None:
    other = review.fo.Dataset()
    assert "is of no run" in progress_text(other)
    other.delete()
