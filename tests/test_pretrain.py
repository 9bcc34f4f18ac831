"""Backbone pretraining: centres are where the objects are, and a finished stage is not repeated."""

from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import AutoBackbone, ResNetConfig

from models.training.pretrain import CentreBatches, _centre_loss, pretrain_backbone
from models.training.scenes import COLOURS, SHAPES, SceneConfig
from models.training.sources import CocoSource
from tests.turned_coco import write_coco

CONFIG = SceneConfig(size=96, max_objects=4)
BACKBONE = ResNetConfig(
    embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic", out_features=["stage1", "stage2"]
)


def batches(coco: CocoSource | None = None, share: float = 0.0, steps: int = 2) -> CentreBatches:
    return CentreBatches(CONFIG, coco, share, 64, 4, steps, seed=0)


def test_shapes_and_ranges() -> None:
    images, index, centres, kinds, colours = batches()[0]
    assert images.shape == (4, 3, 64, 64)
    assert len(index) == len(centres) == len(kinds) == len(colours) > 0
    assert centres.shape[1] == 2
    assert centres.abs().max() <= 1
    assert ((index >= 0) & (index < 4)).all()
    assert ((kinds >= 0) & (kinds < len(SHAPES))).all()
    assert ((colours >= 0) & (colours < len(COLOURS))).all()


def test_a_step_is_always_the_same() -> None:
    for one, two in zip(batches()[1], batches()[1], strict=True):
        assert torch.equal(one, two)
    assert not torch.equal(batches()[0][0], batches()[1][0])


def test_closer_windows_show_fewer_and_so_larger_objects() -> None:
    far, close = (CentreBatches(CONFIG, None, 0.0, 64, 16, 1, 0, (side, side)) for side in (1.0, 0.4))
    assert 0 < len(close[0][1]) < 0.6 * len(far[0][1])


def test_centres_of_a_coco_file(tmp_path: Path) -> None:
    """The only object is red: its centre's pixel is too, in x, y order."""
    source = CocoSource(write_coco(tmp_path), tmp_path)
    made = batches(source, 1.0)
    assert made.kinds == [*SHAPES, "red thing", "ghost"]
    seen = 0
    for step in range(4):
        images, index, centres, kinds, colours = made[step]
        for row, (x, y), kind, colour in zip(index, centres, kinds, colours, strict=True):
            pixel = images[row, :, min(int((y + 1) * 32), 63), min(int((x + 1) * 32), 63)]
            assert pixel[0] > 1.5
            assert pixel[1] < 0
            assert int(kind) == len(SHAPES)
            assert int(colour) == -1
            seen += 1
    assert seen > 3


def test_the_loss_reads_the_place() -> None:
    """One stage whose map is the answer at the centre and wrong elsewhere."""
    kinds_and_colours = 2 + len(COLOURS)
    level = torch.zeros(1, kinds_and_colours, 4, 8)
    level[:, 0], level[:, 2] = 50.0, 50.0
    level[0, :, 1, 6] = 0
    level[0, 1, 1, 6], level[0, 3, 1, 6] = 50.0, 50.0
    heads = nn.ModuleList([nn.Identity()])
    centre = torch.tensor([[(2 * 6 + 1) / 8 - 1, (2 * 1 + 1) / 4 - 1]])
    arguments = (torch.tensor([0]), centre, torch.tensor([1]), torch.tensor([1]))
    loss, right = _centre_loss([level], heads, *arguments)
    assert loss.item() == pytest.approx(0, abs=1e-4)
    assert right == 1.0
    loss, right = _centre_loss([level], heads, torch.tensor([0]), -centre, torch.tensor([1]), torch.tensor([1]))
    assert loss > 90
    assert right == 0.0


def test_images_without_objects() -> None:
    level = torch.randn(2, 4, 3, 3, requires_grad=True)
    nothing = torch.zeros(0, dtype=torch.long)
    loss, right = _centre_loss([level], nn.ModuleList([nn.Identity()]), nothing, torch.zeros(0, 2), nothing, nothing)
    loss.backward()
    assert loss.item() == right == 0
    assert level.grad is not None


def test_it_learns(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pretrain_backbone(BACKBONE, batches(steps=30), tmp_path / "b.pt", None, 1e-2, log_every=1)
    printed = [line.split() for line in capsys.readouterr().out.splitlines() if "loss" in line]
    losses = [float(words[words.index("loss") + 1]) for words in printed]
    assert sum(losses[-10:]) < 0.97 * sum(losses[:10])


def test_a_stage_is_done_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "backbone.pt"
    state = pretrain_backbone(BACKBONE, batches(), file, log_every=1)
    assert "pretrain 1/2 loss" in capsys.readouterr().out
    assert not any(name.endswith("num_batches_tracked") for name in state)
    fresh = AutoBackbone.from_config(BACKBONE)
    missing, unexpected = fresh.load_state_dict(state, strict=False)
    assert not unexpected
    assert all(name.endswith("num_batches_tracked") for name in missing)

    def no_training(*arguments: object) -> None:
        raise RuntimeError("trained twice")

    monkeypatch.setattr(CentreBatches, "__getitem__", no_training)
    again = pretrain_backbone(BACKBONE, batches(), file)
    assert again.keys() == state.keys()
    assert all(torch.equal(again[name], state[name]) for name in state)
    assert all(torch.isfinite(value).all() for value in state.values())
