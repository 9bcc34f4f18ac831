"""The recipe's stages, each of a step or two: what they leave, and that they are skipped where it is there."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from models.grounding_dino.box_refiner import refiner_of
from models.grounding_dino.features import GroundingModel
from models.grounding_dino.load import read_grounding_dino
from models.training import tiny_recipe
from models.training.batches import Phase
from models.training.checkpoint import load_checkpoint
from models.training.tiny_recipe import SHAPES, TinyRecipe, mix_weights
from models.training.vocabulary import unknown_words

CELLS = "red blood cell"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Write the two folders of data, an image each."""
    for folder in ("coco_photos", "bccd"):
        (tmp_path / "data" / folder / "images").mkdir(parents=True)
        noise = np.random.default_rng(0).integers(0, 255, (96, 128, 3), np.uint8)
        Image.fromarray(noise).save(tmp_path / "data" / folder / "images" / "a.png")
    labels = {
        "images": [{"id": 1, "file_name": "a.png", "width": 128, "height": 96}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [20, 20, 40, 40], "iscrowd": 0}],
        "categories": [{"id": 1, "name": CELLS}],
    }
    for name in ("train", "val"):
        (tmp_path / "data" / "bccd" / f"{name}.json").write_text(json.dumps(labels))
    return tmp_path / "data"


def test_stages(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Shapes alone, then rounds with cells: one larger and begun mixed, then a refiner. The finish is left out."""
    judged: list[bool] = []

    def watch(_model: object, _processor: object, cells: object) -> Mapping[str, float]:
        judged.append(cells is not None)
        return {"mean": 0.5}

    small = replace(SHAPES, cycles=(1,), steps=2, phases=(Phase(1.0, (64,)),))
    monkeypatch.setattr(tiny_recipe, "watch", watch)
    monkeypatch.setattr(tiny_recipe, "SHAPES", small)
    second = replace(small, cycles=(), cell_share=0.5)
    grown = {"width": 128, "decoder_layers": 4, "decoder_points": 8, "share_box_head": False}
    third = replace(second, **grown, mixed=0.5, cells="varied", phases=(Phase(1.0, (64, 80)),))
    rounds = (replace(small, cell_share=0.5), second, third, replace(third, mixed=1.0, refiner=True))
    monkeypatch.setattr(tiny_recipe, "ROUNDS", rounds)
    finished: list[tuple[int, int, int]] = []

    def finish(_: TinyRecipe, model: GroundingModel) -> None:
        finished.append((model.config.d_model, model.config.decoder_layers, model.config.decoder_n_points))

    monkeypatch.setattr(TinyRecipe, "_finish", finish)
    output = tmp_path / "output"

    TinyRecipe(data, output, evaluate_every=0).run(shapes_only=True)
    assert judged == [False]
    assert sorted(path.name for path in output.iterdir()) == ["processor", "shapes"]
    _, processor = read_grounding_dino(output / "shapes" / "model")
    assert unknown_words(processor.tokenizer, [CELLS, "red circle"]) == ["blood", "cell"]

    TinyRecipe(data, output, evaluate_every=0).run()
    assert judged == [False, True, True, True, True]
    _, processor = read_grounding_dino(output / "round_1" / "model")
    assert unknown_words(processor.tokenizer, [CELLS, "red circle"]) == []
    assert processor.image_processor.size == {"shortest_edge": 64, "longest_edge": 112}
    model, processor = read_grounding_dino(output / "round_3" / "model")
    assert (model.config.d_model, model.config.decoder_layers, model.config.decoder_n_points) == (128, 4, 8)
    assert processor.image_processor.size == {"shortest_edge": 80, "longest_edge": 140}
    refined, _ = read_grounding_dino(output / "round_4" / "model")
    assert refiner_of(model) is None
    assert refiner_of(refined) is not None
    averaged = load_checkpoint(output / "round_3" / "checkpoint.pt")["average"]
    for name, value in refined.state_dict().items():
        if not name.startswith("box_refiner."):
            torch.testing.assert_close(value, averaged[f"module.model.{name}"], msg=lambda text, name=name: name + text)
    assert finished == [(128, 4, 8)], "the last round's"
    first = torch.load(output / "round_1" / "backbone_0.pt", weights_only=True)
    assert not (output / "round_2" / "backbone_0.pt").exists()
    assert set(first) == set(torch.load(output / "shapes" / "backbone_0.pt", weights_only=True))

    TinyRecipe(data, output, evaluate_every=0).run()
    assert judged == [False, True, True, True, True], "finished stages are skipped"


def test_mixed_weights() -> None:
    model, other = torch.nn.BatchNorm1d(2), torch.nn.BatchNorm1d(2)
    torch.nn.init.constant_(model.weight, 4)
    torch.nn.init.constant_(other.weight, 8)
    other.num_batches_tracked.fill_(3)
    mix_weights(model, other, 0.75)
    assert model.weight.tolist() == [5.0, 5.0]
    assert model.num_batches_tracked == 0
    assert other.weight.tolist() == [8.0, 8.0]
