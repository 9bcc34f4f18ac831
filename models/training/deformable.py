"""Deformable attention for training on a CPU: weighted sums of rows, forward and backward.

As `models.grounding_dino.deformable`, with gradient. A query's output is a sum of 4 × levels × points rows; its
gradient goes back to the rows by the transposed sparse matrix of the weights, and to the weights by products of rows.

Source: Zhu et al. 2021 (Deformable DETR), equation 3; transformers, GroundingDinoMultiscaleDeformableAttention.
"""

import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from scipy.sparse import csr_matrix
from torch import Tensor, nn
from torch.nn.functional import embedding_bag, linear
from transformers.models.grounding_dino.modeling_grounding_dino import GroundingDinoMultiscaleDeformableAttention
from transformers.models.mm_grounding_dino.modeling_mm_grounding_dino import (
    MMGroundingDinoMultiscaleDeformableAttention,
)

from models.grounding_dino.deformable import find_corners, rim_levels, sample_levels


@dataclass(frozen=True, eq=False)
class _Grid:
    """Where the K samples of each of H heads lie, which is the same for all queries.

    Attributes:
        widths: (H, K) float, of a sample's level, in its pixels.
        heights: Likewise.
        firsts: Likewise, which of the rimmed tokens is the first inside the rim of the level.
        own: (B, 1, H, 1) int32, the row of each image's and head's part of the image's first token.
    """

    widths: Tensor
    heights: Tensor
    firsts: Tensor
    own: Tensor


class _SumSamples(torch.autograd.Function):
    """Sums of bilinear samples with shares: rows (R, c), and x, y and shares (B, Q, H, K), give (B, Q, H × c)."""

    @staticmethod
    def forward(context: Any, rows: Tensor, x: Tensor, y: Tensor, shares: Tensor, grid: _Grid) -> Tensor:
        x = torch.minimum(x.clamp(min=-1.0), grid.widths)
        y = torch.minimum(y.clamp(min=-1.0), grid.heights)
        places, weights = find_corners(x, y, shares, grid.widths, grid.firsts, x.shape[2], grid.own)
        context.save_for_backward(rows, x, y, shares, places, weights)
        context.grid = grid
        bags = (-1, places.shape[-1])
        summed = embedding_bag(places.view(bags), rows, mode="sum", per_sample_weights=weights.view(bags))
        return summed.view(*x.shape[:2], -1)

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, None]:
        rows, x, y, shares, places, weights = context.saved_tensors
        grid: _Grid = context.grid
        gradient = gradients[0].reshape(len(x), -1, rows.shape[1])
        to_rows = _spread(rows, places.flatten(1, 2), weights.flatten(1, 2), gradient)
        to_weights = _row_products(rows, places.view(-1, places.shape[-1]), gradient.flatten(0, 1))
        upper_left, upper_right, lower_left, lower_right = to_weights.view(*x.shape[:3], 4, -1).unbind(3)
        from_left, from_top = x - x.floor(), y - y.floor()
        upper_step, lower_step = upper_right - upper_left, lower_right - lower_left
        upper = torch.addcmul(upper_left, from_left, upper_step)
        down = torch.addcmul(lower_left, from_left, lower_step).sub_(upper)
        to_x = torch.addcmul(upper_step, from_top, lower_step.sub_(upper_step)).mul_(shares)
        to_y = down * shares
        to_shares = upper.addcmul_(from_top, down)
        to_x.mul_((x > -1) & (x < grid.widths))
        to_y.mul_((y > -1) & (y < grid.heights))
        return to_rows, to_x, to_y, to_shares, None


def _spread(rows: Tensor, places: Tensor, weights: Tensor, gradient: Tensor) -> Tensor:
    """Give rows the weighted gradients of the sums that they are in, an image a thread at a time.

    Args:
        rows: (R, c), as many of each image.
        places: (B, N, K) int32, of all rows those of an image's sums.
        weights: (B, N, K).
        gradient: (B, N, c), of the sums.

    Returns:
        (R, c).
    """
    images, sums, each = places.shape
    count = len(rows) // images
    starts = np.arange(0, sums * each + 1, each, dtype=np.int32)
    result = torch.empty_like(rows)

    def spread(image: int) -> None:
        own = (places[image] - image * count).numpy().ravel()
        matrix = csr_matrix((weights[image].numpy().ravel(), own, starts), shape=(sums, count))
        result[image * count : (image + 1) * count] = torch.from_numpy(matrix.T @ gradient[image].numpy())

    with ThreadPoolExecutor(torch.get_num_threads()) as threads:
        list(threads.map(spread, range(images)))
    return result


def _row_products(rows: Tensor, places: Tensor, gradient: Tensor) -> Tensor:
    """Return (N, K): the products of each sum's gradient, (N, c), with its rows at (N, K) int32 places."""
    count, each = places.shape
    starts = torch.arange(0, count * each + 1, each, dtype=torch.int32)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Sparse CSR tensor support is in beta", UserWarning)
        pattern = torch.sparse_csr_tensor(
            starts, places.flatten(), rows.new_zeros(count * each), (count, len(rows)), check_invariants=False
        )
        products = torch.sparse.sampled_addmm(pattern, gradient, rows.T, beta=0.0)
    return cast(Tensor, products.values()).view(count, each)


def _read(
    attention: GroundingDinoMultiscaleDeformableAttention,
    asking: Tensor,
    value: Tensor,
    references: Tensor,
    level_hw: list[tuple[int, int]],
) -> Tensor:
    """Read around references on each level; outside of a level is zero.

    Args:
        attention: The module whose weights are used.
        asking: (B, Q, d), what offsets and attention weights come from.
        value: (B, S, d), the levels' tokens joined, S the sum of the levels' areas.
        references: (B, Q, L, 2), x and y relative to the image, or (B, Q, L, 4), boxes cx cy w h.
        level_hw: (height, width) of each of L levels.

    Returns:
        (B, Q, d), before the module's last projection.
    """
    heads, points = attention.n_heads, attention.n_points
    rows = rim_levels(value, level_hw)
    heights, widths, firsts = sample_levels(level_hw, heads, points, asking)
    image = torch.arange(len(rows), dtype=torch.int32)[:, None] * (rows.shape[1] * heads)
    own = image + torch.arange(heads, dtype=torch.int32)
    grid = _Grid(widths, heights, firsts, own[:, None, :, None])
    samples = (*asking.shape[:2], heads, -1)
    # The module's offsets are (x, y) pairs; taken apart by their weights, each comes out contiguous.
    weight, bias = attention.sampling_offsets.weight, attention.sampling_offsets.bias
    x, y = (
        _places(linear(asking, weight[axis::2], bias[axis::2]).view(samples), references, axis, sides, points)
        for axis, sides in enumerate(asking.new_tensor(level_hw).flip(1).unbind(1))
    )
    shares = attention.attention_weights(asking).view(samples).softmax(-1)
    dims = rows.shape[2] // heads
    return cast(Tensor, _SumSamples.apply(rows.view(-1, dims), x, y, shares, grid))


def _places(offsets: Tensor, references: Tensor, axis: int, sides: Tensor, points: int) -> Tensor:
    """Return where samples lie along an axis, (B, Q, H, K), in pixels of their levels, 0 in the middle of the first."""
    middles = (references[..., axis] * sides - 0.5).repeat_interleave(points, -1)[:, :, None]
    if references.shape[-1] == 2:
        return offsets + middles
    reach = (references[..., axis + 2] * sides * (0.5 / points)).repeat_interleave(points, -1)[:, :, None]
    return torch.addcmul(middles, offsets, reach)


class _SummedRows(nn.Module):
    """transformers' deformable attention, which on a CPU computes so in float32."""

    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        *,
        encoder_hidden_states: Tensor,
        reference_points: Tensor,
        spatial_shapes_list: list[tuple[int, int]],
        position_embeddings: Tensor | None = None,
        **others: Any,
    ) -> tuple[Tensor, Tensor | None]:
        """Attend as the module does; see `_read`. On a CPU None comes in place of the attention's weights."""
        own = cast(GroundingDinoMultiscaleDeformableAttention, self)
        device, parts = hidden_states.device.type, (hidden_states, encoder_hidden_states, reference_points)
        in_16_bits = torch.is_autocast_enabled(device) or any(part.dtype != torch.float32 for part in parts)
        if device != "cpu" or in_16_bits:
            attended: tuple[Tensor, Tensor] = super().forward(
                hidden_states,
                attention_mask,
                encoder_hidden_states=encoder_hidden_states,
                reference_points=reference_points,
                spatial_shapes_list=spatial_shapes_list,
                position_embeddings=position_embeddings,
                **others,
            )
            return attended
        value = own.value_proj(encoder_hidden_states)
        if attention_mask is not None and not attention_mask.all():
            value = value.masked_fill(~attention_mask[..., None], 0.0)
        asking = hidden_states if position_embeddings is None else hidden_states + position_embeddings
        return own.output_proj(_read(own, asking, value, reference_points, spatial_shapes_list)), None


class _SummedRowsGrounding(_SummedRows, GroundingDinoMultiscaleDeformableAttention):  # type: ignore[misc]
    pass


class _SummedRowsMMGrounding(_SummedRows, MMGroundingDinoMultiscaleDeformableAttention):  # type: ignore[misc]
    pass


SUMMED_ROWS: dict[type[nn.Module], type[nn.Module]] = {
    GroundingDinoMultiscaleDeformableAttention: _SummedRowsGrounding,
    MMGroundingDinoMultiscaleDeformableAttention: _SummedRowsMMGrounding,
}
"""What takes the place of transformers' deformable attention in training; weights and their names stay."""
