"""Deformable attention for training on a CPU: weighted sums of rows, forward and backward.

As `models.grounding_dino.deformable`, with gradient. A query's output is a sum of 4 × levels × points rows; its
gradient goes back to the rows by the transposed sparse matrix of the weights, and to the weights by products of rows.

Source: Zhu et al. 2021 (Deformable DETR), equation 3; transformers, MultiScaleDeformableAttention.
"""

from typing import Any

import numpy as np
import torch
from scipy.sparse import csr_matrix
from torch import Tensor, nn
from torch.nn.functional import embedding_bag
from transformers.models.grounding_dino.modeling_grounding_dino import MultiScaleDeformableAttention
from transformers.models.mm_grounding_dino.modeling_mm_grounding_dino import (
    MultiScaleDeformableAttention as MMMultiScaleDeformableAttention,
)

from models.grounding_dino.deformable import find_corners, first_places, rim_levels


class _SumRows(torch.autograd.Function):
    """Sums of rows with weights: (R, c), (N, K) int32 places and (N, K) weights give (N, c)."""

    @staticmethod
    def forward(context: Any, rows: Tensor, places: Tensor, weights: Tensor) -> Tensor:
        context.save_for_backward(rows, places, weights)
        return embedding_bag(places, rows, mode="sum", per_sample_weights=weights)

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor, None, Tensor]:
        rows, places, weights = context.saved_tensors
        gradient = gradients[0].contiguous()
        count, each = places.shape
        starts = np.arange(0, count * each + 1, each, dtype=np.int32)
        matrix = csr_matrix((weights.numpy().ravel(), places.numpy().ravel(), starts), shape=(count, len(rows)))
        to_rows = torch.from_numpy(matrix.T @ gradient.numpy())
        with torch.enable_grad():
            leaf = weights.detach().requires_grad_(True)
            summed = embedding_bag(places, rows.detach(), mode="sum", per_sample_weights=leaf)
        (to_weights,) = torch.autograd.grad(summed, leaf, gradient)
        return to_rows, None, to_weights


def sample_levels(value: Tensor, level_hw: list[tuple[int, int]], locations: Tensor, weights: Tensor) -> Tensor:
    """Sum bilinear samples of the levels with weights; outside of a level is zero.

    Args:
        value: (B, S, H, c) on the CPU, the levels' tokens joined, for H heads.
        level_hw: (height, width) of each of L levels; their products sum to S.
        locations: (B, Q, H, L, P, 2), x and y relative to the level, 0 to 1 inside.
        weights: (B, Q, H, L, P).

    Returns:
        (B, Q, H × c), with gradient to value, locations and weights.
    """
    count, _, heads, dims = value.shape
    rows = rim_levels(value.flatten(2), level_hw)
    heights, widths = (side[:, None] for side in locations.new_tensor(level_hw).unbind(1))
    x = torch.minimum((locations[..., 0] * widths - 0.5).clamp(min=-1.0), widths)
    y = torch.minimum((locations[..., 1] * heights - 0.5).clamp(min=-1.0), heights)
    image = torch.arange(count, dtype=torch.int32)[:, None, None, None, None] * (rows.shape[1] * heads)
    own = image + torch.arange(heads, dtype=torch.int32)[:, None, None]
    places, corners = find_corners(x, y, weights, widths, first_places(level_hw, locations)[:, None], heads, own)
    bags = (locations.shape[0] * locations.shape[1] * heads, -1)
    summed: Tensor = _SumRows.apply(rows.reshape(-1, dims), places.view(bags), corners.view(bags))
    return summed.view(*locations.shape[:2], heads * dims)


class _SummedRows(MultiScaleDeformableAttention):
    """transformers' sampling module, which on a CPU computes so in float32."""

    def forward(
        self,
        value: Tensor,
        value_spatial_shapes: Tensor,
        value_spatial_shapes_list: list[tuple[int, int]],
        level_start_index: Tensor,
        sampling_locations: Tensor,
        attention_weights: Tensor,
        im2col_step: int,
    ) -> Tensor:
        """Sample as the module does; see `sample_levels`."""
        parts = (value, sampling_locations, attention_weights)
        if all(part.device.type == "cpu" and part.dtype == torch.float32 for part in parts):
            return sample_levels(value, value_spatial_shapes_list, sampling_locations, attention_weights)
        sampled: Tensor = super().forward(
            value,
            value_spatial_shapes,
            value_spatial_shapes_list,
            level_start_index,
            sampling_locations,
            attention_weights,
            im2col_step,
        )
        return sampled


SAMPLERS: dict[type[nn.Module], type[nn.Module]] = {
    MultiScaleDeformableAttention: _SummedRows,
    MMMultiScaleDeformableAttention: _SummedRows,
}
"""What takes the place of transformers' sampling modules in training; they have no weights."""
