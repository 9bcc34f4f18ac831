"""The operators of the plugin that run the models, and what becomes of their proposals."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from models.training.scenes import SceneConfig, render_scene
from pipeline.config import AnnotateConfig
from pipeline.export.labels import open_labels
from pipeline.export.objects import ExportImage
from pipeline.records import AnnotatedImage
from pipeline.review.missed import WHY, known_below
from pipeline.review.plugin.below import look_below
from pipeline.review.plugin.targets import samples_of_view
from pipeline.review.plugin.thresholds import BELOW_TAG, ThresholdTable
from pipeline.review.schema import PREDICTIONS, PROPOSALS
from pipeline.review.views import MISSED_VIEW
from pipeline.reviewed.changes import ACCEPTED_TAG, REJECTED_TAG
from tests.plugin_runs import CLASSES, Reviewed, label_folder, reviewed_run, save_scenes
from tests.review_runs import needs_mongod

pytestmark = [
    needs_mongod,
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning"),
    pytest.mark.timeout(600),
]
HIGH = AnnotateConfig(device="cpu", box_threshold=0.6)


@pytest.fixture(scope="module")
def review(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reviewed]:
    """A run whose threshold is so high that objects are missing."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("plugin")
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        patch.delenv("FIFTYONE_DATABASE_URI", raising=False)
        with reviewed_run(folder, save_scenes(folder / "photos", 6), HIGH) as found:
            yield found


def commonest_class(review: Reviewed) -> str:
    counts = review.dataset.count_values(f"{PREDICTIONS}.detections.label")
    return str(max(sorted(counts), key=lambda name: counts[name]))


def table_of(review: Reviewed, class_name: str) -> ThresholdTable:
    review.dataset.reload()
    return ThresholdTable(review.dataset, review.run, samples_of_view(review.dataset.view()), class_name)


def proposals_of(review: Reviewed) -> list[tuple[str, str, float]]:
    review.dataset.reload()
    return sorted(
        (sample["path"], label.label, round(label.confidence, 4))
        for sample in review.dataset
        if sample[PROPOSALS]
        for label in sample[PROPOSALS].detections
    )


def run_labels(folder: Path, class_name: str, least: float) -> set[tuple[str, float]]:
    """Return path and score of what a run has of a class from a score on."""
    return {
        (record.path, round(float(score), 3))
        for record in open_labels(folder).records()
        if isinstance(record, AnnotatedImage)
        for name, score in zip(record.class_names, record.instances.detections.scores, strict=True)
        if name == class_name and score >= least
    }


def test_a_lower_threshold_proposes_what_a_run_with_it_finds(review: Reviewed, tmp_path: Path) -> None:
    photos = review.run.images_root
    low = label_folder(photos, tmp_path / "low", AnnotateConfig(device="cpu", box_threshold=0.2))
    for class_name in CLASSES.split(", "):
        list(look_below(review.dataset, review.run, samples_of_view(review.dataset.view())))
        table = table_of(review, class_name)
        effect = table.effect(0.2)
        wanted = run_labels(low, class_name, 0.2) - run_labels(review.folder, class_name, 0.0)
        assert effect.appear <= len(wanted)  # a box that a label covers already is no new object
        assert (effect.vanish, effect.come_back) == (0, 0)
        given = {"class_name": class_name, "threshold": 0.2, "target": "view"}
        review.execute("move_threshold", params=given)
        found = {(path, round(score, 3)) for path, label, score in proposals_of(review) if label == class_name}
        assert found <= wanted
        assert len(found) == effect.appear
    assert proposals_of(review)
    review.sync()
    assert not list((review.folder / "reviewed").glob("*")), "a proposal is no correction of a person"
    for _ in CLASSES.split(", "):
        review.execute("undo")
    assert proposals_of(review) == []


def test_a_higher_threshold_rejects_all_but_what_a_person_did(review: Reviewed) -> None:
    name = commonest_class(review)
    table = table_of(review, name)
    labels = [
        (sample, label) for sample in review.dataset for label in sample[PREDICTIONS].detections if label.label == name
    ]
    sample, kept = labels[0]
    kept.tags.append(ACCEPTED_TAG)
    sample.save()
    above = max(label.confidence for _, label in labels) + 0.005
    effect = table_of(review, name).effect(above)
    assert (effect.vanish, effect.kept) == (len(labels) - 1, 1)
    assert table.effect(above).vanish == len(labels)
    review.execute("move_threshold", params={"class_name": name, "threshold": above, "target": "view"})
    tags = {label.id: label.tags for one in review.dataset for label in one[PREDICTIONS].detections}
    assert tags[kept.id] == [ACCEPTED_TAG]
    assert sum({REJECTED_TAG, BELOW_TAG} <= set(found) for found in tags.values()) == len(labels) - 1
    review.sync()
    exported = [
        found.class_name
        for record in open_labels(review.folder).records()
        if isinstance(record, ExportImage)
        for found in record.objects
    ]
    assert exported.count(name) == 1
    back = table_of(review, name).effect(0.6)
    assert (back.vanish, back.come_back) == (0, len(labels) - 1)
    review.execute("move_threshold", params={"class_name": name, "threshold": 0.6, "target": "view"})
    assert table_of(review, name).effect(0.6).come_back == 0
    sample.reload()
    review.execute("undo")
    review.execute("undo")
    sample[PREDICTIONS].detections[0].tags = []
    sample.save()


def test_typed_prompts_are_proposed_survive_an_ingest_and_become_labels(review: Reviewed) -> None:
    sample = review.dataset.first()
    scene = render_scene(int(Path(sample.filepath).stem), SceneConfig())
    asked = [label for label in dict.fromkeys(scene.labels) if label not in CLASSES.split(", ")][:3]
    given = {"prompts": ", ".join(asked), "target": "selected", "box_threshold": 0.3, "text_threshold": 0.25}
    review.execute("label_selection", selected=[sample.id], params=given)
    proposed = proposals_of(review)
    assert {path for path, _, _ in proposed} == {sample["path"]}
    assert {label for _, label, _ in proposed} <= set(asked)
    review.ingest_again()
    assert proposals_of(review) == proposed
    review.execute("label_selection", selected=[sample.id], params=given)
    assert proposals_of(review) == proposed, "the same is not proposed twice"

    sample = review.dataset[sample.id]
    chosen = sample[PROPOSALS].detections[0]
    picked = [{"sample_id": sample.id, "field": PROPOSALS, "label_id": chosen.id}]
    review.execute("accept", selected_labels=picked)
    review.sync()
    review.ingest_again()
    assert chosen.label in [label.label for label in review.dataset[sample.id][PREDICTIONS].detections]
    assert len(proposals_of(review)) == len(proposed) - 1
    stored = {found.class_name: found for found in review.state(sample["path"]).objects or ()}
    assert stored[chosen.label].score == pytest.approx(chosen.confidence)
    assert stored[chosen.label].mask is not None


def test_a_bad_prompt_is_said(review: Reviewed) -> None:
    given = {"prompts": "red circle, what?", "target": "view"}
    assert review.said("label_selection", params=given).startswith("prompts: ")


def test_resegment_draws_the_mask_that_fits_a_moved_box(review: Reviewed) -> None:
    scenes = {sample["path"]: render_scene(int(Path(sample.filepath).stem), SceneConfig()) for sample in review.dataset}
    sample = next(one for one in review.dataset if len(one[PREDICTIONS].detections) >= 2)
    label = sample[PREDICTIONS].detections[0]
    scene = scenes[sample["path"]]
    left, top, right, bottom = scene.boxes_xyxy[0].tolist()
    height, width = scene.image.shape[:2]
    label.bounding_box = [left / width, top / height, (right - left) / width, (bottom - top) / height]
    sample.save()
    picked = [{"sample_id": sample.id, "field": PREDICTIONS, "label_id": label.id}]
    review.execute("resegment", selected_labels=picked)
    review.sync()
    (found,) = [one for one in review.state(sample["path"]).objects or () if one.object_id == label["object_id"]]
    assert found.mask is not None
    from models.masks import decode_mask

    mask, truth = decode_mask(found.mask), scene.masks[0]
    assert (mask & truth).sum() / (mask | truth).sum() > 0.6
    assert found.origin == "model+human"
    assert found.mask_score == pytest.approx(review.dataset[sample.id][PREDICTIONS].detections[0]["mask_score"])


def test_export_writes_the_selected_images_with_corrections(review: Reviewed, tmp_path: Path) -> None:
    first, second = review.dataset.values("id")[:2]
    sample = review.dataset[second]
    sample[PREDICTIONS].detections[0].label = "corrected"
    sample.save()
    output = tmp_path / "out"
    given = {"format": "coco", "output": str(output), "images": "none", "target": "selected"}
    review.execute("export_view", selected=[first, second], params=given)
    labels = open_labels(output, review.run.images_root)
    found = [record for record in labels.records() if isinstance(record, ExportImage)]
    assert sorted(record.path for record in found) == sorted(review.dataset.select([first, second]).values("path"))
    assert "corrected" in {one.class_name for record in found for one in record.objects}
    assert np.isfinite([one.area for record in found for one in record.objects]).all()


def test_label_selection_can_wait_in_fiftyones_queue(review: Reviewed) -> None:
    from fiftyone.operators.delegated import DelegatedOperationService

    before = proposals_of(review)
    sample = review.dataset.last()
    given = {"prompts": "blue triangle", "target": "selected", "box_threshold": 0.3}
    review.execute("label_selection", selected=[sample.id], params=given, request_delegation=True)
    assert proposals_of(review) == before
    service = DelegatedOperationService()
    service.execute_queued_operations(dataset_name=review.dataset.name)
    (done,) = service.list_operations(dataset_name=review.dataset.name)
    assert done.run_state == "completed"
    added = set(proposals_of(review)) - set(before)
    assert {(path, label) for path, label, _ in added} == {(sample["path"], "blue triangle")}


def test_boxes_just_under_the_threshold_join_the_queue_of_what_was_missed(review: Reviewed) -> None:
    def likely() -> dict[str, float]:
        review.dataset.reload()
        return dict(zip(*review.dataset.values(["path", "likely_missed"]), strict=True))

    before = review.ingest_again().images
    (asked,) = [
        one
        for one in review.execute("find_missed", params={"target": "view"}).executor._requests
        if one.operator_uri.endswith("set_view")
    ]
    assert asked.params["name"] == MISSED_VIEW
    found = likely()
    below = known_below(review.dataset, review.run)
    assert (len(below), before) == (6, 6)
    ids = dict(zip(*review.dataset.values(["path", "id"]), strict=True))
    best = {path: max([box.score for box in below[sample_id]], default=0.0) for path, sample_id in ids.items()}
    missed = {path for path, share in found.items() if share > 0}
    assert missed
    for path, share in found.items():
        assert share <= max(2 * best[path] / 0.6 - 1, 0) + 1e-3
    assert set(review.dataset.load_saved_view(MISSED_VIEW).values("path")) == missed
    sample = review.dataset.one({"path": max(missed, key=lambda path: found[path])})
    assert sample["why"].count(WHY) == 1
    review.execute("accept", selected=[sample.id])
    review.ingest_again()
    assert likely() == found | {sample["path"]: 0.0}
    review.execute("undo")
    review.ingest_again()
