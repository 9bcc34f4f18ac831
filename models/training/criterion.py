"""Grounding DINO's loss: contrastive sigmoid focal loss on text tokens, L1 and GIoU, at every layer.

Source: Liu et al. 2023 (Grounding DINO), section 3.5; Zhang et al. 2022 (DINO), section 3.3 for the denoising part.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import l1_loss
from torchvision.ops import box_convert, generalized_box_iou_loss, sigmoid_focal_loss

from models.grounding_dino.features import Decoded
from models.grounding_dino.query_selection import Selection
from models.training.denoising import Denoising
from models.training.matcher import MatchCosts, Target, match


@dataclass(frozen=True)
class LossWeights:
    """Weights of the loss terms; the defaults are the paper's.

    Attributes:
        focal: Contrastive classification.
        l1: L1 of the boxes, relative to the image.
        giou: GIoU of the boxes.
        encoder: Factor on the encoder's (query selection) losses.
        denoising: Factor on the denoising losses.
        alpha: Weight of positives in the focal loss.
        gamma: Focusing exponent of the focal loss.
    """

    focal: float = 1.0
    l1: float = 5.0
    giou: float = 2.0
    encoder: float = 1.0
    denoising: float = 1.0
    alpha: float = 0.25
    gamma: float = 2.0


def contrastive_focal(logits: Tensor, positive: Tensor, weights: LossWeights) -> Tensor:
    """Sum the focal loss over every token of every query.

    Args:
        logits: (..., T), -inf on text padding, which counts for nothing.
        positive: (..., T) float, 1 where the token names the query's object.
        weights: Gives alpha and gamma.
    """
    real = logits != -torch.inf
    loss: Tensor = sigmoid_focal_loss(logits[real].float(), positive[real], weights.alpha, weights.gamma, "sum")
    return loss


def box_losses(boxes: Tensor, truth: Tensor) -> tuple[Tensor, Tensor]:
    """Sum L1 and GIoU losses of N matched cx cy w h boxes, (N, 4) each; both are 0 at N = 0."""
    l1 = l1_loss(boxes, truth, reduction="sum")
    giou = generalized_box_iou_loss(
        box_convert(boxes, "cxcywh", "xyxy"), box_convert(truth, "cxcywh", "xyxy"), reduction="sum"
    )
    return l1, giou


def _layer_losses(
    logits: Tensor,
    boxes: Tensor,
    targets: Sequence[Target],
    assignment: Sequence[tuple[Tensor, Tensor]],
    normaliser: float,
    weights: LossWeights,
) -> dict[str, Tensor]:
    positive = torch.zeros_like(logits, dtype=torch.float32)
    predicted, truth = [], []
    for image, (queries, chosen) in enumerate(assignment):
        positive[image, queries] = targets[image].token_map[chosen]
        predicted.append(boxes[image, queries])
        truth.append(targets[image].boxes[chosen])
    l1, giou = box_losses(torch.cat(predicted).float(), torch.cat(truth))
    return {
        "focal": weights.focal * contrastive_focal(logits, positive, weights) / normaliser,
        "l1": weights.l1 * l1 / normaliser,
        "giou": weights.giou * giou / normaliser,
    }


def grounding_loss(
    decoded: Decoded,
    selection: Selection | None,
    targets: Sequence[Target],
    denoised: Decoded | None = None,
    denoising: Denoising | None = None,
    weights: LossWeights = LossWeights(),
    costs: MatchCosts = MatchCosts(),
    world_boxes: float | None = None,
) -> dict[str, Tensor]:
    """Compute the loss of a batch.

    Args:
        decoded: The matching queries' predictions, all layers.
        selection: What query selection saw; its chosen boxes are trained too (two-stage loss). None leaves that out.
        targets: One an image; a batch without any object trains the background alone.
        denoised: The denoising queries' predictions, or None without denoising.
        denoising: What they should have predicted.
        weights: Weights of the terms.
        costs: Weights of the matching.
        world_boxes: Boxes of a step divided by the number of processes; None counts this batch's.

    Returns:
        Named terms that sum to the loss: `focal`, `l1`, `giou` of the last layer, with suffixes `_0`, `_1` … of
        earlier layers, `_encoder` and `_denoising`.
    """
    found = float(sum(len(target.boxes) for target in targets)) if world_boxes is None else world_boxes
    normaliser = max(found, 1.0)
    logits, boxes = decoded.logits, decoded.boxes
    if selection is not None:
        logits = torch.cat([logits, selection.chosen_logits()[None]])
        boxes = torch.cat([boxes, selection.boxes_logit.sigmoid()[None]])
    assignments = match(logits, boxes, targets, costs)
    last = len(decoded.logits) - 1
    losses: dict[str, Tensor] = {}
    for layer, assignment in enumerate(assignments):
        suffix = "_encoder" if layer > last else "" if layer == last else f"_{layer}"
        factor = weights.encoder if layer > last else 1.0
        terms = _layer_losses(logits[layer], boxes[layer], targets, assignment, normaliser, weights)
        losses |= {name + suffix: factor * term for name, term in terms.items()}
    if denoised is not None and denoising is not None:
        losses |= _denoising_losses(denoised, denoising, normaliser, weights)
    return losses


def _denoising_losses(
    denoised: Decoded, denoising: Denoising, normaliser: float, weights: LossWeights
) -> dict[str, Tensor]:
    scale = weights.denoising / (normaliser * denoising.groups)
    real = denoising.real[..., None].expand(-1, -1, denoised.logits.shape[-1])
    total: dict[str, Tensor] = {}
    for logits, boxes in zip(denoised.logits, denoised.boxes, strict=True):
        focal = contrastive_focal(logits.masked_fill(~real, -torch.inf), denoising.token_map, weights)
        l1, giou = box_losses(boxes[denoising.positive].float(), denoising.boxes[denoising.positive])
        terms = {"focal": weights.focal * focal, "l1": weights.l1 * l1, "giou": weights.giou * giou}
        for name, term in terms.items():
            key = f"{name}_denoising"
            total[key] = total.get(key, torch.zeros((), device=logits.device)) + scale * term
    return total
