"""Move a detector's scores so that the threshold which users start from is the one at which F1 is best.

Focal loss leaves scores that rank well and mean little. A constant added to all logits keeps every ranking, so every
AP: it only decides at which score most boxes are right and few are missed.
"""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from models.boxes import FloatArray, pairwise_iou
from models.detections import Detections
from models.grounding_dino.features import GroundingModel
from models.training.augment import Labelled

MATCH_IOU = 0.5
_GRID = np.arange(0.1, 0.9, 0.01)
_SMOOTHED = 5
"""F1 is flat around its best; the mean over this many grid points keeps one lucky point from deciding."""
_AS_GOOD = 0.005
"""A loss of F1 that does not count: F1 itself has a standard error of .008 over 1,300 objects."""


def match_scores(truth: Sequence[Labelled], found: Sequence[tuple[Detections, Sequence[str]]]) -> FloatArray:
    """Pair each box with an object of its name, the strongest box first, and each object once.

    Args:
        truth: An image each.
        found: An image each: detections and the name of each.

    Returns:
        (N, 2) float32 over all images: score, and 1 where the box has an IoU of .5 or more with its object, else 0.
    """
    rows = []
    for labelled, (detections, names) in zip(truth, found, strict=True):
        ious = pairwise_iou(detections.boxes_xyxy, labelled.boxes_xyxy)
        ious *= np.array([[name == other for other in labelled.names] for name in names]).reshape(ious.shape)
        for row in np.argsort(-detections.scores, kind="stable"):
            best = int(ious[row].argmax()) if ious.shape[1] else 0
            hit = bool(ious.shape[1]) and bool(ious[row, best] >= MATCH_IOU)
            if hit:
                ious[:, best] = 0
            rows.append((detections.scores[row], hit))
    return np.array(rows, np.float32).reshape(-1, 2)


def best_threshold(scores: NDArray[np.float32], objects: int) -> float:
    """Return the score threshold of the best F1: of those that are as good the strictest, with the fewest false boxes.

    Args:
        scores: (N, 2) of `match_scores`.
        objects: How many objects there are, at least 1.

    Raises:
        ValueError: There is no object or no hit.
    """
    if objects < 1 or not scores[:, 1].any():
        raise ValueError("no box is right: there is no best threshold")
    kept = scores[:, :1] >= _GRID
    f1 = 2 * (kept * scores[:, 1:]).sum(0) / (kept.sum(0) + objects)
    smooth = np.convolve(f1, np.full(_SMOOTHED, 1 / _SMOOTHED), mode="same")
    return float(_GRID[smooth >= smooth.max() - _AS_GOOD].max())


def shift_scores(model: GroundingModel, before: float, after: float) -> None:
    """Change all scores of the decoder, in place, so that one of `before` becomes `after`; both in (0, 1).

    Raises:
        ValueError: The model's heads have no bias, as Grounding DINO's own have none.
    """
    by = torch.logit(torch.tensor(after)) - torch.logit(torch.tensor(before))
    biases = [getattr(head, "bias", None) for head in model.class_embed]
    with torch.no_grad():
        for bias in {id(bias): bias for bias in biases}.values():
            if not isinstance(bias, torch.nn.Parameter):
                raise ValueError("the model's class heads have no bias that could be moved")
            bias.add_(by.to(bias.device))
