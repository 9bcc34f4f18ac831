"""`groundlabel explain`: each box of an image of a run and why it went, with stub models and with the bundled ones."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from jobs.cli import main
from models.detections import Detections
from models.interfaces import Image
from models.ontology import Ontology
from pipeline import explain as explain_module
from pipeline.annotator import Annotator
from pipeline.config import AnnotateConfig
from pipeline.explain import explain
from pipeline.records import AnnotatedImage
from pipeline.run import make_parts
from pipeline.sources import find_images
from pipeline.store.shards import write_shard
from pipeline.store.writer import RunWriter
from tests.stub_models import ONTOLOGY, StubDetector, StubSegmenter, save_image


class TwiceDetector(StubDetector):
    """Finds each object twice, and once with a box of the whole image."""

    def __call__(self, images: Sequence[Image]) -> list[Detections]:
        return [self._more(found) for found in super().__call__(images)]

    @staticmethod
    def _more(found: Detections) -> Detections:
        height, width = found.image_hw
        boxes = [found.boxes_xyxy, found.boxes_xyxy, np.array([[0, 0, width, height]] * len(found), np.float32)]
        scores = [found.scores, found.scores - 0.1, found.scores - 0.2]
        return Detections(
            found.image_hw,
            np.concatenate(boxes),
            np.concatenate(scores),
            np.tile(found.class_ids, 3),
            np.tile(found.prompt_ids, 3),
        )


def build_twice(config: AnnotateConfig, ontology: Ontology) -> Annotator:
    return Annotator(TwiceDetector(), StubSegmenter(), ontology, config.filters, tiles=config.tiles)


def make_run(folder: Path, config: AnnotateConfig, ontology: Ontology = ONTOLOGY) -> Path:
    """Label all images in `photos` as a worker does, without Ray."""
    found = find_images(folder / "photos")
    output = folder / "run"
    _, parts = make_parts(config, ontology)
    annotator = explain_module.build_annotator(config, ontology)
    with RunWriter(output, parts, ontology, found.root, config) as writer:
        done = annotator(found.refs, str(found.root))
        writer.add(write_shard(output, done.records, done.timings, writer.fingerprint, done.drops))
        writer.finish(1.0, len(found.refs))
    annotator.close()
    return output


@pytest.fixture
def stub_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(explain_module, "build_annotator", build_twice)
    save_image(tmp_path / "photos" / "sub" / "a.png", green=True)
    save_image(tmp_path / "photos" / "b.png")
    save_image(tmp_path / "photos" / "other" / "b.png")
    (tmp_path / "photos" / "broken.png").touch()
    return make_run(tmp_path, AnnotateConfig(max_box_share=0.95))


def test_each_box_has_its_reason(stub_run: Path) -> None:
    found = explain(stub_run, "sub/a.png")
    assert [(box.class_name, box.reason, box.rival) for box in found.boxes] == [
        ("red thing", "", None),
        ("green thing", "", None),
        ("red thing", "overlap", 0),
        ("green thing", "overlap", 1),
        ("red thing", "large", None),
        ("green thing", "large", None),
    ]
    assert (found.kept, found.recorded, found.image_hw, found.tiles) == (2, 2, (12, 16), 0)
    assert found.boxes[0].box_xyxy == (0, 0, 8, 12)
    assert [box.mask_score for box in found.boxes[:3]] == [0.5, 0.5, None]


@pytest.mark.parametrize("name", ["a.png", "sub/a.png"])
def test_an_image_is_found_by_the_end_of_its_path(stub_run: Path, name: str) -> None:
    assert explain(stub_run, name).path == "sub/a.png"


def test_the_drops_are_in_the_summary_and_the_manifest(stub_run: Path) -> None:
    summary = json.loads((stub_run / "summary.json").read_text())
    expected = {"large: green thing": 1, "large: red thing": 3, "overlap: green thing": 1, "overlap: red thing": 3}
    assert summary["drops"] == expected
    assert f'"drops":{json.dumps(expected, separators=(",", ":"))}' in (stub_run / "manifest.jsonl").read_text()


def test_the_command_prints_a_line_a_box(stub_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", str(stub_run), "--image", "sub/a.png"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "sub/a.png (16 × 12): 6 boxes from the detector, 2 kept"
    assert len(lines) == 9
    dropped = "3 red thing red thing 0.65 0 0 8 12 dropped, NMS: overlaps a stronger box of its class (#1)"
    assert lines[4].split() == dropped.split()
    assert [line.index("dropped") for line in lines[4:8]] == [lines[2].index("kept")] * 4


@pytest.mark.parametrize(
    ("image", "message"),
    [
        ("c.png", "has no such image; give its path below"),
        ("ng", "has no such image"),
        ("broken.png", "empty file"),
    ],
)
def test_what_cannot_be_explained_is_said(
    stub_run: Path, image: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["explain", str(stub_run), "--image", image]) == 2
    assert message in capsys.readouterr().err


def test_an_image_that_is_gone_and_models_that_are_others(stub_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (stub_run.parent / "photos" / "sub" / "a.png").unlink()
    assert main(["explain", str(stub_run), "--image", "a.png"]) == 2
    assert "a.png: the image is gone; put it back" in capsys.readouterr().err
    path = stub_run / "run.json"
    settings = json.loads(path.read_text())
    settings["parts"]["detector"]["weights"] = "0" * 64
    path.write_text(json.dumps(settings))
    assert main(["explain", str(stub_run), "--image", "b.png"]) == 2
    error = capsys.readouterr().err
    assert "detector: tiny (weights 00000000) → tiny (weights" in error
    settings["parts"]["detector"] = {"name": "no/such/model", "weights": "0" * 64}
    path.write_text(json.dumps(settings))
    assert main(["explain", str(stub_run), "--image", "b.png"]) == 2
    assert "no/such/model" in capsys.readouterr().err


def test_the_bundled_models_explain_a_tiled_scene(tmp_path: Path) -> None:
    from PIL import Image as PillowImage

    from models.training.scenes import SceneConfig, render_scene

    (tmp_path / "photos").mkdir()
    scene = render_scene(7, SceneConfig(size=320, max_objects=5))
    PillowImage.fromarray(scene.image).save(tmp_path / "photos" / "scene.png")
    ontology = Ontology.from_names(sorted(set(scene.labels)))
    run = make_run(tmp_path, AnnotateConfig(tile="200", mask_cleanup=4), ontology)
    found = explain(run, "scene.png")
    assert found.tiles == 5
    assert found.kept == found.recorded == sum(not box.reason for box in found.boxes)
    assert found.kept > 0
    assert {box.class_name for box in found.boxes} <= set(scene.labels)
    assert any(box.reason == "merged" for box in found.boxes)
    for box in found.boxes:
        assert box.rival is None or not found.boxes[box.rival].reason or box.reason == "merged"


def test_boxes_only_are_records_without_masks(tmp_path: Path) -> None:
    from pipeline.store.run import Run

    save_image(tmp_path / "photos" / "a.png", hw=(64, 64))
    run = make_run(tmp_path, AnnotateConfig(mask="none", box_threshold=0.0, text_threshold=0.0, top_k=3))
    (record,) = Run.open(run).annotated()
    assert isinstance(record, AnnotatedImage)
    assert 0 < len(record.instances) <= 3
    assert all(mask.is_absent for mask in record.instances.masks)
    assert Run.open(run).settings["parts"]["segmenter"] == {"name": "tiny-sam", "weights": ""}
    assert all(box.mask_score is None for box in explain(run, "a.png").boxes)
