"""From mask logits to run-length masks, one mask at a time."""

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from models.masks import Rle, encode_mask


def window_to_rle(logits: NDArray[np.float32], window_xyxy: NDArray[np.float32], image_hw: tuple[int, int]) -> Rle:
    """Interpolate logits from a window's cells to the pixels under it and keep the positive ones.

    Args:
        logits: (S, S) over the window's cells.
        window_xyxy: (4,) pixels; may reach beyond the image.
        image_hw: The image's (height, width).

    Returns:
        The mask in the image's frame; empty outside the window.
    """
    mask = np.zeros(image_hw, dtype=bool)
    left, top, right, bottom = (float(value) for value in window_xyxy)
    columns = _centres(left, right, image_hw[1])
    rows = _centres(top, bottom, image_hw[0])
    if len(columns) and len(rows):
        # grid_sample's -1 and 1 are the outer edges of the first and the last cell.
        x = (torch.from_numpy(columns) - left) / (right - left) * 2 - 1
        y = (torch.from_numpy(rows) - top) / (bottom - top) * 2 - 1
        grid = torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1)[None].float()
        maps = torch.from_numpy(np.ascontiguousarray(logits, dtype=np.float32))[None, None]
        fine = functional.grid_sample(maps, grid, padding_mode="border", align_corners=False)[0, 0]
        first_row, first_column = int(rows[0]), int(columns[0])
        mask[first_row : first_row + len(rows), first_column : first_column + len(columns)] = fine.numpy() > 0
    return encode_mask(mask)


def _centres(start: float, stop: float, limit: int) -> NDArray[np.float64]:
    first, last = max(math.ceil(start - 0.5), 0), min(math.floor(stop - 0.5), limit - 1)
    return np.arange(first, last + 1, dtype=np.float64) + 0.5


def square_to_rle(logits: Tensor, resized_hw: tuple[int, int], side: int, image_hw: tuple[int, int]) -> Rle:
    """Upsample logits over a padded square to the image, as Segment Anything does, and keep the positive ones.

    Args:
        logits: (S, S) over the padded square.
        resized_hw: (height, width) of the resized image inside the square.
        side: Side of the square, pixels.
        image_hw: The image's (height, width).

    Returns:
        The mask in the image's frame.

    Source: segment_anything/modeling/sam.py, Sam.postprocess_masks.
    """
    square = functional.interpolate(logits[None, None].float(), (side, side), mode="bilinear", align_corners=False)
    inside = square[..., : resized_hw[0], : resized_hw[1]]
    fine = functional.interpolate(inside, image_hw, mode="bilinear", align_corners=False)
    return encode_mask((fine[0, 0] > 0).cpu().numpy())
