import csv
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from models.grounding_dino.load import read_grounding_dino
from models.ontology import Ontology
from models.training import finetune as finetune_module
from models.training.evaluate import Precision
from models.training.finetune import finetune
from models.training.finetune_config import FinetuneConfig
from models.training.finetune_plan import (
    FinetuneResult,
    TrainingPlan,
    choose_size,
    fit_prompts,
    freeze_parts,
    plan_loop,
    plan_phases,
)
from models.training.forward import DenoisingTrainer
from models.training.loop import Loop, LoopConfig
from models.training.prompts import PromptSampling, draw_prompts
from models.training.queries import grow_queries
from models.training.sources import CocoSource
from models.zoo import load_detector
from tests.tiny_training import PAIRS, small_model, small_processor, write_scenes, write_small_detector

NOTHING = Precision(0.0, 0.0, {}, {})


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_scenes(tmp_path_factory.mktemp("scenes"), 6)


def _losses(folder: Path) -> list[str]:
    with (folder / "log.csv").open() as file:
        return [row["total"] for row in csv.DictReader(file)]


@pytest.mark.parametrize("kind", ["mm-grounding-dino", "grounding-dino"])
def test_both_kinds_train_and_load(kind: str, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    start = write_small_detector(tmp_path / "start", ("red", "blue", "green", "circle", "square"), kind)
    config = FinetuneConfig(epochs=2, batch_size=3, size=64)
    result = finetune(start, data, data, tmp_path / "out", config, data.parent / "images")
    assert result is not None
    assert (result.words, result.steps, result.train_images) == (("triangle",), 4, 6)
    assert sum(result.objects.values()) == sum(CocoSource(data, data.parent / "images").boxes_by_name().values())
    assert 0 <= result.after.ap <= result.after.ap50 <= 1
    assert FinetuneResult.read(tmp_path / "out" / "result.json") == result
    assert {path.name for path in (tmp_path / "out").iterdir()} >= {"model", "curves.png", "checkpoint.pt", "plan.json"}
    printed = capsys.readouterr().out
    assert "new words in the detector's vocabulary: triangle" in printed
    assert "training on 6 images, 3 a step, 4 steps" in printed
    detector = load_detector(str(result.model), Ontology.from_names(PAIRS), box_threshold=0, text_threshold=0)
    assert detector.resized_hw((96, 96)) == (64, 64)
    assert len(detector([np.full((96, 96, 3), 90, np.uint8)])[0]) > 0


def test_small_objects_are_trained_and_used_larger(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    labels = json.loads(data.read_text())
    for box in labels["annotations"]:
        box["bbox"][2:] = [12, 12]
    small = tmp_path / "small.json"
    small.write_text(json.dumps(labels))
    start = write_small_detector(tmp_path / "start")
    result = finetune(
        start, small, small, tmp_path / "out", FinetuneConfig(epochs=1, batch_size=3), data.parent / "images"
    )
    assert result is not None
    assert "is 8 px wide in the median at the detector's size of 64: it is trained and used at 96" in (
        capsys.readouterr().out
    )
    detector = load_detector(str(result.model), Ontology.from_names(PAIRS))
    assert detector.resized_hw((96, 96)) == (96, 96)


def test_a_source_can_show_its_images_whole(data: Path) -> None:
    """Each box keeps its size, and none is missing; windows of the same images lose some and change all."""
    asked = PromptSampling((40,), (1.0,), nothing_present=0.0, keep_present=1.0)

    varied = CocoSource(data, data.parent / "images", sampling=asked)

    def shown_whole(source: CocoSource) -> int:
        sizes = [np.sort(np.diff(source.labelled(i).boxes_xyxy.reshape(-1, 2, 2), axis=1), axis=None) for i in range(6)]
        count = 0
        for seed in range(12):
            drawn = source.draw(np.random.default_rng(seed), (96, 96)).boxes_xyxy
            drawn_sizes = np.sort(np.diff(drawn.reshape(-1, 2, 2), axis=1), axis=None)
            count += any(len(size) == len(drawn_sizes) and np.allclose(size, drawn_sizes) for size in sizes)
        return count

    assert shown_whole(varied.whole()) == 12
    assert shown_whole(varied) < 6


def test_an_interrupted_training_goes_on_as_if_unbroken(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def often(plan: TrainingPlan, parameters: int) -> LoopConfig:
        return replace(plan_loop(plan, parameters), save_every=1, evaluate_every=0)

    monkeypatch.setattr(finetune_module, "plan_loop", often)
    start = write_small_detector(tmp_path / "start")
    config, images = FinetuneConfig(epochs=2, batch_size=3, learning_rate=1e-3), data.parent / "images"
    finetune(start, data, data, tmp_path / "whole", config, images)
    step = Loop.train_step

    def fail_at_third(loop: Loop, batch: Any) -> dict[str, float]:
        if loop.step == 2:
            raise KeyboardInterrupt
        return step(loop, batch)

    monkeypatch.setattr(Loop, "train_step", fail_at_third)
    with pytest.raises(KeyboardInterrupt):
        finetune(start, data, data, tmp_path / "broken", config, images)
    monkeypatch.setattr(Loop, "train_step", step)
    result = finetune(start, data, data, tmp_path / "broken", config, images, resume=True)
    assert result is not None
    assert result.steps == 4
    assert _losses(tmp_path / "broken") == _losses(tmp_path / "whole")
    with pytest.raises(ValueError, match=r"begun with --epochs 2, not 3; .*--overwrite"):
        finetune(start, data, data, tmp_path / "broken", replace(config, epochs=3), images, resume=True)


def test_training_brings_the_loss_down(data: Path, tmp_path: Path) -> None:
    start = write_small_detector(tmp_path / "start")
    config = FinetuneConfig(epochs=25, batch_size=3, learning_rate=5e-3, denoising="none", max_prompts=3)
    finetune(start, data, data, tmp_path / "out", config, data.parent / "images")
    losses = [float(loss) for loss in _losses(tmp_path / "out")]
    assert len(losses) == 2
    assert losses[1] < 0.9 * losses[0]


def test_the_time_limit_ends_it(data: Path, tmp_path: Path) -> None:
    start = write_small_detector(tmp_path / "start")
    config = FinetuneConfig(minutes=0.02, batch_size=2)
    result = finetune(start, data, data, tmp_path / "out", config, data.parent / "images")
    assert result is not None
    assert result.steps >= 1
    assert (result.model / "model.safetensors").exists()


def test_what_is_frozen_stays(tmp_path: Path) -> None:
    trainer = DenoisingTrainer(small_model())
    total = sum(parameter.numel() for parameter in trainer.model.parameters())
    assert freeze_parts(trainer, (), (), False) == 0
    frozen = freeze_parts(trainer, ("backbone", "text"), (), False)
    still = {name.split(".")[1] for name, p in trainer.model.named_parameters() if not p.requires_grad}
    assert 0 < frozen < total
    assert still == {"backbone", "text_backbone"}
    assert freeze_parts(trainer, (), (), True) > 0
    with pytest.raises(ValueError, match="does not know platelet: it can learn these words only without --freeze text"):
        freeze_parts(trainer, ("text",), ("platelet",), False)


def test_a_class_without_boxes_is_refused(data: Path, tmp_path: Path) -> None:
    file = tmp_path / "more.json"
    file.write_text(data.read_text().replace('"categories": [', '"categories": [{"id": 99, "name": "ghost"}, '))
    start = write_small_detector(tmp_path / "start")
    with pytest.raises(ValueError, match="has no box of ghost"):
        finetune(start, file, data, tmp_path / "out", FinetuneConfig(), data.parent / "images")


def test_a_damaged_image_is_named(data: Path, tmp_path: Path) -> None:
    images = tmp_path / "images"
    images.mkdir()
    for path in (data.parent / "images").iterdir():
        (images / path.name).write_bytes(path.read_bytes()[:200])
    source = CocoSource(data, images)
    with pytest.raises(ValueError, match=r"001\.png cannot be read"):
        source.labelled(0)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"epochs": 1, "minutes": 1}, "--epochs or --minutes, not both"),
        ({"minutes": 0}, "minutes must be a positive number"),
        ({"epochs": float("nan")}, "epochs must be a positive number"),
        ({"batch_size": 0}, "batch_size must be at least 1"),
        ({"freeze": ("head",)}, "freeze knows backbone and text, not 'head'"),
        ({"size": 8}, "size must be between 32 and 4096"),
        ({"text_level": "letter"}, "text_level must be one of"),
        ({"denoising": "some"}, "denoising must be one of"),
        ({"seed": -1}, "seed must not be negative"),
    ],
)
def test_wrong_options_are_named(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FinetuneConfig(**given)


def test_the_plan_spends_most_of_the_time_on_training() -> None:
    plan = TrainingPlan.make(FinetuneConfig(minutes=10), 0.5, 10.0, 25, NOTHING, ())
    assert 1000 <= plan.steps <= 1320
    assert 2 <= plan.steps / plan.evaluate_every <= 10
    epochs = TrainingPlan.make(FinetuneConfig(epochs=3), 0.5, 1000.0, 2.5, NOTHING, ())
    assert (epochs.steps, epochs.evaluate_every) == (8, 8)
    small, large = plan_loop(plan, 3_000_000), plan_loop(plan, 170_000_000)
    assert (small.optimiser, small.learning_rate) == ("muon", 2e-3)
    assert (large.optimiser, large.learning_rate) == ("adamw", 1e-4)


def test_the_rate_falls_with_the_time_spent() -> None:
    config = LoopConfig(steps=1000, warmup=0, decay_from=0.5, minutes=10)
    assert config.rate_factor(0, 4.0) == 1
    assert config.rate_factor(0, 10.0) == pytest.approx(config.final_factor)
    assert config.rate_factor(750, 0.0) == pytest.approx(config.rate_factor(0, 7.5))


@pytest.mark.parametrize("aspect", [0.5, 1.0, 4 / 3, 4.0])
def test_training_sizes_fit_the_processors(aspect: float) -> None:
    phases = plan_phases({"shortest_edge": 224, "longest_edge": 384}, aspect, FinetuneConfig(whole_from=1.0))
    assert [phase.until for phase in phases] == [0.6, 1.0]
    for short in (*phases[0].short_sides, *phases[1].short_sides):
        assert short % 16 == 0
        assert short <= 224
        assert short * max(aspect, 1 / aspect) <= 384 + 16 * max(aspect, 1 / aspect)


@pytest.mark.parametrize(
    ("whole_from", "untils", "whole"),
    [
        (0.0, [0.6, 1.0], [True, True]),
        (0.4, [0.4, 0.6, 1.0], [False, True, True]),
        (0.6, [0.6, 1.0], [False, True]),
        (0.7, [0.6, 0.7, 1.0], [False, False, True]),
        (1.0, [0.6, 1.0], [False, False]),
    ],
)
def test_images_are_whole_at_the_end(whole_from: float, untils: list[float], whole: list[bool]) -> None:
    phases = plan_phases({"shortest_edge": 224, "longest_edge": 384}, 1.0, FinetuneConfig(whole_from=whole_from))
    assert [phase.until for phase in phases] == untils
    assert [phase.shares == (0.0, 1.0) for phase in phases] == whole
    assert [phase.shares == (1.0, 0.0) for phase in phases] == [not each for each in whole]
    for start, phase in zip([0.0, *untils], phases, strict=False):
        assert (min(phase.short_sides) == 160) == (start < 0.6)


@pytest.mark.parametrize(
    ("wanted", "smallest", "largest", "chosen"),
    [
        (128, 0.01, 100, 128),
        (None, 0.5, 1000, 64),
        (None, 0.3, 1000, 96),
        (None, 0.01, 1000, 96),
        (None, 0.3, 80, 80),
        (None, 0.3, 50, 64),
        (None, 1.0, math.inf, 64),
    ],
)
def test_small_objects_ask_for_a_larger_size(
    wanted: int | None, smallest: float, largest: float, chosen: int, tmp_path: Path
) -> None:
    """The processor's own is 64; at 96 px an object of .3 of the side is 29 px wide."""
    sized = choose_size(small_processor(tmp_path), wanted, smallest, largest)
    assert sized == {"shortest_edge": chosen, "longest_edge": 2 * chosen}


def test_the_smallest_class_is_told(data: Path) -> None:
    source = CocoSource(data, data.parent / "images")
    boxes = json.loads(data.read_text())["annotations"]
    sides: dict[int, list[float]] = {}
    for box in boxes:
        sides.setdefault(box["category_id"], []).append(float(np.sqrt(box["bbox"][2] * box["bbox"][3])))
    name, share = source.smallest_class()
    assert name in source.names
    assert share == pytest.approx(min(np.median(each) for each in sides.values()) / source.short_side)


def test_prompts_fit_the_text(tmp_path: Path) -> None:
    processor = small_processor(tmp_path)
    tokenizer = processor.tokenizer
    assert fit_prompts(tokenizer, PAIRS, 64, 40) == 3
    assert fit_prompts(tokenizer, PAIRS * 10, 64, 40) == 20
    assert fit_prompts(tokenizer, PAIRS * 10, 64, 7) == 7
    with pytest.raises(ValueError, match="more tokens than the 4"):
        fit_prompts(tokenizer, PAIRS, 4, 40)


def test_present_classes_are_capped() -> None:
    names = [f"n{number}" for number in range(30)]
    sampling = PromptSampling((5,), (1.0,), 0.0, 1.0, most=5)
    for seed in range(5):
        assert len(draw_prompts(np.random.default_rng(seed), names, names, sampling)) == 5


@pytest.mark.parametrize("kind", ["mm-grounding-dino", "grounding-dino"])
def test_more_queries_start_as_copies(kind: str, tmp_path: Path) -> None:
    model = small_model(kind)
    old = model.model.query_position_embeddings.weight.detach().clone()
    assert not grow_queries(model, 5)
    assert grow_queries(model, 25)
    grown = model.model.query_position_embeddings.weight
    assert torch.equal(grown[:10], old)
    assert grown.shape[0] == model.config.num_queries == 25
    assert (grown[10:20] - old).abs().mean() < old.abs().mean()
    from models.grounding_dino.load import write_grounding_dino

    write_grounding_dino(tmp_path / "model", model, small_processor(tmp_path / "words"))
    assert read_grounding_dino(tmp_path / "model")[0].config.num_queries == 25


def test_sides_in_names_are_mirrored_or_keep_the_image_as_it_is(tmp_path: Path) -> None:
    data = write_scenes(tmp_path / "data", 2)
    text = data.read_text().replace('"red circle"', '"left shoe"')
    data.write_text(text)
    one_sided = CocoSource(data, data.parent / "images", zoom=(1.0, 1.0), mosaic_share=0.0)
    assert one_sided._may_mirror is False
    data.write_text(text.replace('"blue square"', '"right shoe"'))
    assert CocoSource(data, data.parent / "images")._may_mirror is True
