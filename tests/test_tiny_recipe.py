"""The recipe's stages, each of a step or two: what they leave, and that they are skipped where it is there."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from models.grounding_dino.box_refiner import BoxRefiner, refiner_of
from models.grounding_dino.features import GroundingModel
from models.grounding_dino.load import read_grounding_dino
from models.training import refining, tiny_recipe
from models.training.batches import Phase
from models.training.checkpoint import load_checkpoint
from models.training.tiny_recipe import TinyRecipe
from models.training.tiny_rounds import DETECTION, REFINER, SHAPES
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
    """Shapes alone, then a larger detector that sees cells, its refiner alone at last. The finish is left out."""
    judged: list[bool] = []

    def watch(_model: object, _processor: object, cells: object) -> Mapping[str, float]:
        judged.append(cells is not None)
        return {"mean": 0.5}

    shapes = replace(SHAPES, cycle=1, steps=2, phases=(Phase(1.0, (64,)),))
    second = replace(DETECTION, cycle=1, steps=2, phases=(Phase(1.0, (64, 80)),), cell_share=0.5, min_objects=1)
    shown = replace(REFINER.shown, steps=2, phases=(Phase(1.0, (64,)),), cell_share=0.5)
    whole = replace(second, cycle=0, cells="whole", earlier_share=0.25)
    rounds = {"shapes": shapes, "detection": second, "whole_cells": whole}
    monkeypatch.setattr(tiny_recipe, "watch", watch)
    monkeypatch.setattr(tiny_recipe, "ROUNDS", rounds)
    monkeypatch.setattr(tiny_recipe, "REFINER", replace(REFINER, shown=shown, steps=2))
    monkeypatch.setattr(refining, "FOUND_IOU", 0.0)  # a detector that has learned nothing finds nothing
    finished: list[GroundingModel] = []
    monkeypatch.setattr(TinyRecipe, "_finish", lambda _, model: finished.append(model))
    refiners: list[BoxRefiner] = []

    def make_refiner(channels: tuple[int, int], queries: int) -> BoxRefiner:
        refiners.append(BoxRefiner(channels, queries))
        return refiners[-1]

    monkeypatch.setattr(tiny_recipe, "BoxRefiner", make_refiner)
    output = tmp_path / "output"

    TinyRecipe(data, output, evaluate_every=0).run(shapes_only=True)
    assert judged == [False]
    assert sorted(path.name for path in output.iterdir()) == ["processor", "shapes"]
    model, processor = read_grounding_dino(output / "shapes" / "model")
    assert unknown_words(processor.tokenizer, [CELLS, "red circle"]) == ["blood", "cell"]
    assert (model.config.d_model, model.config.decoder_layers, refiner_of(model)) == (64, 3, None)

    TinyRecipe(data, output, evaluate_every=0).run()
    assert judged == [False, True, True]
    assert len(refiners) == 1, "later rounds go on with what the second began"
    model, processor = read_grounding_dino(output / "detection" / "model")
    assert unknown_words(processor.tokenizer, [CELLS, "red circle"]) == []
    assert processor.image_processor.size == {"shortest_edge": 80, "longest_edge": 140}
    assert (model.config.d_model, model.config.decoder_layers) == (128, 4)
    assert refiner_of(model) is not None
    assert not (output / "whole_cells" / "backbone.pt").exists()
    first, second_cycle = (torch.load(output / name / "backbone.pt", weights_only=True) for name in list(rounds)[:2])
    assert set(first) == set(second_cycle)

    alone = torch.load(output / "box_refiner.pt", weights_only=True)
    earlier, averaged = (
        load_checkpoint(output / name / "checkpoint.pt")["average"] for name in ("detection", "whole_cells")
    )
    changed = set()
    for name, value in finished[0].state_dict().items():
        if name.startswith("box_refiner."):
            assert torch.equal(value, alone[name.removeprefix("box_refiner.")])
        trained, before = averaged[f"module.model.{name}"], earlier[f"module.model.{name}"]
        if not torch.allclose(value, 0.75 * trained + 0.25 * before if value.is_floating_point() else trained):
            changed.add(name.partition(".")[0])
    assert changed == {"box_refiner"}, "nothing else is trained in the last round"

    TinyRecipe(data, output, evaluate_every=0).run()
    assert judged == [False, True, True], "finished stages are skipped"
    assert all(torch.equal(value, finished[1].state_dict()[name]) for name, value in finished[0].state_dict().items())
