"""A last, fine look at boxes: where exactly does each side lie?

Grounding DINO's decoder reads features of stride 8 and more, too coarse for the border of a small object. The refiner
reads the backbone's first maps, of strides 2 and 4, in a strip along each side of a box, and says for each column
across the strip how likely the side lies there. The side moves to the mean. What the object is comes from the decoder's
query. A detector may have one, as its submodule `box_refiner`; its backbone is a ResNet then.

Source: Wang et al. 2020, "Side-Aware Boundary Localization for More Precise Object Detection", for sides found one by
one in bins across them; Li et al. 2020, "Generalized Focal Loss", for a side as the mean of a distribution over bins.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.functional import relu
from torchvision.ops import box_convert
from transformers.models.resnet.modeling_resnet import ResNetBackbone

from models.grounding_dino.region_sampling import Regions, sample_regions

COLUMNS = 16
"""Places across a side that are told apart."""
ROWS = 8
"""Places along a side that are looked at."""
REACH = 0.25
"""How far a side can move, in widths or heights of its box."""
_OVERHANG = 0.05
_MARGIN = 0.15
_CONTEXT = 10
_SPREAD = 0.05
_HIDDEN = 96
REFINER_FILE = "box_refiner.safetensors"
REFINED_FROM = 0.1
"""Least score of a box that is worth the look."""


@dataclass(frozen=True, eq=False)
class Refined:
    """What the refiner says of N boxes.

    Attributes:
        boxes: (N, 4), x1 y1 x2 y2 relative to the image; a side may lie outside of it.
        logits: (N, 4, COLUMNS), for left, top, right and bottom: how likely the side lies in a column, before the
            softmax. The first column lies REACH outside of the box, the last REACH inside.
    """

    boxes: Tensor
    logits: Tensor


def moves_of_columns(columns: Tensor) -> Tensor:
    """Return how far into the box the middle of each column lies, in widths or heights of the box."""
    return ((columns + 0.5) / COLUMNS * 2 - 1) * REACH


def columns_of_moves(moves: Tensor) -> Tensor:
    """Undo `moves_of_columns`; what lies between two columns gets a fraction."""
    return (moves / REACH + 1) / 2 * COLUMNS - 0.5


class BoxRefiner(nn.Module):
    """Finds the sides of boxes in fine feature maps.

    Args:
        channels: Of the two maps.
        queries: Width of the decoder's queries.
        width: Channels inside, a multiple of 2.
    """

    columns: Tensor

    def __init__(self, channels: tuple[int, int], queries: int, width: int = 24) -> None:
        super().__init__()
        self.channels, self.queries, self.width = channels, queries, width
        self.project = nn.ModuleList([nn.Conv2d(count, width, 1) for count in channels])
        self.sides = nn.ModuleList([nn.Conv2d(width, width, 1) for _ in range(4)])
        self.place = nn.Parameter(torch.zeros(1, width, ROWS, COLUMNS))
        self.context = nn.Conv2d(width, width, 3, padding=1, stride=2)
        self.join = nn.Linear(width * (_CONTEXT // 2) ** 2 + queries + 2, _HIDDEN)
        self.film = nn.Linear(_HIDDEN, 4 * 2 * width)
        self.strips = nn.ModuleList([nn.Conv2d(width, width, 3, padding=1) for _ in range(2)])
        self.attention = nn.Conv2d(width, 1, 1)
        self.across = nn.Conv1d(2 * width, width, 3, padding=1)
        self.out = nn.Conv1d(width, 1, 3, padding=1)
        for layer in (self.film, self.out):
            for parameter in layer.parameters():
                nn.init.zeros_(parameter)
        self.register_buffer("columns", moves_of_columns(torch.arange(COLUMNS)), persistent=False)

    def forward(self, maps: tuple[Tensor, Tensor], images: Tensor, boxes: Tensor, queries: Tensor) -> Refined:
        """Refine N boxes; N = 0 gives none.

        Args:
            maps: (B, C, H, W) each, of strides 2 and 4, or of others that show the same; best with channels last.
            images: (N,) int64, which image each box is of.
            boxes: (N, 4), x1 y1 x2 y2 relative to the image.
            queries: (N, d), the decoder's normalised queries.
        """
        sizes = boxes[:, 2:] - boxes[:, :2]
        around = torch.cat([boxes[:, :2] - _MARGIN * sizes, boxes[:, 2:] + _MARGIN * sizes], dim=1)
        asked = [Regions(around, _CONTEXT, _CONTEXT), *(_strip(boxes, sizes, side) for side in range(4))]
        stem, first = self.project
        read = zip(*(sample_regions(source, images, asked) for source in maps), strict=True)
        context, *sides = (relu(stem(fine) + first(coarse)) for fine, coarse in read)
        context = relu(self.context(context)).flatten(1)
        state = relu(self.join(torch.cat([context, queries, sizes.clamp(min=1e-4).log()], dim=1)))
        scales, shifts = self.film(state).view(-1, 4, 2, self.width, 1, 1).unbind(2)
        strips = []
        for side, (strip, project) in enumerate(zip(sides, self.sides, strict=True)):
            strip = strip if side % 2 == 0 else strip.transpose(2, 3)
            strip = strip if side < 2 else strip.flip(3)
            strips.append(relu((project(strip) + self.place) * (1 + scales[:, side]) + shifts[:, side]))
        joint = torch.stack(strips, dim=1).flatten(0, 1)
        for layer in self.strips:
            joint = joint + relu(layer(joint))
        profile = torch.cat([(joint * self.attention(joint).softmax(2)).sum(2), joint.amax(2)], dim=1)
        logits = self.out(relu(self.across(profile)))[:, 0] - self.columns**2 / (2 * _SPREAD**2)
        inwards = (logits.softmax(1) * self.columns).sum(1).view(-1, 4)
        moves = inwards * inwards.new_tensor([1.0, 1.0, -1.0, -1.0]) * sizes.repeat(1, 2)
        return Refined(boxes + moves, logits.view(-1, 4, COLUMNS))


def refiner_of(model: nn.Module) -> BoxRefiner | None:
    """Return a detector's refiner, or None where it has none."""
    return cast(BoxRefiner | None, getattr(model, "box_refiner", None))


def fine_channels(backbone: nn.Module) -> tuple[int, int]:
    """Return the channels of the two maps that `read_maps` gives.

    Raises:
        ValueError: The backbone is no ResNet of transformers.
    """
    if not isinstance(backbone, ResNetBackbone):
        raise ValueError(f"a box refiner reads the first maps of a ResNet; this backbone is {type(backbone).__name__}")
    stem, first, *_ = backbone.num_features
    return stem, first


def read_maps(backbone: ResNetBackbone, pixel_values: Tensor) -> tuple[tuple[Tensor, Tensor], list[Tensor]]:
    """Run a ResNet and return its first two maps, of strides 2 and 4, and those that the detector reads."""
    stem = backbone.embedder.embedder(pixel_values)
    states = backbone.encoder(backbone.embedder.pooler(stem), output_hidden_states=True).hidden_states
    used = [state for name, state in zip(backbone.stage_names, states, strict=True) if name in backbone.out_features]
    return (stem, states[1]), used


def read_fine_maps(backbone: ResNetBackbone, pixel_values: Tensor) -> tuple[Tensor, Tensor]:
    """Return the first two of a ResNet's maps alone, as `read_maps` gives them."""
    stem = backbone.embedder.embedder(pixel_values)
    return stem, backbone.encoder.stages[0](backbone.embedder.pooler(stem))


def refine_boxes(
    refiner: BoxRefiner, maps: tuple[Tensor, Tensor], logits: Tensor, boxes: Tensor, queries: Tensor
) -> Tensor:
    """Refine those of a batch's boxes that are likely enough.

    Args:
        refiner: The detector's.
        maps: Of F images; row r of the others belongs to image r modulo F.
        logits: (B, Q, T), -inf on text padding.
        boxes: (B, Q, 4), cx cy w h relative to the image.
        queries: (B, Q, d), the decoder's last, normalised.

    Returns:
        (B, Q, 4), cx cy w h; a refined box ends at the image's border.
    """
    likely = logits.amax(-1).sigmoid() >= REFINED_FROM
    images = likely.nonzero()[:, 0] % len(maps[0])
    corners = box_convert(boxes[likely], "cxcywh", "xyxy")
    refined = refiner(maps, images, corners, queries[likely]).boxes.clamp(0, 1)
    result = boxes.clone()
    result[likely] = box_convert(refined, "xyxy", "cxcywh").to(boxes.dtype)
    return result


def write_refiner(folder: Path, refiner: BoxRefiner, weights: torch.dtype = torch.float32) -> dict[str, Any]:
    """Write the weights into a detector's folder; return what its settings must say for `read_refiner`."""
    state = {name: value.detach().cpu().to(weights).contiguous() for name, value in refiner.state_dict().items()}
    save_file(state, folder / REFINER_FILE)
    return {"channels": list(refiner.channels), "queries": refiner.queries, "width": refiner.width}


def read_refiner(folder: Path, settings: dict[str, Any]) -> BoxRefiner:
    """Read the weights of a detector's folder.

    Raises:
        FileNotFoundError: The folder's settings tell of a refiner but it has no weights.
        ValueError: They do not fit the settings.
    """
    file = folder / REFINER_FILE
    if not file.is_file():
        raise FileNotFoundError(f"{folder} holds no {REFINER_FILE}, which its groundlabel.json tells of")
    try:
        refiner = BoxRefiner(tuple(settings["channels"]), settings["queries"], settings["width"])
        refiner.load_state_dict({name: value.float() for name, value in load_file(file).items()})
    except (KeyError, TypeError, RuntimeError, SafetensorError) as error:
        raise ValueError(f"{file} does not fit the box_refiner of groundlabel.json: {error}") from error
    return refiner


def _strip(boxes: Tensor, sizes: Tensor, side: int) -> Regions:
    """Return the N regions along a side: 0 left, 1 top, 2 right, 3 bottom."""
    axis = side % 2
    corners = torch.cat([boxes[:, :2] - _OVERHANG * sizes, boxes[:, 2:] + _OVERHANG * sizes], dim=1)
    reach = REACH * sizes[:, axis]
    corners[:, axis] = boxes[:, side] - reach
    corners[:, axis + 2] = boxes[:, side] + reach
    return Regions(corners, *((ROWS, COLUMNS) if axis == 0 else (COLUMNS, ROWS)))
