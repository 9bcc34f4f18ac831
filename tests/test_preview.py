"""The contact sheet: it shows the chosen images, is drawn on upright pixels, and says what is wrong."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipeline.errors import UserError
from pipeline.images import read_image
from pipeline.preview import draw_labels, make_preview
from pipeline.records import AnnotatedImage, FailedImage

Make = Callable[..., Any]


@pytest.mark.parametrize(("count", "columns"), [(1, 1), (2, 2), (5, 3), (11, 4)])
def test_sheet_of_any_number(scene_labels: Make, tmp_path: Path, count: int, columns: int) -> None:
    labels = scene_labels(count)
    result = make_preview(labels, tmp_path / "new" / "sheet.jpg", count=24)
    assert result.images == count
    assert result.objects == sum(len(row.instances) for row in labels.rows)
    with Image.open(result.output) as sheet:
        assert sheet.format == "JPEG"
        assert sheet.width > columns * 400


def test_images_without_objects_come_last(scene_labels: Make, tmp_path: Path) -> None:
    labels = scene_labels(6)
    with_objects = sum(len(row.instances) > 0 for row in labels.rows)
    empty = [labels.rows[0].instances[np.zeros(len(labels.rows[0].instances), bool)]]
    labels.rows[0] = AnnotatedImage(labels.rows[0].image_id, labels.rows[0].path, empty[0], (), (), ())
    labels.rows.append(FailedImage("0" * 16, "sub/broken.jpg", "broken"))
    result = make_preview(labels, tmp_path / "sheet.png", count=with_objects - 1)
    assert result.objects == sum(len(row.instances) for row in labels.rows[:-1])


def test_only_one_class(scene_labels: Make, tmp_path: Path) -> None:
    labels = scene_labels(6)
    name = labels.ontology.classes[0].name
    expected = [list(row.class_names).count(name) for row in labels.rows]
    result = make_preview(labels, tmp_path / "sheet.png", class_name=f" {name.upper()} ")
    assert (result.images, result.objects) == (sum(count > 0 for count in expected), sum(expected))


def test_masks_are_tinted_and_the_rest_is_left_alone(scene_labels: Make) -> None:
    labels = scene_labels(1, size=64, max_objects=1)
    record = labels.rows[0]
    image = np.zeros((64, 64, 3), np.uint8)
    drawn = np.asarray(draw_labels(image, record, [(255, 0, 0)] * len(labels.ontology.classes), 256))
    x1, y1, x2, y2 = record.instances.detections.boxes_xyxy[0] * 4
    assert drawn[int(y1) + 3 : int(y2) - 3, int(x1) + 3 : int(x2) - 3, 0].max() > 40
    outside = drawn.copy()
    outside[max(0, int(y1) - 30) : int(y2) + 30, max(0, int(x1) - 200) : int(x2) + 200] = 0
    assert outside.max() == 0


def test_wrong_use_is_said(scene_labels: Make, tmp_path: Path) -> None:
    labels = scene_labels(2)
    with pytest.raises(UserError, match="has no class 'unicorn'"):
        make_preview(labels, tmp_path / "sheet.jpg", class_name="unicorn")
    with pytest.raises(UserError, match=r"\.jpg or \.png"):
        make_preview(labels, tmp_path / "sheet.pdf")
    with pytest.raises(UserError, match="at least 1"):
        make_preview(labels, tmp_path / "sheet.jpg", count=0)
    Image.new("RGB", (9, 9)).save(labels.folder / "sub" / "000.png")
    with pytest.raises(UserError, match="not the one that was labelled"):
        make_preview(labels, tmp_path / "sheet.jpg")
    (labels.folder / "sub" / "000.png").unlink()
    with pytest.raises(UserError, match=r"000\.png: cannot be shown"):
        make_preview(labels, tmp_path / "sheet.jpg")
    labels.rows = []
    with pytest.raises(UserError, match="no labelled image"):
        make_preview(labels, tmp_path / "sheet.jpg")


def test_the_sheet_is_drawn_on_upright_pixels(scene_labels: Make, tmp_path: Path) -> None:
    labels = scene_labels(1)
    path = labels.folder / "sub" / "000.png"
    upright = read_image(path)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.rot90(upright)).save(path, exif=exif)
    assert np.array_equal(read_image(path), upright)
    assert make_preview(labels, tmp_path / "sheet.png").images == 1
