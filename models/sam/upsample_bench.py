"""Time and memory of `upsample`, beside segment-anything's postprocess_masks and pycocotools, in one process."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from segment_anything.modeling import Sam
from torch import Tensor

from models.masks import Rle, decode_mask, encode_mask
from models.sam.preprocess import resized_hw
from models.sam.upsample import SquareUpsampler

CELLS, SIDE = 256, 1024
"""Of every published SAM."""
THEIR_CHUNK = 4
"""Masks that the other way upsamples at once: all of them would take 48 MB each at 12 megapixels, and twice that."""


@dataclass(frozen=True)
class Comparison:
    """Both ways with the same logits.

    Attributes:
        seconds: Ours, median of the rounds.
        other_seconds: Theirs, likewise.
        ratio: Median of the rounds' ratios of the two.
        extra_bytes: Most memory of the process while ours ran, less what it had before.
        other_extra_bytes: Likewise, of theirs.
        different_share: Pixels that differ, over all pixels of all masks.
        same: No pixel differs whose logit is more than 1e-4 from 0.
    """

    seconds: float
    other_seconds: float
    ratio: float
    extra_bytes: int
    other_extra_bytes: int
    different_share: float
    same: bool


def make_logits(count: int, image_hw: tuple[int, int], seed: int = 0) -> Tensor:
    """Return logits of ragged ellipses in boxes of 5 to 25 % of the image's sides, as SAM gives them.

    Args:
        count: How many, N.
        image_hw: (height, width) in pixels.
        seed: Of all that is random.

    Returns:
        (N, 256, 256) float32 over the padded square, from about -20 to 20.
    """
    rng = np.random.default_rng(seed)
    inner = np.array(resized_hw(image_hw, SIDE), np.float64) * CELLS / SIDE
    rows, columns = np.mgrid[:CELLS, :CELLS] + 0.5
    logits = np.empty((count, CELLS, CELLS), np.float32)
    for mask in logits:
        half = inner * rng.uniform(0.05, 0.25, 2) / 2
        centre = rng.uniform(half, inner - half)
        distance = np.hypot((rows - centre[0]) / half[0], (columns - centre[1]) / half[1])
        waves = 0.1 * np.sin(rows * rng.uniform(0.2, 1)) * np.sin(columns * rng.uniform(0.2, 1))
        mask[:] = np.clip(20 * (1 - distance - waves), -20, 20)
    return torch.from_numpy(logits)


def compare_ways(count: int, image_hw: tuple[int, int], rounds: int) -> Comparison:
    """Draw the same masks both ways in turn.

    Args:
        count: Masks.
        image_hw: (height, width) of the image.
        rounds: How often, after one round that warms up.
    """
    logits = make_logits(count, image_hw)
    inner = resized_hw(image_hw, SIDE)

    def ours() -> list[Rle]:
        upsampler = SquareUpsampler(CELLS, inner, SIDE, image_hw)
        return [upsampler.to_rle(mask) for mask in logits]

    def theirs() -> list[Rle]:
        masks = []
        for chunk in torch.split(logits, THEIR_CHUNK):
            masks += [encode_mask(mask) for mask in (upsample_as_they_do(chunk, inner, image_hw) > 0).numpy()]
        return masks

    extra, other_extra = _extra_bytes(ours), _extra_bytes(theirs)
    times = [(_seconds(ours), _seconds(theirs)) for _ in range(rounds)]
    different, same = _differences(ours(), theirs(), logits, inner, image_hw)
    return Comparison(
        statistics.median(first for first, _ in times),
        statistics.median(second for _, second in times),
        statistics.median(first / second for first, second in times),
        extra,
        other_extra,
        different / (count * image_hw[0] * image_hw[1]),
        same,
    )


def upsample_as_they_do(logits: Tensor, inner_hw: tuple[int, int], image_hw: tuple[int, int]) -> Tensor:
    """Return (N, H, W) logits of the image's size, by segment-anything's own code."""
    frame = SimpleNamespace(image_encoder=SimpleNamespace(img_size=SIDE))
    fine: Tensor = Sam.postprocess_masks(frame, logits[:, None], inner_hw, image_hw)[:, 0]
    return fine


def _differences(
    first: list[Rle], second: list[Rle], logits: Tensor, inner: tuple[int, int], image_hw: tuple[int, int]
) -> tuple[int, bool]:
    count, same = 0, True
    for mask, other, logit in zip(first, second, logits, strict=True):
        if mask != other:
            wrong = decode_mask(mask) != decode_mask(other)
            count += int(wrong.sum())
            fine = upsample_as_they_do(logit[None], inner, image_hw)[0].numpy()
            same &= bool((np.abs(fine[wrong]) <= 1e-4).all())
    return count, same


def _seconds(way: Callable[[], object]) -> float:
    start = time.perf_counter()
    way()
    return time.perf_counter() - start


def _extra_bytes(way: Callable[[], object]) -> int:
    """Return how far the process's memory goes up while a way runs (Linux: VmHWM, which is set back before)."""
    Path("/proc/self/clear_refs").write_text("5")
    before = _memory("VmRSS")
    way()
    return _memory("VmHWM") - before


def _memory(field: str) -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(f"{field}:"))
    return int(line.split()[1]) * 1024
