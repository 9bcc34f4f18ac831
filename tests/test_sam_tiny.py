"""The tiny SAM: its network, its files, and what the bundled one can do."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from models.detections import Detections
from models.masks import decode_mask, mask_iou
from models.sam.tiny import BUNDLED, TinySamSegmenter, load_tiny_sam, read_tiny_sam, save_tiny_sam, window_pixels
from models.sam.tiny_network import TinySam, window_geometry
from models.training.scenes import SceneConfig
from models.training.segmenter_eval import report_on, validation_scenes
from tests.small_sam import SMALL

BOXES = [[10, 12, 90, 80], [60, 5, 140, 100], [-30, 30, 400, 95], [100, 60, 118, 90], [20, 20, 20, 20]]


@pytest.fixture(scope="module")
def small() -> TinySamSegmenter:
    torch.manual_seed(0)
    return TinySamSegmenter(TinySam(SMALL))


def picture(height: int, width: int) -> NDArray[np.uint8]:
    return np.random.default_rng(height).integers(0, 256, (height, width, 3), dtype=np.uint8)


def boxes_of(image_hw: tuple[int, int], boxes: list[list[float]]) -> Detections:
    ones = np.ones(len(boxes))
    return Detections(image_hw, np.array(boxes, np.float32).reshape(-1, 4), ones, ones, ones)  # type: ignore[arg-type]


@pytest.mark.parametrize("image_hw", [(100, 150), (150, 100), (64, 64), (1, 40), (1300, 200)])
@pytest.mark.parametrize("count", [0, 1, 5])
def test_any_image_and_any_number_of_boxes(small: TinySamSegmenter, image_hw: tuple[int, int], count: int) -> None:
    found = small(picture(*image_hw), boxes_of(image_hw, BOXES[:count]))
    assert len(found) == count
    assert {rle.size for rle in found.masks} <= {image_hw}


def test_chunks_do_not_change_masks(small: TinySamSegmenter) -> None:
    image, detections = picture(100, 150), boxes_of((100, 150), BOXES)
    whole, parts = small(image, detections), TinySamSegmenter(small.network, boxes_per_chunk=2)(image, detections)
    for first, second in zip(whole.masks, parts.masks, strict=True):
        assert (decode_mask(first) != decode_mask(second)).mean() < 1e-3
    np.testing.assert_allclose(whole.mask_scores, parts.mask_scores, atol=1e-5)


def test_the_encoder_runs_once_and_not_without_boxes(small: TinySamSegmenter) -> None:
    calls = []
    hook = small.network.image_encoder.register_forward_hook(lambda *_: calls.append(1))
    image = picture(100, 150)
    TinySamSegmenter(small.network, boxes_per_chunk=1)(image, boxes_of((100, 150), BOXES))
    assert calls == [1]
    small(image, boxes_of((100, 150), []))
    assert calls == [1]
    hook.remove()


def test_wrong_input_is_refused(small: TinySamSegmenter) -> None:
    with pytest.raises(ValueError, match="detections are of an image"):
        small(picture(50, 60), boxes_of((60, 50), BOXES))
    with pytest.raises(ValueError, match="uint8"):
        small(picture(50, 60)[:, :, 0], boxes_of((50, 60), BOXES))
    with pytest.raises(ValueError, match="boxes_per_chunk"):
        TinySamSegmenter(small.network, boxes_per_chunk=0)


def test_windows_reach_beyond_their_boxes_and_know_where_they_are() -> None:
    network = TinySam(SMALL)
    boxes = torch.tensor([[8.0, 8, 40, 24], [10, 10, 10, 10]])
    windows = network.windows(boxes)
    assert windows.tolist() == [[4, 6, 44, 26], [8, 8, 12, 12]]
    geometry = window_geometry(boxes, windows, 10, 64)
    inside = geometry[0, 0]
    assert inside.sum() == 64
    assert inside[1:9, 1:9].all()
    torch.testing.assert_close(geometry[0, 1, 0, [1, 8]], torch.tensor([-0.875, 0.875]))
    torch.testing.assert_close(geometry[0, 5:, 0, 0].exp() * 64, torch.tensor([32.0, 16.0]))
    assert torch.isfinite(geometry).all()


def test_window_pixels_are_means_and_zero_outside() -> None:
    pixels = torch.arange(64, dtype=torch.float32).reshape(1, 8, 8)
    windows = torch.tensor([[0.0, 0, 8, 8], [8, 8, 16, 16]])
    seen = window_pixels(pixels, windows, 2)
    torch.testing.assert_close(seen[0, 0], torch.tensor([[13.5, 17.5], [45.5, 49.5]]), atol=2.5, rtol=0)
    assert seen[1, 0, 1, 1] == 0


def test_files_round_trip(small: TinySamSegmenter, tmp_path: Path) -> None:
    save_tiny_sam(small.network, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "model.safetensors"]
    again = load_tiny_sam(folder=tmp_path)
    assert again.network.config == SMALL
    assert {value.dtype for value in again.network.parameters()} == {torch.float32}
    image, detections = picture(100, 150), boxes_of((100, 150), BOXES[:4])
    first, second = small(image, detections), again(image, detections)
    np.testing.assert_allclose(first.mask_scores, second.mask_scores, atol=0.01)
    assert np.diag(mask_iou(first.masks, second.masks)).min() > 0.9


def test_missing_and_damaged_files_are_named(small: TinySamSegmenter, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"model\.safetensors is missing"):
        read_tiny_sam(tmp_path)
    save_tiny_sam(small.network, tmp_path)
    weights, config = tmp_path / "model.safetensors", tmp_path / "config.json"
    whole, fields = weights.read_bytes(), json.loads(config.read_text())
    for damaged in (whole[:100], whole[:-10], b""):
        weights.write_bytes(damaged)
        with pytest.raises(ValueError, match="no usable tiny SAM"):
            read_tiny_sam(tmp_path)
    weights.write_bytes(whole)
    for text in ("{", "[]", json.dumps({**fields, "prompt_dim": 32})):
        config.write_text(text)
        with pytest.raises(ValueError, match="no usable tiny SAM"):
            read_tiny_sam(tmp_path)


def test_bundled_model_is_small_and_documented() -> None:
    assert sum(path.stat().st_size for path in BUNDLED.iterdir()) <= 6_000_000
    assert {"config.json", "model.safetensors", "README.md"} <= {path.name for path in BUNDLED.iterdir()}


def test_bundled_model_segments_scenes() -> None:
    report = report_on("scenes", load_tiny_sam(), validation_scenes(16, SceneConfig()))
    assert report.iou >= 0.88
    assert report.iou > report.iou_ellipse + 0.2
    assert report.quality_correlation > 0.3
