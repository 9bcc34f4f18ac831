"""The tiny SAM's loss: dice, cross-entropy a window, and the error of the predicted IoU."""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

BCE_WEIGHT = 0.5


class SegmenterLoss(NamedTuple):
    """Scalars; `iou` is a measure, not a part of the total."""

    total: Tensor
    dice: Tensor
    bce: Tensor
    quality: Tensor
    iou: Tensor


def segmenter_loss(logits: Tensor, quality: Tensor, targets: Tensor) -> SegmenterLoss:
    """Compare masks with the truth inside their windows.

    A window is its box and an eighth more on each side, so that means over it are normalised by the box's area:
    small things weigh as much as large ones.

    Args:
        logits: (N, S, S); N may not be 0.
        quality: (N,) predicted IoU.
        targets: (N, S, S) in [0, 1], the share of each cell that the mask covers.

    Returns:
        The total and its parts, means over N.

    Source: Milletari et al. 2016 (V-Net) for dice; Kirillov et al. 2023 (Segment Anything), A, for the IoU head.
    """
    share = logits.sigmoid()
    overlap = (share * targets).sum(dim=(1, 2))
    dice = 1 - (2 * overlap + 1) / (share.sum(dim=(1, 2)) + targets.sum(dim=(1, 2)) + 1)
    bce = functional.binary_cross_entropy_with_logits(logits, targets, reduction="none").mean(dim=(1, 2))
    with torch.no_grad():
        found, true = logits > 0, targets >= 0.5
        union = (found | true).sum(dim=(1, 2)).clamp(min=1)
        iou = (found & true).sum(dim=(1, 2)) / union
    error = functional.mse_loss(quality, iou)
    total = dice.mean() + BCE_WEIGHT * bce.mean() + error
    return SegmenterLoss(total, dice.mean(), bce.mean(), error, iou.mean())
