"""A cheap first look at an image: which classes of a large vocabulary are worth a full one.

The look is the encoder's at a smaller size, without the decoder: query selection compares every image token with every
word there, and the best token of a prompt says how likely it is to be in the image. It costs a bit more than half of a
pass, for each pass; what follows is few passes. A class that it misses is lost, so it is used by choice only.
"""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from models.boxes import FloatArray
from models.grounding_dino.features import GroundingModel, ImageFeatures
from models.grounding_dino.forward import enhance
from models.grounding_dino.passes import join_texts
from models.grounding_dino.query_selection import select_queries
from models.grounding_dino.spans import span_scores
from models.grounding_dino.texts import TextPass
from models.precision import Precision

LOOK_SCALE = 0.75
"""Sides of the image that is looked at first, over those of the detector's. At half, small objects are lost."""


def look(
    model: GroundingModel,
    image: ImageFeatures,
    passes: Sequence[TextPass],
    prompts: int,
    precision: Precision = "fp32",
) -> FloatArray:
    """Return how likely each prompt is to be in each image; call it without gradient.

    Args:
        model: A two-stage model.
        image: Features of B images, of a smaller size than the detector's.
        passes: Text passes that hold each prompt that counts.
        prompts: P, how many prompts the ontology has.
        precision: Of the feature enhancer.

    Returns:
        (B, P) float32 in [0, 1]: the score of the image token that is most like the prompt; 0 for prompts of no pass.
    """
    likely = np.zeros((len(image.tokens), prompts), np.float32)
    for text_pass in passes:
        encoded = enhance(model, image, join_texts([text_pass], len(image.tokens)), precision)
        logits = select_queries(model, encoded).logits.float()
        best = torch.stack([span_scores(rows, text_pass.text).amax(0) for rows in logits])
        likely[:, text_pass.prompts] = best.cpu().numpy()
    return likely


def keep_classes(likely: FloatArray, class_ids: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """Choose an image's most likely classes.

    Args:
        likely: (P,) of `look`.
        class_ids: (P,) the class of each prompt; 0 for a negative one.
        count: How many classes.

    Returns:
        The prompts of the chosen classes, ascending. Of equal classes the earlier ones stay.
    """
    return np.flatnonzero((rank_classes(likely, class_ids)[class_ids] <= count) & (class_ids > 0))


def rank_classes(likely: FloatArray, class_ids: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the place of each class among an image's classes, from 1 for the likeliest.

    Args:
        likely: (P,) of `look`.
        class_ids: (P,) the class of each prompt, from 1; 0 for a negative one.

    Returns:
        (C + 1,) int64 by class id; the first stands for no class and comes last. Of equal classes the earlier is first.
    """
    best = np.zeros(int(class_ids.max(initial=0)) + 1, np.float32)
    np.maximum.at(best, class_ids, likely)
    best[0] = -1.0
    ranks = np.empty(len(best), np.int64)
    ranks[np.argsort(-best, kind="stable")] = np.arange(1, len(best) + 1)
    return ranks
