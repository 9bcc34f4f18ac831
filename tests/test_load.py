"""Reading detectors from folders: whole ones come back the same, others are refused by name."""

import copy as copies
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from models.grounding_dino.detector import DetectorSettings
from models.grounding_dino.load import load_grounding_dino, read_grounding_dino, write_grounding_dino
from models.ontology import Ontology
from tests.grounding_models import picture

ONTOLOGY = Ontology.from_names("red circle, blue square, car")
ANY = DetectorSettings(box_threshold=0.0, text_threshold=0.0)


@pytest.fixture
def copy(grounding_folders: dict[str, Path], tmp_path: Path) -> Path:
    """A folder of a model that a test may spoil."""
    return Path(shutil.copytree(grounding_folders["mm-grounding-dino"], tmp_path / "model"))


@pytest.mark.parametrize("kind", ["grounding-dino", "mm-grounding-dino"])
def test_round_trip(grounding_folders: dict[str, Path], tmp_path: Path, kind: str) -> None:
    write_grounding_dino(tmp_path, *read_grounding_dino(grounding_folders[kind]))
    detectors = (load_grounding_dino(folder, ONTOLOGY, ANY) for folder in (grounding_folders[kind], tmp_path))
    (before,), (after,) = (detector([picture(60, 80)]) for detector in detectors)
    assert len(before) > 0
    np.testing.assert_array_equal(before.scores, after.scores)
    np.testing.assert_array_equal(before.boxes_xyxy, after.boxes_xyxy)


def test_half_the_bytes_for_nearly_the_same(
    grounding_models, grounding_processor, grounding_folders: dict[str, Path], tmp_path: Path
) -> None:
    model = grounding_models["mm-grounding-dino"]
    write_grounding_dino(tmp_path, model, grounding_processor, weights=torch.float16)
    sizes = [
        (folder / "model.safetensors").stat().st_size for folder in (tmp_path, grounding_folders["mm-grounding-dino"])
    ]
    assert sizes[0] < 0.55 * sizes[1]
    read, _ = read_grounding_dino(tmp_path)
    for name, value in model.state_dict().items():
        torch.testing.assert_close(read.state_dict()[name], value, atol=1e-4, rtol=1e-3)


def test_a_weight_too_large_for_16_bits_is_named(grounding_models, grounding_processor, tmp_path: Path) -> None:
    model = copies.deepcopy(grounding_models["mm-grounding-dino"])
    with torch.no_grad():
        model.model.level_embed[0, 0] = 1e5
    with pytest.raises(ValueError, match=r"torch.float16: model.level_embed; store float32"):
        write_grounding_dino(tmp_path, model, grounding_processor, weights=torch.float16)


def test_prompts_a_pass_travel_with_the_model(grounding_models, grounding_processor, tmp_path: Path) -> None:
    write_grounding_dino(tmp_path, grounding_models["mm-grounding-dino"], grounding_processor, prompts_per_pass=2)
    assert load_grounding_dino(tmp_path, ONTOLOGY).pass_count == 2
    assert load_grounding_dino(tmp_path, ONTOLOGY, DetectorSettings(prompts_per_pass=1)).pass_count == 3


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("config.json", "holds no config.json"),
        ("processor_config.json", "holds no preprocessor_config.json"),
        ("tokenizer.json", "holds no tokenizer.json"),
        ("model.safetensors", "holds no model.safetensors"),
    ],
)
def test_a_missing_file_is_named(copy: Path, file: str, message: str) -> None:
    (copy / file).unlink()
    with pytest.raises(FileNotFoundError, match=message):
        read_grounding_dino(copy)


def test_no_such_folder(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="holds no config"):
        read_grounding_dino(tmp_path / "nowhere")


def change_config(folder: Path, **fields: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


@pytest.mark.parametrize("kind", ["sam", "detr", "a-kind-of-tomorrow", None])
def test_another_kind_of_model(copy: Path, kind: str | None) -> None:
    change_config(copy, model_type=kind)
    with pytest.raises(ValueError, match=rf"holds a {kind}; a detector is one of grounding-dino, mm-grounding-dino"):
        read_grounding_dino(copy)


def test_a_broken_configuration(copy: Path) -> None:
    (copy / "config.json").write_text("{")
    with pytest.raises(ValueError, match=r"config\.json is no JSON"):
        read_grounding_dino(copy)


@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.999])
def test_truncated_weights(copy: Path, share: float) -> None:
    weights = copy / "model.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(ValueError, match=r"weights in .*model cannot be read"):
        read_grounding_dino(copy)


def test_weights_of_another_size(copy: Path) -> None:
    change_config(copy, decoder_ffn_dim=96)
    with pytest.raises(ValueError, match=r"weights in .*model cannot be read"):
        read_grounding_dino(copy)


def test_weights_of_a_smaller_model(copy: Path) -> None:
    change_config(copy, decoder_layers=4)
    with pytest.raises(ValueError, match="lack"):
        read_grounding_dino(copy)
