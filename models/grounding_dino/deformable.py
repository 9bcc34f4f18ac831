"""Deformable attention to an image: as weighted sums of rows on a CPU, by transformers' sampled grid elsewhere.

On a CPU `grid_sample` walks a map channel by channel. Here the map is kept with its channels last and a rim of zeros
around each level, so that a bilinear sample is a weighted sum of four rows and a query's output one of
4 × levels × points rows: what an embedding bag computes. Up to rounding the result is the grid's.

Source: Zhu et al. 2021 (Deformable DETR), equation 3; transformers, GroundingDinoMultiscaleDeformableAttention.
"""

import torch
from torch import Tensor
from torch.nn import functional
from transformers.models.grounding_dino.modeling_grounding_dino import GroundingDinoMultiscaleDeformableAttention

_QUERIES = 1024
"""Queries at a time, so that their places and weights take megabytes, not gigabytes."""
_BEFORE, _AFTER = 1, 2
"""Zero rows and columns around a level: places are clamped to [-1, side], and a sample reads one further."""


def attend_deformably(
    attention: GroundingDinoMultiscaleDeformableAttention,
    hidden: Tensor,
    positions: Tensor,
    level_hw: list[tuple[int, int]],
) -> Tensor:
    """Let each image token read around its own place on every level.

    Args:
        attention: The module whose weights are used.
        hidden: (B, S, d), the levels' tokens joined, B at least 1.
        positions: (B, S, d), added for offsets and attention weights.
        level_hw: (height, width) of each level; their products sum to S.

    Returns:
        (B, S, d). It carries no gradient.
    """
    centres = torch.stack(_centres(level_hw, hidden)).expand(len(hidden), -1, -1, -1)
    return _read(attention, hidden + positions, hidden, level_hw, centres, None)


def attend_to_boxes(
    attention: GroundingDinoMultiscaleDeformableAttention,
    hidden: Tensor,
    vision: Tensor,
    references: Tensor,
    level_hw: list[tuple[int, int]],
) -> Tensor:
    """Let each query read around its box on every level.

    Args:
        attention: The module whose weights are used.
        hidden: (B, Q, d), the queries with their positions, B at least 1.
        vision: (B, S, d), the levels' tokens joined.
        references: (B, Q, 4), the boxes, cx cy w h relative to the image.
        level_hw: (height, width) of each level; their products sum to S.

    Returns:
        (B, Q, d). It carries no gradient.
    """
    sides_xy = hidden.new_tensor(level_hw).T.flip(0)[:, None]
    middles, sizes = (part.transpose(1, 2)[..., None] for part in references.chunk(2, dim=-1))
    centres = middles * sides_xy - 0.5
    reach = sizes * sides_xy * (0.5 / attention.n_points)
    return _read(attention, hidden, vision, level_hw, centres, reach)


def _read(
    attention: GroundingDinoMultiscaleDeformableAttention,
    asking: Tensor,
    vision: Tensor,
    level_hw: list[tuple[int, int]],
    centres: Tensor,
    reach: Tensor | None,
) -> Tensor:
    """Read around a centre on each level.

    Args:
        attention: The module whose weights are used.
        asking: (B, Q, d), what offsets and attention weights come from.
        vision: (B, S, d), the levels' tokens joined.
        level_hw: (height, width) of each level; their products sum to S.
        centres: (B, 2, Q, L), x and y in a level's pixels, 0 in the middle of the first one.
        reach: Likewise, the length of an offset of 1 in pixels; None is 1.

    Returns:
        (B, Q, d).
    """
    count, length, dims = asking.shape
    heads, levels, points = attention.n_heads, attention.n_levels, attention.n_points
    rows = rim_levels(attention.value_proj(vision), level_hw)
    head_rows = rows.view(-1, dims // heads)
    # The module's offsets are (x, y) pairs; taken apart by their weights, each comes out contiguous.
    weight, bias = attention.sampling_offsets.weight, attention.sampling_offsets.bias
    samples = (heads, levels * points)
    heights, widths, firsts = sample_levels(level_hw, heads, points, asking)
    head = torch.arange(heads, dtype=torch.int32, device=asking.device)[:, None].expand(samples)
    output = torch.empty_like(asking)
    for image in range(count):
        own = head + image * rows.shape[1] * heads
        for start in range(0, length, _QUERIES):
            block = slice(start, start + _QUERIES)
            part = asking[image, block]
            shares = attention.attention_weights(part).view(-1, *samples).softmax(-1)
            places_xy = []
            for axis, most in enumerate((widths, heights)):
                offsets = functional.linear(part, weight[axis::2], bias[axis::2]).view(-1, heads, levels, points)
                if reach is not None:
                    offsets.mul_(reach[image, axis, block, None, :, None])
                offsets.add_(centres[image, axis, block, None, :, None])
                places_xy.append(torch.minimum(offsets.view(-1, *samples).clamp_(min=-1.0), most))
            x, y = places_xy
            places, corners = find_corners(x, y, shares, widths, firsts, heads, own)
            summed = functional.embedding_bag(
                places.flatten(0, 1), head_rows, mode="sum", per_sample_weights=corners.flatten(0, 1)
            )
            output[image, block] = summed.view(-1, dims)
    projected: Tensor = attention.output_proj(output)
    return projected


def attend_by_grid(
    attention: GroundingDinoMultiscaleDeformableAttention,
    hidden: Tensor,
    positions: Tensor,
    level_hw: list[tuple[int, int]],
) -> Tensor:
    """Do the same by the module's own forward."""
    x, y = _centres(level_hw, hidden)
    sides_y, sides_x = hidden.new_tensor(level_hw).unbind(1)
    references = torch.stack([(x + 0.5) / sides_x, (y + 0.5) / sides_y], dim=-1).expand(len(hidden), -1, -1, -1)
    read: Tensor = attention(
        hidden_states=hidden,
        encoder_hidden_states=hidden,
        position_embeddings=positions,
        reference_points=references,
        spatial_shapes=torch.as_tensor(level_hw, device=hidden.device),
        spatial_shapes_list=level_hw,
    )[0]
    return read


def find_corners(
    x: Tensor, y: Tensor, shares: Tensor, widths: Tensor, firsts: Tensor, heads: int, own: Tensor
) -> tuple[Tensor, Tensor]:
    """Return which rows a bilinear sample is a sum of, and their weights; the weights carry a gradient.

    Args:
        x: Of each sample, in its level's pixels, 0 in the middle of the first one, from -1 to the level's width.
        y: Likewise, to the level's height.
        shares: Of the shape of x, what the sample counts.
        widths: Of the samples' levels, in a shape that extends to that of x; so are `firsts` and `own`.
        firsts: Which of the rimmed tokens is the first inside the rim of the level.
        heads: Rows of a token.
        own: int32, the row of the sample's image and head in the image's first token.

    Returns:
        Rows, int32, and weights, both of the shape of x with four times as many at the end.
    """
    left, top = x.detach().floor(), y.detach().floor()
    x, y = x - left, y - top
    strides = widths + (_BEFORE + _AFTER)
    above = (top * strides).add_(left).add_(firsts).to(torch.int32).mul_(heads).add_(own)
    below = above + strides.to(torch.int32) * heads
    lower = y * shares
    upper = shares - lower
    lower_right, upper_right = lower * x, upper * x
    rows = torch.cat([above, above + heads, below, below + heads], dim=-1)
    weights = torch.cat([upper - upper_right, upper_right, lower - lower_right, lower_right], dim=-1)
    return rows, weights


def rim_levels(values: Tensor, level_hw: list[tuple[int, int]]) -> Tensor:
    """Return (B, S', d): each level with its rim of zeros, flattened and joined."""
    count, _, dims = values.shape
    rim = (0, 0, _BEFORE, _AFTER, _BEFORE, _AFTER)
    parts = values.split([height * width for height, width in level_hw], dim=1)
    maps = [part.view(count, *hw, dims) for part, hw in zip(parts, level_hw, strict=True)]
    return torch.cat([functional.pad(level, rim).flatten(1, 2) for level in maps], dim=1)


def _centres(level_hw: list[tuple[int, int]], like: Tensor) -> tuple[Tensor, Tensor]:
    """Return the x and the y of each token's centre on each level, in that level's pixels: (S, L) each."""
    relative = []
    for height, width in level_hw:
        y = (torch.arange(height, device=like.device, dtype=like.dtype) + 0.5) / height
        x = (torch.arange(width, device=like.device, dtype=like.dtype) + 0.5) / width
        relative.append(torch.cartesian_prod(y, x))
    places = torch.cat(relative)
    sides_y, sides_x = like.new_tensor(level_hw).unbind(1)
    return places[:, 1:] * sides_x - 0.5, places[:, :1] * sides_y - 0.5


def sample_levels(level_hw: list[tuple[int, int]], heads: int, points: int, like: Tensor) -> tuple[Tensor, ...]:
    """Return what the levels of each head's samples are, (heads, L × points) float each.

    These are heights and widths in pixels, and which of the rimmed tokens is the first inside the rim of the level.
    """
    sides = (*like.new_tensor(level_hw).unbind(1), _first_places(level_hw, like))
    return tuple(side.repeat_interleave(points).repeat(heads).view(heads, -1) for side in sides)


def _first_places(level_hw: list[tuple[int, int]], like: Tensor) -> Tensor:
    """Return (L,) float: which of the rimmed tokens is the first inside the rim of each level."""
    firsts, start = [], 0
    for height, width in level_hw:
        stride = width + _BEFORE + _AFTER
        firsts.append(start + _BEFORE * stride + _BEFORE)
        start += (height + _BEFORE + _AFTER) * stride
    return like.new_tensor(firsts)
