"""The box refiner: what it moves, what it leaves, its training and its files."""

import csv
import json
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from transformers import ConvNextBackbone, ConvNextConfig

from models.grounding_dino.box_refiner import (
    COLUMNS,
    REACH,
    REFINER_FILE,
    BoxRefiner,
    Refined,
    fine_channels,
    refine_boxes,
    refiner_of,
)
from models.grounding_dino.detector import DetectorSettings
from models.grounding_dino.features import GroundingModel
from models.grounding_dino.forward import encode_image, encode_text, predict
from models.grounding_dino.load import load_grounding_dino, read_grounding_dino, write_grounding_dino
from models.ontology import Ontology
from models.training import refining
from models.training.batches import collate
from models.training.finetune import finetune
from models.training.finetune_config import FinetuneConfig
from models.training.forward import Batch, DenoisingTrainer
from models.training.matcher import Target
from models.training.prompts import Sample
from models.training.refining import (
    NOISES,
    RefinerOutput,
    RefinerSamples,
    add_noisy_copies,
    find_samples,
    refine_samples,
    refiner_losses,
)
from tests.grounding_models import picture
from tests.tiny_training import PAIRS, small_model, small_processor, write_scenes

DIM = 8


def moving_refiner(seed: int = 0) -> BoxRefiner:
    """Make a refiner whose sides move by what it sees."""
    torch.manual_seed(seed)
    refiner = BoxRefiner((3, 3), DIM)
    with torch.no_grad():
        refiner.out.weight.normal_(0, 0.5)
    return refiner


def maps_of(images: Tensor) -> tuple[Tensor, Tensor]:
    """Take the images themselves for the two maps, the second at half the size."""
    return images, nn.functional.avg_pool2d(images, 2)


def rectangles(count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Draw a bright rectangle on each of `count` dark images of 64 px; return images and boxes."""
    images = 0.1 * torch.randn((count, 3, 64, 64), generator=generator)
    corner = torch.randint(6, 24, (count, 2), generator=generator)
    boxes = torch.cat([corner, corner + torch.randint(12, 34, (count, 2), generator=generator)], dim=1)
    for image, (left, top, right, bottom) in zip(images, boxes.tolist(), strict=True):
        image[:, top:bottom, left:right] += 1
    return images, boxes / 64


def add_refiner(model: GroundingModel) -> BoxRefiner:
    torch.manual_seed(1)
    refiner = BoxRefiner(fine_channels(model.model.backbone.conv_encoder.model), model.config.d_model)
    with torch.no_grad():
        refiner.out.weight.normal_(0, 2.0)
    model.box_refiner = refiner
    return refiner


def test_a_new_one_leaves_boxes_where_they_are() -> None:
    refiner = BoxRefiner((3, 3), DIM)
    boxes = torch.tensor([[0.1, 0.2, 0.5, 0.9], [0.0, 0.0, 1.0, 1.0], [0.3, 0.3, 0.31, 0.32]])
    refined = refiner(maps_of(torch.randn(2, 3, 32, 48)), torch.tensor([0, 1, 1]), boxes, torch.randn(3, DIM))
    torch.testing.assert_close(refined.boxes, boxes, atol=1e-6, rtol=0)
    assert refined.logits.shape == (3, 4, COLUMNS)


def test_no_boxes_give_none() -> None:
    none = torch.zeros(0, dtype=torch.long)
    refined = moving_refiner()(maps_of(torch.randn(1, 3, 32, 32)), none, torch.zeros(0, 4), torch.zeros(0, DIM))
    assert refined.boxes.shape == (0, 4)
    assert refined.logits.shape == (0, 4, COLUMNS)


def test_it_learns_where_sides_are() -> None:
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    refiner = BoxRefiner((3, 3), DIM)
    optimiser = torch.optim.AdamW(refiner.parameters(), 3e-3)

    def error(step_optimiser: bool) -> tuple[float, float]:
        images, truth = rectangles(12, generator)
        sides = (truth[:, 2:] - truth[:, :2]).repeat(1, 2)
        boxes = truth + sides * 0.1 * (torch.rand((12, 4), generator=generator) - 0.5)
        samples = RefinerSamples(torch.arange(12), boxes, torch.zeros(12, DIM), truth)
        output = refine_samples(refiner, maps_of(images), samples)
        if step_optimiser:
            optimiser.zero_grad()
            torch.stack(list(refiner_losses(output).values())).sum().backward()
            optimiser.step()
        return (output.refined.boxes - truth).abs().mean().item(), (boxes - truth).abs().mean().item()

    for _ in range(80):
        error(step_optimiser=True)
    after, before = np.mean([error(step_optimiser=False) for _ in range(4)], axis=0)
    assert after < 0.6 * before


def test_only_likely_boxes_move_and_rows_know_their_image() -> None:
    refiner = moving_refiner()
    images = torch.randn(2, 3, 32, 32)
    boxes = torch.tensor([0.5, 0.5, 0.4, 0.3]).expand(4, 2, 4)
    queries = torch.randn(1, 2, DIM).expand(4, 2, DIM)
    logits = torch.tensor([[[2.0, -torch.inf]], [[-5.0, -torch.inf]]]).reshape(1, 2, 2).expand(4, 2, 2)
    with torch.no_grad():
        refined = refine_boxes(refiner, maps_of(images), logits, boxes, queries)
        alone = refine_boxes(refiner, maps_of(images[1:]), logits[:1], boxes[:1], queries[:1])
    assert torch.equal(refined[:, 1], boxes[:, 1])
    assert not torch.equal(refined[0, 0], boxes[0, 0])
    torch.testing.assert_close(refined[:2], refined[2:])
    torch.testing.assert_close(refined[3], alone[0])
    assert not torch.allclose(refined[0, 0], refined[1, 0])


def test_refined_boxes_end_at_the_border() -> None:
    refiner = moving_refiner()
    with torch.no_grad():
        refiner.columns.fill_(-REACH)  # every side moves outwards as far as it can
        box = torch.tensor([[[0.5, 0.5, 1.0, 0.5]]])
        logits, queries = torch.ones(1, 1, 1), torch.zeros(1, 1, DIM)
        refined = refine_boxes(refiner, maps_of(torch.zeros(1, 3, 16, 16)), logits, box, queries)
    torch.testing.assert_close(refined[0, 0], torch.tensor([0.5, 0.5, 1.0, 0.75]))


def test_it_reads_a_resnet_alone() -> None:
    backbone = ConvNextBackbone(ConvNextConfig(hidden_sizes=[8, 8, 8, 8], depths=[1, 1, 1, 1]))
    with pytest.raises(ValueError, match="reads the first maps of a ResNet; this backbone is ConvNextBackbone"):
        fine_channels(backbone)


def test_loss_by_hand() -> None:
    box, truth = torch.tensor([[0.2, 0.2, 0.6, 0.6]]), torch.tensor([[0.22, 0.2, 0.6, 0.6]])
    logits = torch.zeros(1, 4, COLUMNS)
    samples = RefinerSamples(torch.zeros(1, dtype=torch.long), box, torch.zeros(1, DIM), truth)
    losses = refiner_losses(RefinerOutput(samples, Refined(box, logits)))
    overlap = 0.38 / 0.4
    assert losses["giou_refined"].item() == pytest.approx(2 * (1 - overlap), abs=1e-5)
    assert losses["l1_refined"].item() == pytest.approx(2 * (0.02 / 0.38) / 4, abs=1e-5)
    assert losses["sides_refined"].item() == pytest.approx(0.25 * math.log(COLUMNS), abs=1e-5)
    # The left side lies .05 of the box inwards: COLUMNS * (.05 + REACH) / (2 * REACH) - .5 = 9.1.
    logits[0, 0, 9], logits[0, 0, 10] = math.log(0.9), math.log(0.1)
    logits[0, 0, [column for column in range(COLUMNS) if column not in (9, 10)]] = -1e4
    left = -(0.9 * math.log(0.9) + 0.1 * math.log(0.1))
    losses = refiner_losses(RefinerOutput(samples, Refined(box, logits)))
    assert losses["sides_refined"].item() == pytest.approx(0.25 * (left + 3 * math.log(COLUMNS)) / 4, abs=1e-4)


def test_sides_out_of_reach_have_no_column() -> None:
    box, truth = torch.tensor([[0.2, 0.2, 0.4, 0.4]]), torch.tensor([[0.2, 0.2, 0.5, 0.4]])
    samples = RefinerSamples(torch.zeros(1, dtype=torch.long), box, torch.zeros(1, DIM), truth)
    losses = refiner_losses(RefinerOutput(samples, Refined(box, torch.zeros(1, 4, COLUMNS))))
    assert losses["sides_refined"].item() == pytest.approx(0.25 * 3 / 4 * math.log(COLUMNS), abs=1e-5)


def test_samples_are_what_finds_an_object_and_noisy_copies() -> None:
    found = torch.tensor([0.5, 0.5, 0.2, 0.2])
    boxes = torch.stack([found + 0.01, found, torch.tensor([0.1, 0.1, 0.1, 0.1])])[None]
    logits = torch.tensor([[3.0, -9.0], [1.0, -9.0], [9.0, -9.0]])[None]
    queries = torch.arange(3.0).reshape(1, 3, 1)
    targets = [Target(torch.stack([found, torch.tensor([0.8, 0.8, 0.1, 0.1])]), torch.tensor([[1.0, 0], [1.0, 0]]))]
    samples = find_samples(logits, boxes, queries, targets)
    assert len(samples.boxes) == 1, "nothing overlaps the second object"
    samples = add_noisy_copies(samples, torch.Generator().manual_seed(0))
    assert len(samples.boxes) == 1 + len(NOISES)
    assert samples.queries.flatten().tolist() == [0.0] * 3, "the likeliest that overlaps"
    torch.testing.assert_close(samples.boxes[0], torch.tensor([0.405, 0.405, 0.615, 0.615]))
    torch.testing.assert_close(samples.truth, torch.tensor([0.4, 0.4, 0.6, 0.6]).expand(3, 4))
    assert 0 < (samples.boxes[1:] - samples.truth[1:]).abs().max() < 0.2 * 5 * max(NOISES)


def asked_for_all(seed: int, boxes: Sequence[Sequence[float]] = ()) -> Sample:
    """Make a sample that is asked for all PAIRS; its boxes, in pixels of 64, are of the first."""
    positive = np.zeros((len(boxes), len(PAIRS)), bool)
    positive[:, 0] = True
    return Sample(picture(64, 64, seed), np.array(boxes, np.float32).reshape(-1, 4), PAIRS, positive)


def training_batch(folder: Path, boxes: Sequence[Sequence[float]]) -> Batch:
    return collate([asked_for_all(seed, boxes) for seed in range(2)], small_processor(folder).tokenizer)


@pytest.mark.parametrize("empty", [False, True])
def test_its_loss_trains_the_first_maps_and_nothing_else(
    tmp_path: Path, empty: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(refining, "FOUND_IOU", 0.0)  # a detector with random weights finds nothing
    model = small_model()
    refiner = add_refiner(model)
    trainer = DenoisingTrainer(model)
    output = trainer(
        training_batch(tmp_path, [] if empty else [(0, 0, 64, 64), (10, 10, 40, 50)]), torch.Generator().manual_seed(0)
    )
    assert output.refiner is not None
    assert len(output.refiner.samples.boxes) == (0 if empty else 2 * 2 * (1 + len(NOISES)))
    total = torch.stack(list(refiner_losses(output.refiner).values())).sum()
    total.backward()
    own = {id(parameter) for parameter in refiner.parameters()}
    backbone = model.model.backbone.conv_encoder.model
    maps = {
        id(parameter) for part in (backbone.embedder, backbone.encoder.stages[0]) for parameter in part.parameters()
    }
    others = [parameter for parameter in model.parameters() if id(parameter) not in own | maps]
    assert all(parameter.grad is None or not parameter.grad.any() for parameter in others)
    assert empty or any(parameter.grad.any() for parameter in model.parameters() if id(parameter) in maps)
    assert all(parameter.grad is not None for parameter in refiner.parameters()), "as several processes need it"
    if empty:
        assert total.item() == 0


def test_without_one_there_is_nothing_to_train(tmp_path: Path) -> None:
    output = DenoisingTrainer(small_model())(
        training_batch(tmp_path, [(5, 5, 40, 50)]), torch.Generator().manual_seed(0)
    )
    assert output.refiner is None


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Write a detector with a refiner that moves every side."""
    model = small_model()
    add_refiner(model)
    with torch.no_grad():
        for head in model.class_embed:
            head.bias.fill_(0.0)
    write_grounding_dino(tmp_path / "model", model, small_processor(tmp_path / "words"))
    return tmp_path / "model"


def test_files(folder: Path, tmp_path: Path) -> None:
    model, processor = read_grounding_dino(folder)
    refiner = refiner_of(model)
    assert refiner is not None
    write_grounding_dino(tmp_path / "half", model, processor, weights=torch.float16)
    again = refiner_of(read_grounding_dino(tmp_path / "half")[0])
    assert again is not None
    for name, value in refiner.state_dict().items():
        torch.testing.assert_close(again.state_dict()[name], value, atol=1e-3, rtol=1e-3)
    assert b"box_refiner" not in (folder / "model.safetensors").read_bytes()


def test_fine_tuning_trains_it_along(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(refining, "FOUND_IOU", 0.0)  # a detector with random weights finds nothing
    data = write_scenes(tmp_path / "scenes", 4)
    config = FinetuneConfig(epochs=1, batch_size=2, size=64)
    result = finetune(folder, data, data, tmp_path / "out", config, data.parent / "images")
    assert result is not None
    before, after = refiner_of(read_grounding_dino(folder)[0]), refiner_of(read_grounding_dino(result.model)[0])
    assert before is not None
    assert after is not None
    assert not torch.equal(before.place, after.place)
    with (tmp_path / "out" / "log.csv").open() as file:
        assert {"giou_refined", "l1_refined", "sides_refined"} <= set(next(csv.reader(file)))


def test_damaged_files_are_named(folder: Path) -> None:
    settings = json.loads((folder / "groundlabel.json").read_text())
    settings["box_refiner"]["width"] = 32
    (folder / "groundlabel.json").write_text(json.dumps(settings))
    with pytest.raises(ValueError, match=f"{REFINER_FILE} does not fit the box_refiner of groundlabel.json"):
        read_grounding_dino(folder)
    (folder / REFINER_FILE).unlink()
    with pytest.raises(FileNotFoundError, match=f"holds no {REFINER_FILE}, which its groundlabel.json tells of"):
        read_grounding_dino(folder)


def test_a_detector_refines_its_boxes(folder: Path) -> None:
    ontology = Ontology.from_names(PAIRS)
    settings = DetectorSettings(box_threshold=0.2, text_threshold=0.0, prompts_per_pass=2)
    detector = load_grounding_dino(folder, ontology, settings)
    images = [picture(80, 64, seed) for seed in range(3)]
    together = detector(images)
    for image, found in zip(images, together, strict=True):
        (alone,) = detector([image])
        np.testing.assert_allclose(found.boxes_xyxy, alone.boxes_xyxy, atol=1e-3)
    refiner = refiner_of(detector.model)
    del detector.model.box_refiner
    coarse = detector(images)
    assert refiner is not None
    moved = [np.abs(a.boxes_xyxy - b.boxes_xyxy).max() for a, b in zip(together, coarse, strict=True)]
    assert max(moved) > 0.05, "by far more than a batch changes"
    for fine, rough in zip(together, coarse, strict=True):
        np.testing.assert_allclose(fine.scores, rough.scores, atol=1e-6)


def test_batched_passes_refine_alike(folder: Path) -> None:
    model, processor = read_grounding_dino(folder)
    model.eval()
    batch = collate([asked_for_all(0)], processor.tokenizer)
    with torch.inference_mode():
        image = encode_image(model, batch.pixel_values)
        text = encode_text(model, batch.input_ids.repeat(2, 1), batch.token_mask.repeat(2, 1))
        boxes = predict(model, image.expand(2), text)[1]
    torch.testing.assert_close(boxes[0], boxes[1])


def test_compiled_steps_refine_alike(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", lambda step, **options: step)
    plain, compiled = (
        load_grounding_dino(folder, Ontology.from_names(PAIRS), DetectorSettings(0.2, 0.0, compile=on))
        for on in (False, True)
    )
    images = [picture(64, 64, 0)]
    expected = plain(images)[0]
    for _ in range(4):
        np.testing.assert_allclose(compiled(images)[0].boxes_xyxy, expected.boxes_xyxy, atol=1e-3)
