"""Large images: used where Pillow holds them, converted and resized in bands, all without changing a pixel."""

import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from jobs.bench import large_image
from models import resize
from models.grounding_dino.detector import DetectorSettings, GroundingDinoDetector
from models.mask_crops import strips_to_rle
from models.masks import encode_mask
from models.ontology import Ontology
from models.sam import upsample
from models.sam.preprocess import resize_longest_side
from models.sam.upsample import SquareUpsampler, window_to_rle
from pipeline import colour, images
from pipeline.config import AnnotateConfig
from pipeline.images import prepare_decoding, read_image
from tests.grounding_models import picture


@pytest.fixture
def all_large(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every image count as large, and bands have few rows."""
    for module in (colour, images, resize):
        monkeypatch.setattr(module, "LARGE_BYTES", 0)
    monkeypatch.setattr("models.grounding_dino.detector.LARGE_BYTES", 0)
    monkeypatch.setattr(colour, "_BAND_PIXELS", 100)
    monkeypatch.setattr(resize, "_BAND_BYTES", 1000)
    prepare_decoding()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_large_image_is_a_view_of_pillows_memory(
    tmp_path: Path, orientation: int, request: pytest.FixtureRequest
) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(picture(30, 47)).save(tmp_path / "a.png", exif=exif)
    expected = read_image(tmp_path / "a.png")
    assert expected.flags.c_contiguous
    request.getfixturevalue("all_large")
    read = read_image(tmp_path / "a.png")
    assert sorted(np.abs(read.strides)) == [1, 4, 4 * 47], "four bytes a pixel: nothing was copied"
    np.testing.assert_array_equal(read, expected)


def test_an_image_in_several_pieces_is_copied(tmp_path: Path, all_large: None, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.fromarray(picture(30, 47)).save(tmp_path / "a.png")
    core: Any = Image.core
    core.set_use_block_allocator(0)
    core.set_block_size(4096)
    try:
        read = read_image(tmp_path / "a.png")
    finally:
        core.set_block_size(16 * 1024**2)
        prepare_decoding()
    assert read.flags.c_contiguous
    np.testing.assert_array_equal(read, picture(30, 47))


def as_mode(mode: str) -> Image.Image:
    """Make an image of a colour mode with values all over its range."""
    rng = np.random.default_rng(1)
    if mode == "F":
        return Image.fromarray(rng.normal(0, 30, (40, 30)).astype(np.float32))
    if mode == "I":
        return Image.fromarray(rng.integers(-90_000, 90_000, (40, 30), dtype=np.int32))
    if mode == "I;16":
        return Image.fromarray(rng.integers(0, 3000, (40, 30), dtype=np.uint16))
    if mode == "keyed":
        image = Image.fromarray(picture(40, 30) // 64 * 64)
        image.info["transparency"] = (64, 128, 0)
        return image
    if mode in ("RGBA", "LA"):
        grey = Image.fromarray(picture(40, 30)).convert(mode)
        grey.putalpha(Image.fromarray(picture(40, 30, seed=2)[..., 0]))
        return grey
    return Image.fromarray(picture(40, 30)).convert(mode)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA", "L", "1", "P", "CMYK", "YCbCr", "keyed", "F", "I", "I;16"])
def test_bands_change_no_pixel(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = colour.to_rgb(as_mode(mode))
    monkeypatch.setattr(colour, "_BAND_PIXELS", 100)
    banded = colour.to_rgb(as_mode(mode))
    np.testing.assert_array_equal(banded, whole)
    assert len(np.unique(whole)) > 1


@pytest.mark.parametrize("image_hw", [(60, 200), (200, 60), (300, 3), (3, 300), (50, 50)])
def test_resizing_in_bands_changes_nothing_but_roundings(
    image_hw: tuple[int, int], grounding_models: Any, grounding_processor: Any, request: pytest.FixtureRequest
) -> None:
    image = picture(*image_hw)
    settings_ = DetectorSettings(0.0, 0.0, size=32)
    model = grounding_models["mm-grounding-dino"]
    detector = GroundingDinoDetector(model, grounding_processor, Ontology.from_names(["car"]), settings_)
    sam, pixels = resize_longest_side(image, 40), detector._pixels([image])
    request.getfixturevalue("all_large")
    four_apart = np.dstack([image, image[..., :1]])[..., :3]
    # A resizer that goes down first, or rounds only at the end, may come to another byte by one.
    np.testing.assert_allclose(resize_longest_side(four_apart, 40).astype(int), sam, atol=1)
    np.testing.assert_allclose(detector._pixels([four_apart]), pixels, atol=1.1 / 255 / 0.22)
    if image_hw[1] > image_hw[0]:
        np.testing.assert_array_equal(resize_longest_side(four_apart, 40), sam)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 2**31),
    st.tuples(st.integers(1, 7), st.integers(1, 9)),
    st.tuples(st.integers(0, 2), st.integers(0, 2), st.integers(0, 2), st.integers(0, 2)),
    st.integers(1, 9),
    st.sampled_from([0.0, 0.5, 0.95, 1.0]),
)
def test_strips_are_encoded_as_their_whole_image(
    seed: int, crop_hw: tuple[int, int], margins: tuple[int, int, int, int], step: int, density: float
) -> None:
    crop = np.random.default_rng(seed).random(crop_hw) < density
    left, top, right, bottom = margins
    whole = np.pad(crop, ((top, bottom), (left, right)))
    strips = (crop[:, start : start + step] for start in range(0, crop_hw[1], step))
    assert strips_to_rle(strips, left, top, (whole.shape[0], whole.shape[1])) == encode_mask(whole)


def test_masks_in_strips_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    logits = torch.from_numpy(np.random.default_rng(0).normal(0.3, 1, (16, 16)).astype(np.float32))
    window = np.array([-5, 3, 120, 90], np.float32)
    upsampler = SquareUpsampler(16, (48, 64), 64, (90, 120))
    whole = (upsampler.to_rle(logits), window_to_rle(logits.numpy(), window, (90, 120)))
    monkeypatch.setattr(upsample, "_STRIP_PIXELS", 1000)
    assert (upsampler.to_rle(logits), window_to_rle(logits.numpy(), window, (90, 120))) == whole


def test_a_mask_of_a_whole_scan_takes_little_memory() -> None:
    logits = np.ones((64, 64), np.float32)
    tracemalloc.start()
    rle = window_to_rle(logits, np.array([0, 0, 8000, 6000], np.float32), (6000, 8000))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert rle.counts == encode_mask(np.ones((6000, 8000), bool)).counts
    assert peak < 120e6, "one byte a pixel were 48 MB, one float 192 MB"


def test_the_bench_measures_a_process_of_its_own(tmp_path: Path) -> None:
    paths = large_image.write_large_images(tmp_path, 1.2, ("red circle",))
    assert [path.suffix for path in paths] == [".jpg", ".png", ".tif"]
    with Image.open(paths[0]) as opened:
        assert 1.19e6 < opened.width * opened.height <= 1.2e6
    taken = large_image.measure_large_image(paths[0], AnnotateConfig(tile="512", mask="none"), ("red circle",))
    assert taken.peak >= taken.loaded > 100e6
    assert taken.objects > 0
    assert "MiB over libraries and models" in str(taken)
