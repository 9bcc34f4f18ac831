"""Reading image files: right pixels for those that can be read, a reason for those that cannot."""

import os
import socket
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.images import UnreadableImageError, describe_error, prepare_decoding, read_image

ORIENTED = {  # EXIF orientation -> how the upright pixels are stored
    1: lambda a: a,
    2: np.fliplr,
    3: lambda a: np.rot90(a, 2),
    4: np.flipud,
    5: lambda a: np.swapaxes(a, 0, 1),
    6: np.rot90,
    7: lambda a: np.swapaxes(np.rot90(a, 2), 0, 1),
    8: lambda a: np.rot90(a, -1),
}


@pytest.fixture
def rgb() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (5, 8, 3), dtype=np.uint8)


@pytest.mark.parametrize("ending", ["png", "bmp", "tif", "ppm", "tga", "webp", "gif", "jp2", "qoi", "PNG"])
def test_lossless_formats_keep_pixels(tmp_path: Path, rgb: np.ndarray, ending: str) -> None:
    path = tmp_path / f"a.{ending}"
    options = {"webp": {"lossless": True}}.get(ending, {})
    pixels = rgb // 128 * 255 if ending == "gif" else rgb
    Image.fromarray(pixels).save(path, **options)
    assert np.array_equal(read_image(path), pixels)


@pytest.mark.parametrize("orientation", ORIENTED)
@pytest.mark.parametrize("ending", ["png", "tif", "jpg"])
def test_exif_orientation_is_applied(tmp_path: Path, ending: str, orientation: int) -> None:
    upright = np.zeros((16, 32, 3), np.uint8)
    upright[:8, :8] = (250, 0, 0)  # red in the top left corner
    stored = Image.fromarray(np.ascontiguousarray(ORIENTED[orientation](upright)))
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"a.{ending}"
    stored.save(path, exif=exif)
    read = read_image(path)
    assert read.shape == upright.shape
    assert np.abs(read.astype(int) - upright).max() <= (0 if ending != "jpg" else 90)
    assert read[2, 2, 0] > 200
    assert read[-2, -2, 0] < 50


def test_broken_exif_counts_as_none(tmp_path: Path, rgb: np.ndarray) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(rgb).save(path, exif=b"Exif\0\0II*\0\xff\xff\xff\xff")
    assert np.array_equal(read_image(path), rgb)


def test_16_bit_grey_is_scaled(tmp_path: Path) -> None:
    values = np.linspace(0, 65535, 6 * 7).reshape(6, 7).astype(np.uint16)
    for name in ("a.png", "a.tif"):
        Image.fromarray(values).save(tmp_path / name)
        read = read_image(tmp_path / name)
        assert np.array_equal(read[..., 0], np.rint(values / 257).astype(np.uint8))
        assert np.array_equal(read[..., 0], read[..., 2])


@pytest.mark.parametrize("top", [1023, 4095])
def test_10_and_12_bits_in_16_use_the_whole_range(tmp_path: Path, top: int) -> None:
    values = np.array([[0, top // 2, top]], np.uint16)
    Image.fromarray(values).save(tmp_path / "a.png")
    assert read_image(tmp_path / "a.png")[0, :, 0].tolist() == [0, 127, 255]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([[0.0, 0.5, 1.0]], [0, 128, 255]),
        ([[-10.0, 0.0, 10.0]], [0, 128, 255]),
        ([[0.0, np.nan, 1.0]], [0, 0, 255]),
        ([[3.0, 3.0, 3.0]], [0, 0, 0]),
        ([[0.0, np.inf, 500.0]], [0, 255, 255]),
    ],
)
def test_floats_are_scaled(tmp_path: Path, values: list[list[float]], expected: list[int]) -> None:
    Image.fromarray(np.array(values, np.float32)).save(tmp_path / "a.tif")
    assert read_image(tmp_path / "a.tif")[0, :, 0].tolist() == expected


def test_32_bit_integers_are_stretched(tmp_path: Path) -> None:
    Image.fromarray(np.array([[-100_000, 0, 100_000]], np.int32)).save(tmp_path / "a.tif")
    assert read_image(tmp_path / "a.tif")[0, :, 0].tolist() == [0, 128, 255]


def test_transparency_lies_on_white(tmp_path: Path) -> None:
    clear_half_full = np.array([[[9, 9, 9, 0], [0, 0, 0, 128], [7, 8, 9, 255]]], np.uint8)
    Image.fromarray(clear_half_full).save(tmp_path / "rgba.png")
    assert read_image(tmp_path / "rgba.png")[0].tolist() == [[255, 255, 255], [127, 127, 127], [7, 8, 9]]
    palette = Image.new("P", (2, 1))
    palette.putpalette([10, 20, 30, 40, 50, 60])
    palette.putdata([0, 1])
    palette.save(tmp_path / "p.png", transparency=0)
    assert read_image(tmp_path / "p.png")[0].tolist() == [[255, 255, 255], [40, 50, 60]]
    Image.fromarray(np.array([[[50, 0], [60, 255]]], np.uint8), "LA").save(tmp_path / "la.png")
    assert read_image(tmp_path / "la.png")[0, :, 0].tolist() == [255, 60]
    Image.fromarray(np.array([[[1, 2, 3], [4, 5, 6]]], np.uint8)).save(tmp_path / "t.png", transparency=(1, 2, 3))
    assert read_image(tmp_path / "t.png")[0].tolist() == [[255, 255, 255], [4, 5, 6]]


def test_other_colour_modes(tmp_path: Path) -> None:
    Image.new("CMYK", (16, 16), (0, 255, 255, 0)).save(tmp_path / "cmyk.jpg", quality=95)
    assert np.abs(read_image(tmp_path / "cmyk.jpg").astype(int) - (255, 0, 0)).max() < 8
    Image.new("1", (3, 2), 1).save(tmp_path / "one.png")
    assert read_image(tmp_path / "one.png").tolist() == [[[255] * 3] * 3] * 2
    Image.new("L", (3, 2), 77).save(tmp_path / "grey.jpg")
    assert read_image(tmp_path / "grey.jpg").shape == (2, 3, 3)


def test_first_frame(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (4, 4), colour) for colour in ((255, 0, 0), (0, 255, 0))]
    for ending in ("gif", "png", "tif", "webp"):
        options = {"lossless": True} if ending == "webp" else {}
        frames[0].save(tmp_path / f"a.{ending}", save_all=True, append_images=frames[1:], **options)
        assert read_image(tmp_path / f"a.{ending}")[0, 0].tolist() == [255, 0, 0]


def test_content_counts_not_the_name(tmp_path: Path, rgb: np.ndarray) -> None:
    Image.fromarray(rgb).save(tmp_path / "a.jpg", "PNG")
    assert np.array_equal(read_image(tmp_path / "a.jpg"), rgb)


def write_eps(path: Path) -> None:
    path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 4 4\n%%EndComments\nshowpage\n")


def truncated_jpeg(path: Path) -> None:
    Image.effect_noise((200, 200), 80).save(path)
    path.write_bytes(path.read_bytes()[:4000])


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda path: path.touch(), r"^empty file \(0 bytes\)$"),
        (lambda path: path.write_text("this is a text\n" * 40), "not an image in a format that is read"),
        (truncated_jpeg, "truncated"),
        (write_eps, "not an image in a format that is read"),
        (os.mkfifo, r"^not a file but a pipe \(FIFO\)"),
        (lambda path: path.mkdir(), "not a file but a folder"),
        (lambda path: path.symlink_to("/dev/zero"), "not a file but a device"),
        (lambda path: path.symlink_to(path), "cannot be opened: Too many levels of symbolic links"),
        (lambda path: path.symlink_to("nowhere"), "cannot be opened: No such file"),
        (lambda path: None, "cannot be opened: No such file"),
    ],
)
def test_unreadable(tmp_path: Path, make: object, reason: str) -> None:
    path = tmp_path / "a.jpg"
    make(path)  # type: ignore[operator]
    with pytest.raises(UnreadableImageError, match=reason) as caught:
        read_image(path)
    assert "0x" not in str(caught.value)
    assert str(tmp_path) not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_socket_is_not_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("a.png")
        with pytest.raises(UnreadableImageError, match="a socket"):
            read_image("a.png")


def test_pixel_limit(tmp_path: Path) -> None:
    prepare_decoding()
    bomb = tmp_path / "bomb.png"
    Image.new("1", (20_000, 10_000)).save(bomb)
    assert bomb.stat().st_size < 100_000
    with pytest.raises(UnreadableImageError, match="too many pixels: 20000 × 10000 is over the limit of 100 million"):
        read_image(bomb)
    Image.new("L", (20, 10)).save(tmp_path / "small.png")
    with pytest.raises(UnreadableImageError, match="too many pixels"):
        read_image(tmp_path / "small.png", pixel_limit=199)
    assert read_image(tmp_path / "small.png", pixel_limit=200).shape == (10, 20, 3)


def test_pillows_own_guard_is_a_reason_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.new("L", (20, 10)).save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 50)
    with pytest.raises(UnreadableImageError, match="too many pixels"):
        read_image(tmp_path / "a.png")


def test_names(tmp_path: Path, rgb: np.ndarray) -> None:
    for name in ("emoji 🦊.png", "new\nline.png", os.fsdecode(b"latin\xe9.png")):
        Image.fromarray(rgb).save(tmp_path / "plain.png")
        os.rename(tmp_path / "plain.png", tmp_path / name)
        assert np.array_equal(read_image(tmp_path / name), rgb)


def test_reasons_have_no_addresses() -> None:
    error = OSError("cannot read <_io.BytesIO object at 0x7f12ab34cd56>\n of /a/b.png at 0x7f12ab34cd56")
    assert describe_error(error, "/a/b.png") == "OSError: cannot read of it at"
    assert describe_error(KeyError()) == "KeyError"
