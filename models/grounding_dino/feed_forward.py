"""The feed-forward part of a layer, a block of tokens at a time, so that their wide form stays small."""

from typing import TypeAlias

import torch
from torch import Tensor
from transformers.models.grounding_dino.modeling_grounding_dino import (
    GroundingDinoDecoderLayer,
    GroundingDinoDeformableLayer,
)

Layer: TypeAlias = GroundingDinoDeformableLayer | GroundingDinoDecoderLayer

_BLOCK = 512
"""Tokens at a time on a CPU: their wide form, 4 MB with 2,048 dimensions, is memory that the next block uses again."""


def widen_and_narrow(layer: Layer, hidden: Tensor) -> Tensor:
    """Apply a layer's two linear maps with its activation between them, as in evaluation mode.

    Args:
        layer: The module whose weights are used.
        hidden: (B, S, d).

    Returns:
        (B, S, d), without what is added to it; it carries no gradient.
    """
    if hidden.device.type != "cpu":
        narrow: Tensor = layer.fc2(layer.activation_fn(layer.fc1(hidden)))
        return narrow
    output = torch.empty_like(hidden, memory_format=torch.contiguous_format)
    tokens, rows = hidden.reshape(-1, hidden.shape[-1]), output.view(-1, hidden.shape[-1])
    for start in range(0, len(tokens), _BLOCK):
        block = slice(start, start + _BLOCK)
        rows[block] = layer.fc2(layer.activation_fn(layer.fc1(tokens[block])))
    return output
