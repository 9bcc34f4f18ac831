"""Backbone pretraining: name the shape and the colour at object centres, for some minutes before detection starts.

Linear heads on every stage, thrown away afterwards. It is the largest single gain of the tiny model's recipe.
"""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, grid_sample
from torch.utils.data import DataLoader, Dataset
from transformers import AutoBackbone, PretrainedConfig

from models.grounding_dino.features import GroundingModel
from models.training.augment import Labelled, crop_resize, flip_horizontal, random_window
from models.training.checkpoint import save_atomically
from models.training.muon import Muon, split_matrices
from models.training.scenes import COLOURS, SHAPES, SceneConfig, render_scene
from models.training.sources import CocoSource, scene_to_labelled, to_unit

_NO_COLOUR = -1
_BACKBONE = "model.backbone.conv_encoder.model."


class CentreBatches(Dataset[tuple[Tensor, Tensor, Tensor, Tensor, Tensor]]):
    """Step `i` gives images (B, 3, S, S) and, for their M objects: image index, centre in [-1, 1], kind, colour.

    Args:
        config: What scenes hold.
        coco: A further source of images; its names are kinds after the shapes, without a colour.
        coco_share: Share of the steps that come from it.
        size: Side of the images, pixels.
        batch_size: Images a step.
        steps: How many.
        seed: Everything random follows from it and the step.
        windows: Least and largest side of a scene's window, in sides of the scene.
    """

    def __init__(
        self,
        config: SceneConfig,
        coco: CocoSource | None,
        coco_share: float,
        size: int,
        batch_size: int,
        steps: int,
        seed: int,
        windows: tuple[float, float] = (0.55, 1.0),
    ) -> None:
        self._config, self._coco, self._share = config, coco, coco_share if coco else 0.0
        self._size, self._batch_size, self._steps, self._seed = size, batch_size, steps, seed
        self._windows = windows
        self.kinds = [*SHAPES, *(coco.names if coco else ())]

    def __len__(self) -> int:
        return self._steps

    def _draw(self, rng: np.random.Generator, from_coco: bool) -> Labelled:
        size_hw = (self._size, self._size)
        if from_coco and self._coco is not None:
            source = self._coco.labelled(int(rng.integers(len(self._coco))))
            labelled = crop_resize(source, random_window(rng, source.image_hw, size_hw, (0.4, 0.9)), size_hw)
        else:
            scene = render_scene(2**41 + int(rng.integers(2**40)), self._config)
            whole = scene_to_labelled(scene)
            window = random_window(rng, whole.image_hw, size_hw, self._windows)
            labelled = crop_resize(whole, window, size_hw, min_visible=0.6)
        return flip_horizontal(labelled) if rng.random() < 0.5 else labelled

    def __getitem__(self, step: int) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Make the batch of a step."""
        rng = np.random.default_rng([self._seed, step])
        from_coco = rng.random() < self._share
        images, index, centres, kinds, colours = [], [], [], [], []
        for row in range(self._batch_size):
            labelled = self._draw(rng, from_coco)
            images.append(to_unit(labelled.image))
            for box, name in zip(labelled.boxes_xyxy, labelled.names, strict=True):
                colour, _, shape = name.partition(" ")
                is_scene = not from_coco
                index.append(row)
                centres.append([(box[0] + box[2]) / self._size - 1, (box[1] + box[3]) / self._size - 1])
                kinds.append(self.kinds.index(shape if is_scene else name))
                colours.append(COLOURS.index(colour) if is_scene else _NO_COLOUR)
        return (
            torch.from_numpy(np.stack(images)),
            torch.tensor(index, dtype=torch.long),
            torch.tensor(np.array(centres, np.float32).reshape(-1, 2)),
            torch.tensor(kinds, dtype=torch.long),
            torch.tensor(colours, dtype=torch.long),
        )


def pretrain_backbone(
    backbone_config: PretrainedConfig,
    batches: CentreBatches,
    output: Path,
    start: dict[str, Tensor] | None = None,
    learning_rate: float = 2e-3,
    log_every: int = 50,
) -> dict[str, Tensor]:
    """Train a backbone on object centres, by Muon, and save its state.

    Args:
        backbone_config: Of the detector's backbone; all its stages get heads.
        batches: The steps.
        output: File for the state; if it exists the training is done and the file is read.
        start: State of an earlier call to go on from; None starts from nothing.
        learning_rate: Peak of a one-cycle schedule.
        log_every: Steps between printed lines.

    Returns:
        The backbone's state without `num_batches_tracked`, as a frozen-BatchNorm backbone loads it.
    """
    if output.exists():
        state: dict[str, Tensor] = torch.load(output, weights_only=True)
        return state
    torch.manual_seed(0)
    backbone = AutoBackbone.from_config(backbone_config)
    if start is not None:
        backbone.load_state_dict(start, strict=False)
    backbone = backbone.to(memory_format=torch.channels_last)
    heads = nn.ModuleList(nn.Linear(width, len(batches.kinds) + len(COLOURS)) for width in backbone.channels)
    matrices, others = split_matrices(backbone)
    groups: list[dict[str, Any]] = [{"params": matrices, "matrices": True}, {"params": [*others, *heads.parameters()]}]
    optimiser = Muon(groups, learning_rate, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, learning_rate, total_steps=len(batches), pct_start=0.1)
    backbone.train()
    started = time.monotonic()
    loader = DataLoader(batches, batch_size=None, num_workers=1, prefetch_factor=4)
    for step, (images, index, centres, kinds, colours) in enumerate(loader):
        maps = backbone(images.contiguous(memory_format=torch.channels_last)).feature_maps
        loss, right = _centre_loss(maps, heads, index, centres, kinds, colours)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
        if step % log_every == 0:
            print(f"pretrain {step}/{len(batches)} loss {loss.item():.3f} kind {right:.3f}", flush=True)
    print(f"pretrained the backbone in {(time.monotonic() - started) / 60:.1f} minutes", flush=True)
    state = {key: value for key, value in backbone.state_dict().items() if not key.endswith("num_batches_tracked")}
    save_atomically(state, output)
    return state


def load_backbone(model: GroundingModel, state: Mapping[str, Tensor]) -> None:
    """Put a pretrained backbone under a detector.

    Raises:
        ValueError: The state is another backbone's.
    """
    missing, unexpected = model.model.backbone.conv_encoder.model.load_state_dict(dict(state), strict=False)
    if missing or unexpected:
        raise ValueError(f"the backbone's state does not fit: missing {missing[:3]}, unexpected {unexpected[:3]}")


def backbone_of(model: nn.Module) -> dict[str, Tensor]:
    """Return the state of a detector's backbone."""
    state = model.state_dict()
    return {key.removeprefix(_BACKBONE): value for key, value in state.items() if key.startswith(_BACKBONE)}


def _centre_loss(
    maps: Sequence[Tensor], heads: nn.ModuleList, index: Tensor, centres: Tensor, kinds: Tensor, colours: Tensor
) -> tuple[Tensor, float]:
    """Sum the stages' cross-entropies; also return the stages' mean share of right kinds. M may be 0."""
    total = sum((level.sum() * 0 for level in maps), torch.zeros(()))
    if len(index) == 0:
        return total, 0.0
    right = 0.0
    for level, head in zip(maps, heads, strict=True):
        features = grid_sample(level[index], centres[:, None, None, :], align_corners=False)[:, :, 0, 0]
        scores = head(features)
        kind_scores, colour_scores = scores[:, : -len(COLOURS)], scores[:, -len(COLOURS) :]
        total = total + cross_entropy(kind_scores, kinds)
        if (colours != _NO_COLOUR).any():
            total = total + cross_entropy(colour_scores, colours, ignore_index=_NO_COLOUR)
        right += float((kind_scores.argmax(1) == kinds).float().mean()) / len(maps)
    return total, right
