"""A run of the bundled models and its dataset, for the tests of the App's plugin."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from models.ontology import Ontology
from models.training.scenes import SceneConfig, render_scene
from pipeline.build import build_annotator
from pipeline.config import AnnotateConfig
from pipeline.review.connection import connected_fiftyone
from pipeline.review.ingest import Syncing, ingest
from pipeline.review.plugin_folder import link_plugins
from pipeline.reviewed.changes import ReviewedImage
from pipeline.reviewed.layer import ReviewedLayer
from pipeline.run import make_parts
from pipeline.sources import find_images
from pipeline.store.run import Run
from pipeline.store.shards import write_shard
from pipeline.store.writer import RunWriter

CLASSES = "pink diamond, orange heart, purple heart, blue circle, green circle, orange diamond"


def label_folder(photos: Path, output: Path, config: AnnotateConfig, classes: str = CLASSES) -> Path:
    """Label all images of a folder as a worker does, without Ray; a run that is there is replaced."""
    found = find_images(photos)
    ontology, parts = make_parts(config, Ontology.from_names(classes))
    annotator = build_annotator(config, ontology)
    with RunWriter(output, parts, ontology, found.root, config) as writer:
        done = annotator(found.refs, str(found.root))
        writer.add(write_shard(output, done.records, done.timings, writer.fingerprint, done.drops))
        writer.finish(1.0, len(found.refs))
    annotator.close()
    return output


def save_scenes(folder: Path, count: int) -> Path:
    """Write generated scenes; the same each time."""
    from PIL import Image

    folder.mkdir(parents=True, exist_ok=True)
    for seed in range(count):
        Image.fromarray(render_scene(seed, SceneConfig()).image).save(folder / f"{seed}.png")
    return folder


@dataclass(frozen=True)
class Reviewed:
    """A run in its dataset, with the plugin found by FiftyOne."""

    fo: Any
    folder: Path
    dataset: Any

    @property
    def run(self) -> Run:
        return Run.open(self.folder)

    def execute(self, name: str, **context: Any) -> Any:
        """Execute an operator of the plugin as the App does."""
        import fiftyone.operators as foo

        given = {"dataset": self.dataset, **context}
        return foo.execute_operator(f"@groundlabel/review/{name}", given)

    def said(self, name: str, **context: Any) -> str:
        """Execute an operator and return what the App would say to the person."""
        requests = self.execute(name, **context).executor._requests
        return " ".join(str(one.params["message"]) for one in requests if one.operator_uri.endswith("notify"))

    def ingest_again(self) -> Any:
        result = ingest(self.run)
        self.dataset.reload()
        return result

    def sync(self) -> None:
        Syncing(self.run)(everything=True)

    def state(self, path: str) -> ReviewedImage:
        (found,) = [state for state in ReviewedLayer(self.folder).images.values() if state.image.path == path]
        return found


@contextmanager
def reviewed_run(folder: Path, photos: Path, config: AnnotateConfig, classes: str = CLASSES) -> Iterator[Reviewed]:
    """Label a folder, ingest it, and have FiftyOne find the plugin."""
    run = label_folder(photos, folder / "run", config, classes)
    with connected_fiftyone() as fo, pytest.MonkeyPatch.context() as patch:
        patch.setattr(fo.config, "plugins_dir", str(link_plugins(str(folder / "no_plugins"))))
        result = ingest(Run.open(run))
        yield Reviewed(fo, run, fo.load_dataset(result.dataset))
