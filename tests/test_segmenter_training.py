"""Training the tiny SAM: its data, its loss, resuming, and that it learns."""

import csv
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image as PillowImage

from models.detections import Detections, Instances
from models.interfaces import Image
from models.masks import encode_mask
from models.sam.tiny_network import TinySam
from models.training import segmenter_data
from models.training.scenes import SceneConfig
from models.training.segmenter import SegmenterTrainer, learning_rate_factor, train_segmenter
from models.training.segmenter_batch import SegmenterRecipe, collate, draw_samples
from models.training.segmenter_data import (
    MaskedImage,
    is_held_out,
    jitter_boxes,
    photo_files,
    photo_sample,
    read_photos,
    scene_sample,
    tight_box,
)
from models.training.segmenter_eval import box_baselines, evaluate_segmenter, report_on, validation_scenes
from models.training.segmenter_loss import segmenter_loss
from tests.small_sam import SMALL

SCENES = SceneConfig(size=64, max_objects=3)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A COCO folder of ten noisy photos with two rectangles and a crowd each."""
    import json

    (tmp_path / "images").mkdir()
    rng = np.random.default_rng(0)
    images, annotations = [], []
    for index in range(10):
        name = f"photo {index}.png"
        PillowImage.fromarray(rng.integers(0, 256, (90, 120, 3), dtype=np.uint8)).save(tmp_path / "images" / name)
        images.append({"id": index, "file_name": name, "height": 90, "width": 120})
        for left, crowd in ((10, 0), (60, 0), (20, 1)):
            polygon = [left, 20, left + 40, 20, left + 40, 60, left, 60]
            row = {"id": len(annotations), "image_id": index, "bbox": [left, 20, 40, 40], "iscrowd": crowd}
            annotations.append({**row, "segmentation": [polygon]})
    (tmp_path / "instances.json").write_text(json.dumps({"images": images, "annotations": annotations}))
    return tmp_path


def test_photos_are_split_by_name_alone(photos: Path) -> None:
    kept, trained = photo_files(photos, held_out=True), photo_files(photos, held_out=False)
    assert kept
    assert trained
    assert not set(kept) & set(trained)
    assert len(kept) + len(trained) == 10
    assert all(is_held_out(path.name) for path in kept)
    assert {photo.name for photo in read_photos(photos, held_out=False)} == {path.name for path in trained}
    assert [len(photo.cuts) for photo in read_photos(photos, held_out=True)] == [2] * len(kept)


def test_missing_photo_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"instances\.json is missing"):
        read_photos(tmp_path, held_out=False)


def test_photo_samples_are_consistent_and_repeatable(photos: Path) -> None:
    pictures = read_photos(photos, held_out=False)
    for seed in range(30):
        sample = photo_sample(pictures, np.random.default_rng(seed))
        again = photo_sample(pictures, np.random.default_rng(seed))
        np.testing.assert_array_equal(sample.image, again.image)
        np.testing.assert_array_equal(sample.masks, again.masks)
        assert sample.image.dtype == np.uint8
        assert sample.masks.shape[1:] == sample.image.shape[:2]
        assert len(sample.masks) == len(sample.boxes_xyxy)
        assert sample.masks.sum(axis=0).max(initial=0) <= 1, "what is pasted hides what is below"
        for mask, box in zip(sample.masks, sample.boxes_xyxy, strict=True):
            assert tight_box(mask) == tuple(box)


def test_scene_samples_start_beyond_the_validation_seeds(monkeypatch: pytest.MonkeyPatch) -> None:
    seeds = []
    render = segmenter_data.render_scene
    monkeypatch.setattr(segmenter_data, "render_scene", lambda seed, config: seeds.append(seed) or render(seed, config))
    for index in range(5):
        assert len(scene_sample(index, SCENES).masks)
    assert min(seeds) == 1_000_000
    assert len(set(seeds)) == len(seeds)


@pytest.mark.parametrize("count", [0, 1, 200])
def test_jitter_stays_near_and_leaves_some_boxes_exact(count: int) -> None:
    boxes = np.tile(np.array([[10, 20, 50, 40]], np.float32), (count, 1))
    moved = jitter_boxes(boxes, np.random.default_rng(0))
    assert moved.shape == (count, 4)
    assert moved.dtype == np.float32
    assert (np.abs(moved - boxes) <= np.array([4, 2, 4, 2]) + 1e-4).all()
    if count == 200:
        assert 0.25 < (moved == boxes).all(axis=1).mean() < 0.55


def test_batches_hold_what_samples_show() -> None:
    network = TinySam(SMALL)
    image = np.zeros((64, 128, 3), np.uint8)
    image[16:48, 32:96] = 255
    mask = np.zeros((1, 64, 128), bool)
    mask[0, 16:48, 32:96] = True
    thing = MaskedImage(image, mask, np.array([[32, 16, 96, 48]], np.float32))
    nothing = MaskedImage(image, mask[:0], np.zeros((0, 4), np.float32))
    rng = np.random.default_rng(1)
    batch = collate([nothing, thing, thing], network, 6, rng)
    assert batch.images.shape == (3, 3, 64, 64)
    assert batch.image_index.tolist() == [1, 2]
    assert batch.pixels.shape == (2, 3, 32, 32)
    torch.testing.assert_close(batch.boxes_xyxy, torch.tensor([[16.0, 8, 48, 24]] * 2), atol=3.2, rtol=0)
    white = batch.pixels[:, 0] > 0
    assert ((batch.targets >= 0.5) == white).float().mean() > 0.97
    assert (batch.images[1, :, 32:] == 0).all()


def test_loss_by_hand() -> None:
    targets = torch.tensor([[[1.0, 0.0], [0.0, 0.0]]])
    loss = segmenter_loss(torch.zeros(1, 2, 2), torch.tensor([0.5]), targets)
    assert loss.bce.item() == pytest.approx(math.log(2))
    assert loss.dice.item() == pytest.approx(1 - (2 * 0.5 + 1) / (2 + 1 + 1))
    assert loss.iou.item() == 0
    assert loss.quality.item() == pytest.approx(0.25)
    assert loss.total.item() == pytest.approx(0.5 + 0.5 * math.log(2) + 0.25)
    sure = segmenter_loss(40 * (targets - 0.5), torch.tensor([1.0]), targets)
    assert sure.total.item() == pytest.approx(0, abs=1e-6)
    assert sure.iou.item() == 1


def test_small_and_large_things_weigh_the_same() -> None:
    small = torch.zeros(1, 8, 8)
    small[:, 2:4, 2:4] = 1
    both = segmenter_loss(torch.zeros(2, 8, 8), torch.zeros(2), torch.cat([small, 1 - small]))
    parts = [segmenter_loss(torch.zeros(1, 8, 8), torch.zeros(1), target) for target in (small, 1 - small)]
    assert both.total.item() == pytest.approx(sum(part.total.item() for part in parts) / 2)


def test_learning_rate_rises_and_falls() -> None:
    recipe = SegmenterRecipe(warm_up=10)
    assert learning_rate_factor(0, 0.0, recipe) == pytest.approx(0.1)
    assert learning_rate_factor(10, 0.0, recipe) == pytest.approx(1)
    assert learning_rate_factor(50, 0.5, recipe) == pytest.approx(0.505)
    assert learning_rate_factor(100, 1.0, recipe) == pytest.approx(0.01)


def test_resuming_gives_the_next_losses_of_an_unbroken_run(photos: Path, tmp_path: Path) -> None:
    recipe = SegmenterRecipe(steps=6, images=2, boxes=2, warm_up=2)
    pictures = read_photos(photos, held_out=False)
    unbroken = SegmenterTrainer(recipe, SMALL, pictures, SCENES)
    for _ in range(3):
        unbroken.train_step()
    unbroken.save(tmp_path / "checkpoint.pt")
    resumed = SegmenterTrainer(recipe, SMALL, pictures, SCENES)
    resumed.load(tmp_path / "checkpoint.pt")
    for _ in range(3):
        first, second = unbroken.train_step(), resumed.train_step()
        assert first.total.item() == second.total.item()
    for (name, first_value), second_value in zip(
        unbroken.average.state_dict().items(), resumed.average.state_dict().values(), strict=True
    ):
        assert torch.equal(first_value, second_value), name


def test_the_same_step_draws_the_same_images(photos: Path) -> None:
    recipe = SegmenterRecipe(images=3)
    pictures = read_photos(photos, held_out=False)
    for first, second in zip(*(draw_samples(7, recipe, pictures, SCENES) for _ in range(2)), strict=True):
        np.testing.assert_array_equal(first.image, second.image)


def test_it_learns() -> None:
    recipe = SegmenterRecipe(steps=60, images=2, boxes=3, warm_up=10, learning_rate=4e-3)
    trainer = SegmenterTrainer(recipe, SMALL, (), SCENES)
    losses = [trainer.train_step().total.item() for _ in range(recipe.steps)]
    assert np.mean(losses[-15:]) < 0.8 * np.mean(losses[:15])


def test_a_run_leaves_its_files_and_goes_on_where_it_was(tmp_path: Path) -> None:
    recipe = SegmenterRecipe(steps=4, images=1, boxes=1, warm_up=2)
    train_segmenter(tmp_path, None, recipe, SMALL, log_every=2, save_every=3)
    assert {"model.safetensors", "config.json", "checkpoint.pt", "log.csv"} == {
        path.name for path in tmp_path.iterdir()
    }
    with (tmp_path / "log.csv").open() as stream:
        assert [row["step"] for row in csv.DictReader(stream)] == ["2", "4"]
    with (tmp_path / "log.csv").open("a") as stream:
        stream.write("5,9.9,1,1,1,1,1\n")
    longer = SegmenterRecipe(steps=6, images=1, boxes=1, warm_up=2)
    network = train_segmenter(tmp_path, None, longer, SMALL, resume=True, log_every=2)
    assert not network.training
    with (tmp_path / "log.csv").open() as stream:
        assert [row["step"] for row in csv.DictReader(stream)] == ["2", "4", "6"]


def test_minutes_end_the_schedule(tmp_path: Path) -> None:
    train_segmenter(tmp_path, None, SegmenterRecipe(steps=10**6, images=1), SMALL, minutes=0.005)
    state = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    assert 1 <= state["step"] < 1000
    assert state["seconds"] >= 0.3


class Oracle:
    """A segmenter that returns given masks."""

    def __init__(self, samples: list[MaskedImage], filled: bool) -> None:
        self.samples: Iterator[MaskedImage] = iter(samples)
        self.filled = filled

    def __call__(self, image: Image, detections: Detections) -> Instances:
        sample = next(self.samples)
        masks = box_baselines(sample.boxes_xyxy, detections.image_hw)[0] if self.filled else sample.masks
        rles = tuple(encode_mask(mask) for mask in masks)
        return Instances(detections, rles, np.linspace(0, 1, len(masks), dtype=np.float32))


@pytest.mark.parametrize("filled", [False, True])
def test_evaluation_measures(filled: bool) -> None:
    samples = [sample for sample in validation_scenes(6, SCENES) if len(sample.boxes_xyxy)]
    report = report_on("scenes", Oracle(samples, filled), iter(samples))
    assert report.images == len(samples)
    assert report.boxes == sum(len(sample.boxes_xyxy) for sample in samples)
    assert report.iou == (report.iou_box if filled else 1.0)
    assert 0.3 < report.iou_box < 0.9
    assert "mean IoU" in str(report)


def test_evaluation_without_boxes_is_refused() -> None:
    nothing = MaskedImage(np.zeros((9, 9, 3), np.uint8), np.zeros((0, 9, 9), bool), np.zeros((0, 4), np.float32))
    with pytest.raises(ValueError, match="no box"):
        report_on("nothing", Oracle([], False), iter([nothing]))


def test_evaluation_reports_on_each_set(photos: Path) -> None:
    from models.sam.tiny import TinySamSegmenter

    reports = evaluate_segmenter(TinySamSegmenter(TinySam(SMALL)), photos, 2, SCENES)
    assert [report.name for report in reports] == ["scenes", "photos kept out of training"]
    assert all("mean IoU" in str(report) for report in reports)
