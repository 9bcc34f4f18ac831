import math
from pathlib import Path

import pytest
from PIL import Image

from models.training.curves import draw_curves, read_columns


def test_columns(tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text("step,total\n25,3.5\n50,\n")
    columns = read_columns(tmp_path / "log.csv")
    assert columns["step"] == [25, 50]
    assert columns["total"][0] == 3.5
    assert math.isnan(columns["total"][1])
    assert read_columns(tmp_path / "none.csv") == {}


@pytest.mark.parametrize("evaluated", [False, True])
def test_a_picture_comes_out(tmp_path: Path, evaluated: bool) -> None:
    (tmp_path / "log.csv").write_text("step,minutes,total,focal,l1,giou\n25,.1,9,3,3,3\n50,.2,6,2,2,2\n")
    if evaluated:
        (tmp_path / "evaluation.csv").write_text("step,minutes,AP,AP50\n50,.2,.3,.5\n")
    draw_curves(tmp_path, tmp_path / "curves.png")
    with Image.open(tmp_path / "curves.png") as picture:
        assert picture.size == (1100, 440)


def test_nothing_to_draw_is_said(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"log\.csv is missing or empty"):
        draw_curves(tmp_path, tmp_path / "curves.png")
