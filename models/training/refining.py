"""Training of the box refiner: which boxes it sees, and its loss.

It sees, for each object, the box of the query that finds it, as in use, and copies of the true box with noise, which
are exact more often than the detector's. It trains the backbone's first maps along, nothing else of the detector.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import log_softmax
from torchvision.ops import box_convert, box_iou, generalized_box_iou_loss

from models.grounding_dino.box_refiner import COLUMNS, REACH, BoxRefiner, Refined, columns_of_moves
from models.training.matcher import Target

FOUND_IOU = 0.35
"""Least overlap of an object and the query that finds it."""
NOISES = (0.025, 0.06)
"""Scales of the noise of each copy's sides, in widths and heights."""
_MOST_NOISE = 5.0
_LEAST_SIDE = 0.015


@dataclass(frozen=True, eq=False)
class RefinerSamples:
    """N boxes to refine and what they should become.

    Attributes:
        images: (N,) int64, the image of each.
        boxes: (N, 4), x1 y1 x2 y2 relative to the image.
        queries: (N, d), without gradient.
        truth: (N, 4), as `boxes`.
    """

    images: Tensor
    boxes: Tensor
    queries: Tensor
    truth: Tensor


@dataclass(frozen=True, eq=False)
class RefinerOutput:
    """The samples and what the refiner said of them."""

    samples: RefinerSamples
    refined: Refined


def find_samples(logits: Tensor, boxes: Tensor, queries: Tensor, targets: Sequence[Target]) -> RefinerSamples:
    """Choose the boxes that find a batch's objects; an image of which nothing is found has none.

    Args:
        logits: (B, Q, T), the decoder's last.
        boxes: (B, Q, 4), cx cy w h relative to the image.
        queries: (B, Q, d), normalised.
        targets: One an image.
    """
    parts = [
        _of_image(index, logits[index], boxes[index], queries[index], target) for index, target in enumerate(targets)
    ]
    return RefinerSamples(*(torch.cat(column).detach() for column in zip(*parts, strict=True)))


def _of_image(
    index: int, logits: Tensor, boxes: Tensor, queries: Tensor, target: Target
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    truth = box_convert(target.boxes, "cxcywh", "xyxy")
    corners = box_convert(boxes.float(), "cxcywh", "xyxy")
    tokens = target.token_map
    likely = logits.float().sigmoid() @ tokens.T / tokens.sum(1)
    best = likely.masked_fill(box_iou(corners, truth) < FOUND_IOU, -1).max(0)
    found = best.values > 0
    chosen = best.indices[found]
    places = torch.full((len(chosen),), index, dtype=torch.long, device=truth.device)
    return places, corners[chosen], queries[chosen], truth[found]


def add_noisy_copies(samples: RefinerSamples, generator: torch.Generator) -> RefinerSamples:
    """Return the samples and, of each true box, copies with noise that `generator` draws, on the CPU."""
    noisy = [_add_noise(samples.truth, scale, generator) for scale in NOISES]
    copies = 1 + len(noisy)
    return RefinerSamples(
        samples.images.repeat(copies),
        torch.cat([samples.boxes, *noisy]),
        samples.queries.repeat(copies, 1),
        samples.truth.repeat(copies, 1),
    )


def _add_noise(truth: Tensor, scale: float, generator: torch.Generator) -> Tensor:
    """Move the sides of (N, 4) boxes; the noise has the long tails of Student's t with three degrees of freedom."""
    normal = torch.randn((4, len(truth), 4), generator=generator)
    noise = (normal[0] / normal[1:].square().mean(0).sqrt()).clamp(-_MOST_NOISE, _MOST_NOISE).to(truth.device)
    noisy = truth + scale * noise * (truth[:, 2:] - truth[:, :2]).repeat(1, 2)
    return torch.cat([noisy[:, :2], torch.maximum(noisy[:, 2:], noisy[:, :2] + _LEAST_SIDE)], dim=1)


def refine_samples(refiner: BoxRefiner, fine: tuple[Tensor, Tensor], samples: RefinerSamples) -> RefinerOutput:
    """Run the refiner on samples; the backbone's first maps get a gradient, queries and boxes none."""
    return RefinerOutput(samples, refiner(fine, samples.images, samples.boxes, samples.queries))


def refiner_losses(output: RefinerOutput) -> dict[str, Tensor]:
    """Return the refiner's loss terms, each a weight times a mean over the samples, 0 without any.

    `giou_refined` and `l1_refined` (weight 2) compare the boxes, the latter in sides of the true box; `sides_refined`
    (weight .25) is the cross-entropy of the two columns that a side lies between, for sides within reach.

    Source: Li et al. 2020, "Generalized Focal Loss", equation 6, for the last.
    """
    samples, refined = output.samples, output.refined
    count = max(len(samples.boxes), 1)
    sides = (samples.truth[:, 2:] - samples.truth[:, :2]).clamp(min=1e-3).repeat(1, 2)
    boxes = refined.boxes.float()
    giou = generalized_box_iou_loss(boxes, samples.truth, reduction="sum")
    l1 = ((boxes - samples.truth).abs() / sides).mean(1).sum()
    start = (samples.boxes[:, 2:] - samples.boxes[:, :2]).repeat(1, 2)
    inwards = (samples.truth - samples.boxes) / start * start.new_tensor([1.0, 1.0, -1.0, -1.0])
    place = columns_of_moves(inwards).clamp(0, COLUMNS - 1.001)
    before = place.long()
    share = place - before
    likely = log_softmax(refined.logits.float(), dim=-1)
    below, above = (likely.gather(2, column[..., None])[..., 0] for column in (before, before + 1))
    entropy = -((1 - share) * below + share * above)
    entropy = (entropy * (inwards.abs() < REACH)).mean(1).sum()
    return {
        "giou_refined": 2 * giou / count,
        "l1_refined": 2 * l1 / count,
        "sides_refined": 0.25 * entropy / count,
    }
