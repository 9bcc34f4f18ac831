"""Features of images: kept by a run, compared, and used to find what is alike and what is unlike all."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from models.training.scenes import render_scene
from pipeline.config import AnnotateConfig
from pipeline.image_features import alike, alike_in_run, read_vectors, spread_order
from pipeline.splits import SplitImage, SplitSettings, split_images
from pipeline.store.run import Run
from pipeline.store.shards import read_timings
from tests.plugin_runs import label_folder


def unit(*angles_deg: float) -> np.ndarray:
    turned = np.deg2rad(np.array(angles_deg, np.float32))
    return np.stack([np.cos(turned), np.sin(turned)], axis=1)


def test_pairs_by_cosine() -> None:
    vectors = unit(0, 10, 90, 92, 250)
    assert alike(vectors, 0.98).tolist() == [[0, 1], [2, 3]]
    assert alike(vectors, 0.99).tolist() == [[2, 3]]


def test_nothing_to_compare() -> None:
    nothing = np.zeros((0, 0), np.float32)
    assert alike(nothing).shape == (0, 2)
    assert spread_order(nothing, 5).shape == (0,)
    assert alike(unit(5)).shape == (0, 2)


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors = np.random.default_rng(0).normal(size=(40, 6)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    pairs = alike(vectors, 0.7)
    assert len(pairs)
    monkeypatch.setattr("pipeline.image_features._CELLS", 7 * 40)
    np.testing.assert_array_equal(alike(vectors, 0.7), pairs)


def test_the_chosen_are_spread() -> None:
    vectors = np.concatenate([unit(*np.linspace(0, 4, 30)), unit(120, 121, 240)])
    chosen = spread_order(vectors, 3).tolist()
    assert {"a" if row < 30 else "b" if row < 32 else "c" for row in chosen} == {"a", "b", "c"}
    assert sorted(spread_order(vectors, 99).tolist()) == list(range(33))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Scenes, and one of them again, cut by a pixel and compressed; labelled by the bundled models."""
    folder = tmp_path_factory.mktemp("features")
    images = folder / "images"
    images.mkdir()
    for seed in range(20):
        Image.fromarray(render_scene(seed).image).save(images / f"{seed:02d}.png")
    Image.fromarray(render_scene(3).image[1:, 1:]).save(images / "again.jpg", quality=85)
    (images / "broken.jpg").write_bytes(b"no image")
    return Run.open(label_folder(images, folder / "run", AnnotateConfig(mask="none"), "red circle, blue star"))


def test_a_run_keeps_features(run: Run) -> None:
    vectors = read_vectors(run)
    paths = {record.image_id: record.path for record in run.records()}
    assert sorted(paths[image_id] for image_id in vectors.image_ids) == sorted(
        path for path in paths.values() if path != "broken.jpg"
    )
    pairs = {frozenset(paths[vectors.image_ids[row]] for row in pair) for pair in alike(vectors.vectors)}
    assert pairs == {frozenset(("03.png", "again.jpg"))}


def test_near_duplicates_share_a_side(run: Run) -> None:
    paths = {record.image_id: record.path for record in run.records()}
    pairs = alike_in_run(run.folder)
    assert [{paths[image_id] for image_id in pair} for pair in pairs] == [{"03.png", "again.jpg"}]
    assert alike_in_run(run.folder / "shards") == []
    images = [SplitImage(image_id, path) for image_id, path in paths.items()]
    settings = SplitSettings((50, 50), 0, "", None)
    for seed in range(8):
        sides = split_images(images, replace(settings, seed=seed), pairs).sides
        assert len({sides[image_id] for image_id in pairs[0]}) == 1
    assert split_images(images, settings, pairs).similar == 2


def test_shards_of_an_earlier_version_have_none(run: Run, tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    (tmp_path / "timings").mkdir()
    name = run.entries[0].shard
    times = pq.read_table(run.folder / "timings" / name).drop_columns(["image_feature"])
    pq.write_table(times, tmp_path / "timings" / name)
    read = read_timings(tmp_path, name)
    assert read is not None
    assert read.column("image_feature").null_count == len(read)
