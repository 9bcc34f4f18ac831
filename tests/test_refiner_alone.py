"""The box refiner's own round: what a detector finds is kept, and a refiner learns from it."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from models.grounding_dino.box_refiner import BoxRefiner, fine_channels, read_fine_maps, read_maps
from models.grounding_dino.features import GroundingModel
from models.grounding_dino.forward import encode_image, encode_text, predict
from models.training import refining
from models.training.batches import Phase, StepBatches
from models.training.refiner_alone import FoundImage, find_boxes, join_images, train_refiner
from models.training.refining import RefinerSamples, refine_samples
from models.training.scenes import SceneConfig
from models.training.sources import SceneSource
from tests.tiny_training import PAIRS, small_model, small_processor


def scene_batches(folder: Path, steps: int) -> StepBatches:
    source = SceneSource(SceneConfig(size=96, pairs=PAIRS, min_objects=2), PAIRS)
    tokenizer = small_processor(folder).tokenizer
    return StepBatches([source], [1.0], tokenizer, batch_size=4, steps=steps, phases=(Phase(1.0, (64,)),))


def test_the_first_maps_alone_are_those_of_the_whole_backbone() -> None:
    backbone = small_model().model.backbone.conv_encoder.model
    pixels = torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    whole, _ = read_maps(backbone, pixels)
    for alone, other in zip(read_fine_maps(backbone, pixels), whole, strict=True):
        assert torch.equal(alone, other)


def test_what_is_found_is_what_the_detector_predicts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(refining, "FOUND_IOU", 0.0)  # a detector with random weights finds nothing
    model = small_model()
    batches = scene_batches(tmp_path, steps=2)
    images = find_boxes(model, batches)
    assert len(images) == 8
    batch = batches[1]
    with torch.no_grad():
        _, boxes = predict(
            model, encode_image(model, batch.pixel_values), encode_text(model, batch.input_ids, batch.token_mask)
        )
    for row, image in enumerate(images[4:]):
        torch.testing.assert_close(image.pixels.float(), batch.pixel_values[row], atol=2e-3, rtol=0)
        assert len(image.samples.boxes) == len(batch.targets[row].boxes)
        centres = (image.samples.boxes[:, :2] + image.samples.boxes[:, 2:]) / 2
        nearest = (centres[:, None] - boxes[row, :, :2]).abs().sum(2).min(1).values
        assert (nearest < 1e-5).all()


def test_joined_images_keep_their_samples() -> None:
    def image(count: int, value: float) -> FoundImage:
        places = torch.zeros(count, dtype=torch.long)
        return FoundImage(
            torch.full((3, 4, 4), value, dtype=torch.float16),
            RefinerSamples(places, *(torch.full((count, width), value) for width in (4, 7, 4))),
        )

    pixels, samples = join_images([image(2, 0.0), image(0, 1.0), image(1, 2.0)])
    assert pixels.shape == (3, 3, 4, 4)
    assert samples.images.tolist() == [0, 0, 2]
    assert samples.boxes[:, 0].tolist() == samples.queries[:, 6].tolist() == samples.truth[:, 1].tolist() == [0, 0, 2]


def square(generator: torch.Generator, height: int, width: int, kept: bool = True) -> FoundImage:
    """Make an image of one bright rectangle, which the detector found inexactly."""
    start = torch.randint(8, 24, (2,), generator=generator)
    end = start + torch.randint(16, 32, (2,), generator=generator)
    pixels = torch.zeros(3, height, width, dtype=torch.float16)
    pixels[:, start[1] : end[1], start[0] : end[0]] = 1
    truth = (torch.cat([start, end]) / torch.tensor([width, height, width, height]))[None]
    sides = (truth[:, 2:] - truth[:, :2]).repeat(1, 2)
    boxes = truth + 0.15 * sides * (torch.rand((1, 4), generator=generator) - 0.5)
    samples = RefinerSamples(torch.zeros(1, dtype=torch.long), boxes, torch.zeros(1, 32), truth)
    part = slice(None) if kept else slice(0)
    return FoundImage(
        pixels,
        RefinerSamples(*(value[part] for value in (samples.images, samples.boxes, samples.queries, samples.truth))),
    )


def error(model: GroundingModel, refiner: BoxRefiner, images: list[FoundImage]) -> tuple[float, float]:
    """Return the mean distance of sides from the truth, after the refiner and before."""
    pixels, samples = join_images(images)
    with torch.no_grad():
        fine = read_fine_maps(model.model.backbone.conv_encoder.model, pixels)
        refined = refine_samples(refiner, fine, samples).refined.boxes

    def distance(boxes: Tensor) -> float:
        return (boxes - samples.truth).abs().mean().item()

    return distance(refined), distance(samples.boxes)


def test_it_learns_from_images_of_several_sizes_and_moves_nothing_else() -> None:
    model = small_model()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    torch.manual_seed(0)
    refiner = BoxRefiner(fine_channels(model.model.backbone.conv_encoder.model), 32)
    generator = torch.Generator().manual_seed(0)
    images = [square(generator, 64, 64 + 32 * (index % 2), kept=index % 5 > 0) for index in range(60)]
    train_refiner(model, refiner, images, steps=60, learning_rate=1e-2)
    held_back = [square(generator, 64, 64) for _ in range(40)]
    after, start = error(model, refiner, held_back)
    assert after < 0.7 * start
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_the_same_seed_gives_the_same_refiner() -> None:
    model = small_model()
    images = [square(torch.Generator().manual_seed(seed), 64, 64) for seed in range(5)]

    def train(seed: int) -> np.ndarray:
        torch.manual_seed(0)
        refiner = BoxRefiner(fine_channels(model.model.backbone.conv_encoder.model), 32)
        train_refiner(model, refiner, images, steps=3, batch_size=2, seed=seed)
        return torch.cat([parameter.detach().flatten() for parameter in refiner.parameters()]).numpy()

    assert np.array_equal(train(0), train(0))
    assert not np.array_equal(train(0), train(1))


def test_images_without_anything_found_teach_nothing_and_none_are_refused(tmp_path: Path) -> None:
    model = small_model()
    refiner = BoxRefiner(fine_channels(model.model.backbone.conv_encoder.model), 32)
    images = find_boxes(model, scene_batches(tmp_path, steps=1))
    assert not sum(len(image.samples.boxes) for image in images), "random weights find nothing"
    train_refiner(model, refiner, images, steps=1)
    with pytest.raises(ValueError, match="needs images"):
        train_refiner(model, refiner, [], steps=1)
