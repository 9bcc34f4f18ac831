"""From logits to run-length masks."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from segment_anything.modeling import Sam
from torch.nn import functional

from models.mask_crops import crop_mask, crop_to_rle
from models.masks import Rle, decode_mask, encode_mask
from models.sam.upsample import SquareUpsampler, bilinear_weights, resize_weights, window_to_rle


@pytest.mark.parametrize(
    ("window", "expected"),
    [
        ((2, 1, 8, 5), (2, 1, 8, 5)),
        ((-4, -3, 50, 60), (0, 0, 20, 12)),
        ((2.4, 1.6, 7.6, 5.4), (2, 2, 8, 5)),
        ((15, 9, 40, 30), (15, 9, 20, 12)),
        ((3.1, 4.1, 3.4, 4.4), None),
        ((5, 5, 5, 9), None),
        ((-9, -9, -2, -2), None),
        ((30, 30, 40, 40), None),
    ],
)
def test_positive_window_is_filled(window: tuple[float, ...], expected: tuple[int, ...] | None) -> None:
    mask = decode_mask(window_to_rle(np.ones((8, 8), np.float32), np.array(window, np.float32), (12, 20)))
    filled = np.zeros((12, 20), bool)
    if expected:
        x1, y1, x2, y2 = expected
        filled[y1:y2, x1:x2] = True
    np.testing.assert_array_equal(mask, filled)


@pytest.mark.parametrize("cells", [4, 16, 64])
def test_edges_are_where_the_logits_change_sign(cells: int) -> None:
    across = np.linspace(-1, 1, 2 * cells + 1)[1::2]
    logits = np.broadcast_to(across - 0.25, (cells, cells)).astype(np.float32)
    mask = decode_mask(window_to_rle(logits, np.array([8, 4, 40, 20], np.float32), (30, 50)))
    columns = np.flatnonzero(mask.any(axis=0))
    assert (columns[0], columns[-1]) == (28, 39)
    assert mask.sum() == 12 * 16


def test_negative_logits_are_an_empty_mask_that_is_not_absent() -> None:
    rle = window_to_rle(-np.ones((4, 4), np.float32), np.array([0, 0, 9, 9], np.float32), (9, 9))
    assert rle == encode_mask(np.zeros((9, 9), bool))
    assert not rle.is_absent
    assert Rle.absent((9, 9)).is_absent
    assert not decode_mask(Rle.absent((9, 9))).any()


@pytest.mark.parametrize(("cells", "points"), [(1, 1), (1, 7), (5, 3), (4, 9), (16, 16)])
def test_weights_are_those_of_torch(cells: int, points: int) -> None:
    row = torch.randn(1, 1, cells, generator=torch.Generator().manual_seed(cells))
    expected = functional.interpolate(row, points, mode="linear", align_corners=False)[0, 0]
    np.testing.assert_allclose(resize_weights(cells, points) @ row[0, 0].numpy(), expected.numpy(), atol=1e-6)
    assert bilinear_weights(np.zeros(0), cells).shape == (0, cells)


def smooth_logits(seed: int, cells: int, level: float) -> torch.Tensor:
    """Random logits with patches of both signs; `level` moves them up or down."""
    coarse = torch.randn(1, 1, max(cells // 4, 1), max(cells // 4, 1), generator=torch.Generator().manual_seed(seed))
    return functional.interpolate(coarse, (cells, cells), mode="bilinear", align_corners=False)[0, 0] + level


def check_but_for_ties(rle: Rle, logits: torch.Tensor) -> None:
    """Compare with the sign of logits of the image's size, but where they are within 1e-4 of 0."""
    assert rle.size == tuple(logits.shape)
    wrong = torch.from_numpy(decode_mask(rle)) != (logits > 0)
    assert not (wrong & (logits.abs() > 1e-4)).any()


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 2**31),
    st.sampled_from([1, 4, 16, 24]),
    st.integers(1, 48),
    st.integers(1, 48),
    st.integers(1, 90),
    st.integers(1, 90),
    st.sampled_from([-3.0, -1.0, -0.3, 0.0, 1.0]),
)
def test_square_equals_segment_anythings_own(
    seed: int, cells: int, inner_h: int, inner_w: int, height: int, width: int, level: float
) -> None:
    logits = smooth_logits(seed, cells, level)
    frame: Any = type("Frame", (), {"image_encoder": type("Encoder", (), {"img_size": 48})})
    expected = Sam.postprocess_masks(frame, logits[None, None], (inner_h, inner_w), (height, width))[0, 0]
    check_but_for_ties(SquareUpsampler(cells, (inner_h, inner_w), 48, (height, width)).to_rle(logits), expected)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 2**31),
    st.sampled_from([1, 4, 16]),
    st.floats(-20, 40),
    st.floats(-20, 40),
    st.floats(0.5, 60),
    st.sampled_from([-1.0, 0.0, 1.0]),
)
def test_window_equals_sampling_every_pixel(
    seed: int, cells: int, left: float, top: float, side: float, level: float
) -> None:
    logits = smooth_logits(seed, cells, level)
    window = np.array([left, top, left + side, top + 1.3 * side], np.float32)
    height, width = 30, 44
    x = (torch.arange(width) + 0.5 - window[0]) / (window[2] - window[0]) * 2 - 1
    y = (torch.arange(height) + 0.5 - window[1]) / (window[3] - window[1]) * 2 - 1
    grid = torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1)[None].float()
    fine = functional.grid_sample(logits[None, None], grid, padding_mode="border", align_corners=False)[0, 0]
    inside = (x.abs() <= 1)[None, :] & (y.abs() <= 1)[:, None]
    edge = ((x.abs() - 1).abs() < 1e-5)[None, :] | ((y.abs() - 1).abs() < 1e-5)[:, None]
    fine = torch.where(inside & ~edge, fine, torch.where(edge, 0.0, -1.0))
    check_but_for_ties(window_to_rle(logits.numpy(), window, (height, width)), fine)


@settings(max_examples=80, deadline=None)
@given(
    st.integers(0, 2**31),
    st.tuples(st.integers(1, 9), st.integers(1, 9)),
    st.tuples(st.integers(0, 3), st.integers(0, 3), st.integers(0, 3), st.integers(0, 3)),
    st.sampled_from([0.0, 0.3, 0.9, 1.0]),
)
def test_a_crop_is_encoded_as_its_whole_image(
    seed: int, crop_hw: tuple[int, int], margins: tuple[int, int, int, int], density: float
) -> None:
    crop = np.random.default_rng(seed).random(crop_hw) < density
    left, top, right, bottom = margins
    whole = np.pad(crop, ((top, bottom), (left, right)))
    rle = crop_to_rle(crop, left, top, (whole.shape[0], whole.shape[1]))
    assert rle == encode_mask(whole)
    cropped = crop_mask(rle)
    if not crop.any():
        assert cropped is None
    else:
        assert cropped is not None
        x, y, width, height = cropped[0].astype(int)
        np.testing.assert_array_equal(cropped[1], whole[y : y + height, x : x + width])
        assert cropped[1].sum() == crop.sum()


def test_a_crop_beyond_its_image_is_refused() -> None:
    with pytest.raises(ValueError, match="not inside"):
        crop_to_rle(np.ones((3, 3), bool), 8, 0, (10, 10))
