"""Denoising queries: ground-truth boxes and names with noise, which the decoder learns to restore or to reject.

Source: Zhang et al. 2022 (DINO), section 3.3 (contrastive denoising); Li et al. 2022 (DN-DETR) for the plain form.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from models.training.matcher import Target


@dataclass(frozen=True)
class DenoisingConfig:
    """How denoising queries are made.

    Attributes:
        queries: About how many positive queries an image has, over all groups; 0 switches denoising off.
        max_groups: Most groups, for images with few boxes.
        label_noise: Share of positive queries whose name becomes another prompt of the image.
        box_noise: λ1; a positive's corner moves at most this share of half a side, a negative's λ1 to λ2 = 2 λ1.
        contrastive: Add the negatives (DINO); False is DN-DETR's plain denoising.

    Raises:
        ValueError: A number is out of range.
    """

    queries: int = 40
    max_groups: int = 5
    label_noise: float = 0.25
    box_noise: float = 0.5
    contrastive: bool = True

    def __post_init__(self) -> None:
        if self.queries < 0 or self.max_groups < 1 or not 0 <= self.label_noise <= 1 or self.box_noise <= 0:
            raise ValueError(f"denoising out of range: {self}")


@dataclass(frozen=True, eq=False)
class Denoising:
    """The denoising queries of a batch, D an image (groups x polarities x most boxes of an image).

    Attributes:
        groups: How many groups.
        references: (B, D, 4) noised boxes, cx cy w h in [0, 1].
        prompts: (B, D, T) float, the tokens of the (noised) name; rows sum to 1, or 0 on filler.
        boxes: (B, D, 4), the true boxes.
        token_map: (B, D, T) float, what the query should predict: its tokens for positives, 0 for negatives.
        positive: (B, D) bool, queries that restore a box.
        real: (B, D) bool, False on filler of images with fewer boxes.
    """

    groups: int
    references: Tensor
    prompts: Tensor
    boxes: Tensor
    token_map: Tensor
    positive: Tensor
    real: Tensor


def make_denoising(
    targets: Sequence[Target],
    span_maps: Sequence[Tensor],
    config: DenoisingConfig,
    generator: torch.Generator,
) -> Denoising | None:
    """Draw noised copies of a batch's ground truth.

    Args:
        targets: One an image.
        span_maps: (P, T) float an image: the tokens of each of its prompts, for label noise.
        config: Amounts of noise.
        generator: Source of chance, on the CPU.

    Returns:
        The queries, or None where denoising is off or the batch has no box.
    """
    most = max((len(target.boxes) for target in targets), default=0)
    if config.queries == 0 or most == 0:
        return None
    device = targets[0].boxes.device
    groups = min(max(config.queries // most, 1), config.max_groups)
    polarities = 2 if config.contrastive else 1
    shape = (len(targets), groups, polarities, most)
    boxes = torch.zeros(*shape, 4, device=device)
    prompts = torch.zeros(*shape, span_maps[0].shape[-1], device=device)
    token_map = torch.zeros_like(prompts)
    real = torch.zeros(shape, dtype=torch.bool, device=device)
    for image, (target, spans) in enumerate(zip(targets, span_maps, strict=True)):
        count = len(target.boxes)
        if count == 0:
            continue
        boxes[image, ..., :count, :] = target.boxes
        token_map[image, :, 0, :count] = target.token_map
        real[image, ..., :count] = True
        names = target.token_map.expand(groups, polarities, -1, -1)
        other = torch.randint(len(spans), (groups, polarities, count), generator=generator).to(device)
        flip = (torch.rand((groups, polarities, count), generator=generator) < config.label_noise).to(device)
        prompts[image, ..., :count, :] = torch.where(flip[..., None], spans[other], names)
    prompts = prompts / prompts.sum(-1, keepdim=True).clamp(min=1)
    positive = real.clone()
    positive[:, :, 1:] = False
    references = _noised(boxes, config.box_noise, generator)
    flat = [tensor.flatten(1, 3) for tensor in (references, prompts, boxes, token_map, positive, real)]
    return Denoising(groups, *flat)


def _noised(boxes: Tensor, scale: float, generator: torch.Generator) -> Tensor:
    """Move the corners of (B, G, polarity, N, 4) boxes: polarity 0 within λ1, polarity 1 between λ1 and 2 λ1."""
    half = boxes[..., 2:] / 2
    corners = torch.cat([boxes[..., :2] - half, boxes[..., :2] + half], dim=-1)
    amount = torch.rand(boxes.shape, generator=generator)
    amount[:, :, 1:] += 1
    sign = torch.randint(0, 2, boxes.shape, generator=generator) * 2 - 1
    moved = corners + (amount * sign).to(boxes) * torch.cat([half, half], dim=-1) * scale
    moved = moved.clamp(0, 1)
    low, high = torch.minimum(moved[..., :2], moved[..., 2:]), torch.maximum(moved[..., :2], moved[..., 2:])
    return torch.cat([(low + high) / 2, (high - low).clamp(min=1e-3)], dim=-1)


def attention_blocked(denoising: Denoising, matching_queries: int) -> Tensor:
    """Say which decoder queries must not see which.

    A group sees itself and the matching queries; matching queries see no denoising query, or they would see the truth.

    Returns:
        (D + Q, D + Q) bool, True where the row's query must not see the column's; denoising queries come first.

    Source: Zhang et al. 2022 (DINO), figure 3.
    """
    total = denoising.references.shape[1]
    size = total // denoising.groups
    group = torch.arange(total, device=denoising.references.device) // size
    blocked = torch.zeros(
        (total + matching_queries, total + matching_queries), dtype=torch.bool, device=denoising.references.device
    )
    blocked[:total, :total] = group[:, None] != group[None, :]
    blocked[total:, :total] = True
    return blocked
