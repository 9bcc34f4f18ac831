"""The options: one vocabulary, checked."""

from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from models.ontology import Ontology
from pipeline.config import AnnotateConfig, TileSettings
from pipeline.errors import UserError
from pipeline.store.fingerprint import fingerprint_parts


def test_toml_round_trip(tmp_path: Path) -> None:
    config = AnnotateConfig(
        images='pho"tos\n', classes="a, b", output="run\\x", box_threshold=0.5, size=320, overwrite=True, limit=3
    )
    (tmp_path / "c.toml").write_text(config.to_toml(), encoding="utf-8")
    assert AnnotateConfig.from_toml(tmp_path / "c.toml") == config
    (tmp_path / "d.toml").write_text(AnnotateConfig().to_toml(), encoding="utf-8")
    assert AnnotateConfig.from_toml(tmp_path / "d.toml") == AnnotateConfig()


def test_each_option_is_in_the_printed_config_with_its_help() -> None:
    text = AnnotateConfig().to_toml()
    for option in fields(AnnotateConfig):
        assert f"{option.name} =" in text
        assert option.metadata["help"] in text


def test_command_line_wins_over_file(tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text("box-threshold = 0.5\nnms_iou = 1\n")
    config = AnnotateConfig.from_toml(tmp_path / "c.toml").merged({"box-threshold": 0.6, "output": Path("run")})
    assert (config.box_threshold, config.nms_iou, config.output) == (0.6, 1.0, "run")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"box_threshold": 1.5}, r"--box-threshold 1.5: must be at most 1"),
        ({"box_threshold": -0.1}, "at least 0"),
        ({"box_threshold": float("nan")}, "finite"),
        ({"max_box_share": 0.0}, "--max-box-share 0.0: must be above 0"),
        ({"workers": 0}, "--workers 0: must be at least 1"),
        ({"workers": 1.5}, "must be of the type int, not float"),
        ({"workers": True}, "must be of the type int, not bool"),
        ({"overwrite": 1}, "must be of the type bool"),
        ({"shard_size": None}, "must be of the type int, not NoneType"),
        ({"batch_size": "many"}, "must be auto or a number of images"),
        ({"classes": 3}, "must be of the type str"),
        ({"tile": "big"}, "--tile big: must be auto or a number of pixels, at least 64"),
        ({"tile": 32}, "--tile 32: must be auto"),
        ({"tile": True}, "must be of the type str, not bool"),
        ({"mask": "box"}, "--mask box: must be segmenter or none"),
        ({"device": "gpu"}, "--device gpu: must be auto, cpu or cuda"),
        ({"box_treshold": 0.3}, "unknown option 'box_treshold'; did you mean 'box_threshold'?"),
    ],
)
def test_wrong_values_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message.replace("?", r"\?")):
        AnnotateConfig().merged(options)


@pytest.mark.parametrize(
    ("text", "message"),
    [("box_threshold = ", "not valid TOML"), ("colour = 1", "c.toml: unknown option"), ("limit = 'x'", "--limit 'x'")],
)
def test_wrong_files_are_named(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "c.toml").write_text(text)
    with pytest.raises(UserError, match=message):
        AnnotateConfig.from_toml(tmp_path / "c.toml")
    with pytest.raises(UserError, match="cannot be read"):
        AnnotateConfig.from_toml(tmp_path / "none.toml")


def test_filters_and_pixels() -> None:
    config = AnnotateConfig(nms_iou=0.5, agnostic_nms_iou=0.6, min_box_area=4, max_box_share=0.9, pixel_limit=0.5)
    assert config.filters.nms_iou == 0.5
    assert config.filters.agnostic_nms_iou == 0.6
    assert (config.filters.min_box_area, config.filters.max_box_share, config.pixels) == (4, 0.9, 500_000)


def test_tiles_and_masks() -> None:
    assert AnnotateConfig().tiles is None
    assert AnnotateConfig(tile="auto", tile_object=12).tiles == TileSettings(None, 0.2, 12)
    assert AnnotateConfig().merged({"tile": 512, "tile_overlap": 0.3}).tiles == TileSettings(512, 0.3, 32)


def test_options_that_came_later_count_only_where_they_are_used() -> None:
    ontology = Ontology.from_names("car")

    def parts(**options: Any) -> dict[str, Any]:
        return fingerprint_parts(AnnotateConfig(**options), ontology, "d", "s")

    plain = parts()
    assert "tile" not in plain
    assert parts(tile_overlap=0.4, tile_object=9, max_contained=1.0) == plain
    assert parts(tile="512", tile_object=9) == plain | {"tile": "512"}
    assert parts(tile="auto", tile_object=9) == plain | {"tile": "auto", "tile_object": 9}
    assert parts(mask="none", top_k=3) == plain | {"mask": "none", "top_k": 3}
