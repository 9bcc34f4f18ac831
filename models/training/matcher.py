"""Hungarian matching of queries to ground truth, for all layers of a step at once.

Source: Carion et al. 2020 (DETR), section 3.1; costs 2, 5, 2 as in Liu et al. 2023 (Grounding DINO), section 4.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torchvision.ops import box_convert, generalized_box_iou


@dataclass(frozen=True, eq=False)
class Target:
    """The ground truth of one image.

    Attributes:
        boxes: (N, 4) float, cx cy w h relative to the image; N may be 0.
        token_map: (N, T) float, 1 on the text tokens that name the box, 0 elsewhere; each row has a 1.
    """

    boxes: Tensor
    token_map: Tensor


@dataclass(frozen=True)
class MatchCosts:
    """Weights of the matching cost: focal class cost, L1 and GIoU of the boxes."""

    focal: float = 2.0
    l1: float = 5.0
    giou: float = 2.0


def token_costs(logits: Tensor, alpha: float = 0.25, gamma: float = 2.0) -> Tensor:
    """Return what calling a token positive would cost more than calling it negative.

    Args:
        logits: (..., T), -inf where a token counts for nothing.
        alpha: Weight of positives in the focal loss.
        gamma: Focusing exponent.

    Returns:
        (..., T) float, 0 where the logit is -inf.

    Source: Zhu et al. 2021 (Deformable DETR), the focal matching cost.
    """
    probability = logits.sigmoid()
    positive = alpha * (1 - probability) ** gamma * -(probability + 1e-8).log()
    negative = (1 - alpha) * probability**gamma * -(1 - probability + 1e-8).log()
    return (positive - negative).masked_fill(logits == -torch.inf, 0.0)


def pairwise_giou(boxes: Tensor, others: Tensor) -> Tensor:
    """Return the generalised IoU of cx cy w h boxes, (N, M) for (N, 4) and (M, 4)."""
    giou: Tensor = generalized_box_iou(box_convert(boxes, "cxcywh", "xyxy"), box_convert(others, "cxcywh", "xyxy"))
    return giou


@torch.no_grad()
def match(
    logits: Tensor, boxes: Tensor, targets: Sequence[Target], costs: MatchCosts = MatchCosts()
) -> list[list[tuple[Tensor, Tensor]]]:
    """Assign each target to one query, at the least total cost, for each layer and image.

    Args:
        logits: (L, B, Q, T) token logits, -inf on text padding.
        boxes: (L, B, Q, 4), cx cy w h in [0, 1].
        targets: One an image; an image without objects gets an empty assignment.
        costs: Weights of the three costs.

    Returns:
        For each layer, for each image: query indices (N,) and target indices (N,), int64.
    """
    layers = logits.shape[0]
    counts = [len(target.boxes) for target in targets]
    if not any(counts):
        nothing = torch.zeros(0, dtype=torch.long, device=logits.device)
        return [[(nothing, nothing) for _ in targets] for _ in range(layers)]
    focal = token_costs(logits.float())
    all_costs: list[Tensor] = []
    for image, target in enumerate(targets):
        predicted = boxes[:, image].float()
        shares = target.token_map / target.token_map.sum(1, keepdim=True)
        l1 = torch.cdist(predicted, target.boxes.expand(layers, -1, -1), p=1)
        giou = pairwise_giou(predicted.flatten(0, 1), target.boxes).view(layers, boxes.shape[2], counts[image])
        all_costs.append(costs.focal * (focal[:, image] @ shares.T) + costs.l1 * l1 - costs.giou * giou)
    blocks = torch.cat(all_costs, dim=-1).nan_to_num(1e4, 1e4, -1e4).cpu().split(counts, dim=-1)
    pairs = [[linear_sum_assignment(block[layer].numpy()) for block in blocks] for layer in range(layers)]
    return [
        [(torch.as_tensor(q, device=logits.device), torch.as_tensor(t, device=logits.device)) for q, t in row]
        for row in pairs
    ]
