"""Sample a feature map in boxes, as `torchvision.ops.roi_align` does with one sample a bin.

roi_align reads a map channel by channel, and copies all of one whose channels lie last, as a backbone's do. Here a
sample is a weighted sum of four rows of channels, and nothing else of the map is touched. The numbers are the same.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag


@dataclass(frozen=True, eq=False)
class Regions:
    """Regions of one purpose, and how they are sampled.

    Attributes:
        corners: (N, 4), x1 y1 x2 y2 relative to the map's sides; they carry no gradient.
        height: Samples down a region.
        width: Samples across it.
    """

    corners: Tensor
    height: int
    width: int


def sample_regions(source: Tensor, images: Tensor, asked: Sequence[Regions]) -> list[Tensor]:
    """Sample regions in the middles of height × width equal parts, bilinearly.

    All are read at once: so a map gets one gradient, not one for each purpose, which are as large as itself.

    Args:
        source: (B, C, H, W) float; best in channels-last memory, others are copied.
        images: (N,) int64, which of the B maps the regions of each row are of.
        asked: Regions of one or more purposes, N of each.

    Returns:
        For each purpose (N, C, height, width) in channels-last memory, of the map's dtype. A sample within a pixel
        outside of the map is its border, one further away is 0. N = 0 gives none.
    """
    count, channels, rows, columns = source.shape
    corners = [_find_corners(regions, images, rows, columns) for regions in asked]
    places, shares = (torch.cat(parts) for parts in zip(*corners, strict=True))
    table = source.permute(0, 2, 3, 1).reshape(count * rows * columns, channels)
    samples = embedding_bag(places, table, mode="sum", per_sample_weights=shares.to(source.dtype))
    each = samples.split([len(part) for part, _ in corners])
    return [
        part.view(-1, regions.height, regions.width, channels).permute(0, 3, 1, 2)
        for part, regions in zip(each, asked, strict=True)
    ]


def _find_corners(regions: Regions, images: Tensor, rows: int, columns: int) -> tuple[Tensor, Tensor]:
    """Return which four rows of the maps' table each sample is a sum of, (N × height × width, 4), and their shares."""
    corners = regions.corners.detach().float()
    left, across, x_shares = _bracket(corners[:, 0], corners[:, 2], regions.width, columns)
    top, down, y_shares = _bracket(corners[:, 1], corners[:, 3], regions.height, rows)
    x = torch.stack([left, across], dim=-1)[:, None, :, None]
    y = torch.stack([top, down], dim=-1)[:, :, None, :, None]
    places = (images[:, None, None, None, None] * rows + y) * columns + x
    shares = y_shares[:, :, None, :, None] * x_shares[:, None, :, None]
    samples = (len(corners) * regions.height * regions.width, 4)
    return places.view(samples), shares.view(samples)


def _bracket(first: Tensor, last: Tensor, count: int, side: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return the pixels before and after each of `count` places along a side, (N, count) int64, and their shares.

    Args:
        first: (N,), where the regions begin, relative to the side.
        last: (N,), where they end.
        count: Places of a region.
        side: Pixels of the map's side.
    """
    middles = (torch.arange(count, device=first.device) + 0.5) / count
    places = (first[:, None] + (last - first)[:, None] * middles) * side - 0.5
    inside = (places >= -1) & (places <= side)
    places = places.clamp(0, side - 1)
    before = places.floor()
    share = places - before
    shares = torch.stack([1 - share, share], dim=-1) * inside[..., None]
    return before.long(), (before + 1).clamp(max=side - 1).long(), shares
