"""Fixtures that several test modules share."""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from models.detections import Detections, Instances
from models.masks import encode_mask
from models.ontology import Ontology
from models.training.scenes import SceneConfig, render_scene
from pipeline.paths import path_to_image_id, stored_to_path
from pipeline.records import AnnotatedImage, Record

# Its asserts say what differs, as those of test modules do.
pytest.register_assert_rewrite("tests.ingested_samples")

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["FIFTYONE_DO_NOT_TRACK"] = "true"
# Small tensors: a second thread of torch costs more than it brings, the more so beside another busy process.
os.environ.setdefault("OMP_NUM_THREADS", "1")


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what this machine cannot run: tests marked `gpu`, or `weights("sam_vit_b")`."""
    if item.get_closest_marker("gpu"):
        from models.devices import describe_devices

        if not any(device.name.startswith("cuda") for device in describe_devices()):
            pytest.skip("needs a CUDA device")
    for marker in item.iter_markers("weights"):
        from models.zoo import is_at_hand

        if not is_at_hand(marker.args[0]):
            pytest.skip(f"needs the weights of {marker.args[0]} on this machine")


@dataclass
class MemoryLabels:
    """Labels that are held in memory, with their images in a folder."""

    folder: Path
    ontology: Ontology
    rows: list[Record]
    fingerprint: str = "f" * 64

    @property
    def settings(self) -> dict[str, Any]:
        return {"groundlabel": "0.0.0", "parts": {"detector": "truth"}}

    def records(self) -> Iterator[Record]:
        return iter(self.rows)

    def image_path(self, record: Record) -> Path:
        return self.folder / stored_to_path(record.path)


@pytest.fixture
def scene_labels(tmp_path: Path) -> Callable[..., MemoryLabels]:
    """Make labels with the exact truth of generated scenes; a call names count, size and objects."""

    def make(count: int, size: int = 128, max_objects: int = 6) -> MemoryLabels:
        config = SceneConfig(size=size, max_objects=max_objects)
        scenes = [render_scene(seed, config) for seed in range(count)]
        names = sorted({label for scene in scenes for label in scene.labels}) or ["red circle"]
        ontology = Ontology.from_names(names)
        folder = tmp_path / "photos"
        (folder / "sub").mkdir(parents=True)
        rows: list[Record] = []
        for index, scene in enumerate(scenes):
            path = f"sub/{index:03d}.png"
            Image.fromarray(scene.image).save(folder / path)
            class_ids = np.array([names.index(label) + 1 for label in scene.labels], dtype=np.int64)
            scores = np.linspace(0.95, 0.4, len(class_ids), dtype=np.float32)
            found = Detections((size, size), scene.boxes_xyxy, scores, class_ids, class_ids - 1)
            instances = Instances(found, tuple(encode_mask(mask) for mask in scene.masks), scores)
            rows.append(AnnotatedImage.from_instances(path_to_image_id(path), path, instances, ontology))
        return MemoryLabels(folder, ontology, rows)

    return make


@pytest.fixture(scope="module")
def fiftyone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """FiftyOne, connected to a database of the test module's own."""
    from pipeline.review.connection import connected_fiftyone

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        patch.delenv("FIFTYONE_DATABASE_URI", raising=False)
        with connected_fiftyone() as module:
            yield module


@pytest.fixture(scope="session")
def grounding_processor(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A processor with a BERT tokenizer of few words; images become 64 px high or wide."""
    from tests.grounding_models import make_processor

    return make_processor(tmp_path_factory.mktemp("processor"))


@pytest.fixture(scope="session")
def grounding_folders(tmp_path_factory: pytest.TempPathFactory, grounding_processor: Any) -> dict[str, Path]:
    """Folders of small random models as `save_pretrained` writes them, by kind; not to be written to."""
    from models.grounding_dino.load import write_grounding_dino
    from tests.grounding_models import KINDS, make_model

    folders = {kind: tmp_path_factory.mktemp(kind) for kind in KINDS}
    for kind, folder in folders.items():
        write_grounding_dino(folder, make_model(kind), grounding_processor)
    return folders


@pytest.fixture(scope="session")
def grounding_models(grounding_folders: dict[str, Path]) -> dict[str, Any]:
    """The models of `grounding_folders`, read by our loader; not to be changed."""
    from models.grounding_dino.load import read_grounding_dino

    return {kind: read_grounding_dino(folder)[0] for kind, folder in grounding_folders.items()}


@pytest.fixture(params=["grounding-dino", "mm-grounding-dino"])
def grounding_model(request: pytest.FixtureRequest, grounding_models: dict[str, Any]) -> Any:
    """Each kind of Grounding DINO in turn."""
    return grounding_models[request.param]
