"""Sample a feature map in boxes, as `torchvision.ops.roi_align` does with one sample a bin.

roi_align reads a map channel by channel, and copies all of one whose channels lie last, as a backbone's do. Here a
sample is a weighted sum of four rows of channels, and nothing else of the map is touched. The numbers are the same.
"""

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag


def sample_regions(source: Tensor, images: Tensor, regions: Tensor, height: int, width: int) -> Tensor:
    """Sample each region in the middles of height × width equal parts, bilinearly.

    Args:
        source: (B, C, H, W) float; best in channels-last memory, others are copied.
        images: (N,) int64, which of the B maps each region is of.
        regions: (N, 4), x1 y1 x2 y2 relative to the map's sides; they carry no gradient.
        height: Samples down a region.
        width: Samples across it.

    Returns:
        (N, C, height, width) in channels-last memory, of the map's dtype. A sample within a pixel outside of the map is
        its border, one further away is 0. N = 0 gives none.
    """
    count, channels, rows, columns = source.shape
    regions = regions.detach().float()
    left, across, x_shares = _bracket(regions[:, 0], regions[:, 2], width, columns)
    top, down, y_shares = _bracket(regions[:, 1], regions[:, 3], height, rows)
    x = torch.stack([left, across], dim=-1)[:, None, :, None]
    y = torch.stack([top, down], dim=-1)[:, :, None, :, None]
    places = (images[:, None, None, None, None] * rows + y) * columns + x
    shares = y_shares[:, :, None, :, None] * x_shares[:, None, :, None]
    table = source.permute(0, 2, 3, 1).reshape(count * rows * columns, channels)
    corners = (len(regions) * height * width, 4)
    samples = embedding_bag(
        places.view(corners), table, mode="sum", per_sample_weights=shares.to(source.dtype).view(corners)
    )
    return samples.view(len(regions), height, width, channels).permute(0, 3, 1, 2)


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
