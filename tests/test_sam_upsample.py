"""From logits to run-length masks."""

import numpy as np
import pytest
import torch
from segment_anything.modeling import Sam

from models.masks import decode_mask
from models.sam.upsample import square_to_rle, window_to_rle


@pytest.mark.parametrize(
    ("window", "expected"),
    [
        ((2, 1, 8, 5), (2, 1, 8, 5)),
        ((-4, -3, 50, 60), (0, 0, 20, 12)),
        ((2.4, 1.6, 7.6, 5.4), (2, 2, 8, 5)),
        ((15, 9, 40, 30), (15, 9, 20, 12)),
        ((3.1, 4.1, 3.4, 4.4), None),
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


def test_negative_logits_are_an_empty_mask() -> None:
    rle = window_to_rle(-np.ones((4, 4), np.float32), np.array([0, 0, 9, 9], np.float32), (9, 9))
    assert rle.size == (9, 9)
    assert not decode_mask(rle).any()


@pytest.mark.parametrize(("resized", "image"), [((40, 64), (75, 120)), ((64, 30), (33, 15)), ((64, 64), (64, 64))])
def test_square_is_upsampled_as_the_original_does(resized: tuple[int, int], image: tuple[int, int]) -> None:
    logits = torch.randn(3, 16, 16, generator=torch.Generator().manual_seed(1))

    class Frame:
        image_encoder = type("Encoder", (), {"img_size": 64})

    expected = Sam.postprocess_masks(Frame(), logits[:, None], resized, image)[:, 0] > 0  # type: ignore[arg-type]
    for one, mask in zip(logits, expected.numpy(), strict=True):
        np.testing.assert_array_equal(decode_mask(square_to_rle(one, resized, 64, image)), mask)
