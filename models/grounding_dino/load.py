"""Read a Grounding DINO or MM-Grounding-DINO from a folder as `save_pretrained` writes it."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn
from transformers import (
    GroundingDinoForObjectDetection,
    GroundingDinoProcessor,
    MMGroundingDinoForObjectDetection,
)
from transformers.utils.logging import disable_progress_bar

from models.convolutions import prepare_convolutions
from models.grounding_dino.box_refiner import read_refiner, refiner_of, write_refiner
from models.grounding_dino.closed_set import ClassTokens, ClosedSetDetector, read_class_tokens, write_class_tokens
from models.grounding_dino.detector import DetectorSettings, GroundingDinoDetector
from models.grounding_dino.features import GroundingModel, TextLevel
from models.grounding_dino.text_cache import TextCache
from models.ontology import Ontology

_CLASSES: dict[str, Any] = {
    "grounding-dino": GroundingDinoForObjectDetection,
    "mm-grounding-dino": MMGroundingDinoForObjectDetection,
}
_FILES = (
    ("config.json",),
    ("preprocessor_config.json", "processor_config.json"),
    ("tokenizer.json", "vocab.txt"),
)
"""What a folder must hold, one of each row."""
_SETTINGS_FILE = "groundlabel.json"


def _model_type(config: Path) -> str | None:
    try:
        content = json.loads(config.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{config} is no JSON: {error}") from error
    return content.get("model_type") if isinstance(content, dict) else None


def read_grounding_dino(folder: Path) -> tuple[GroundingModel, GroundingDinoProcessor]:
    """Read model and processor; weights in float32, sdpa attention in the text encoder (its phrase mask needs it).

    Raises:
        FileNotFoundError: A file is missing; the message names it.
        ValueError: The folder holds another kind of model, or weights that do not fit.
    """
    for names in _FILES:
        if not any((folder / name).exists() for name in names):
            raise FileNotFoundError(f"{folder} holds no {names[0]}; a detector is a folder that save_pretrained wrote")
    if not any(folder.glob("*.safetensors")):
        raise FileNotFoundError(f"{folder} holds no model.safetensors; put the detector's weights there")
    kind = _model_type(folder / "config.json")
    if kind not in _CLASSES:
        raise ValueError(f"{folder} holds a {kind}; a detector is one of {', '.join(_CLASSES)}")
    disable_progress_bar()
    try:
        model, report = _CLASSES[kind].from_pretrained(
            folder, dtype=torch.float32, attn_implementation={"text_config": "sdpa"}, output_loading_info=True
        )
    except (OSError, RuntimeError, SafetensorError) as error:
        raise ValueError(f"the weights in {folder} cannot be read: {error}") from error
    if report["missing_keys"]:
        raise ValueError(f"the weights in {folder} lack {sorted(report['missing_keys'])[:3]}: incomplete download?")
    if (refiner := _own_settings(folder).get("box_refiner")) is not None:
        model.box_refiner = read_refiner(folder, refiner)
    return model, GroundingDinoProcessor.from_pretrained(folder)


def random_from_config(config_file: Path) -> GroundingModel:
    """Make a model of a config.json with random weights, in evaluation mode: for measurements.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is of another kind of model.
    """
    if not config_file.is_file():
        raise FileNotFoundError(f"there is no {config_file}; give a detector's config.json")
    kind = _model_type(config_file)
    if kind not in _CLASSES:
        raise ValueError(f"{config_file} is of a {kind}; a detector is one of {', '.join(_CLASSES)}")
    config = _CLASSES[kind].config_class.from_json_file(config_file)
    config._attn_implementation = {"text_config": "sdpa"}
    model: GroundingModel = _CLASSES[kind](config)
    return nn.Module.eval(model)


def write_grounding_dino(
    folder: Path,
    model: GroundingModel,
    processor: GroundingDinoProcessor,
    prompts_per_pass: int | None = None,
    text_level: TextLevel = "sub-sentence",
    weights: torch.dtype = torch.float32,
) -> None:
    """Write a detector's folder.

    Args:
        folder: Made where it does not exist.
        model: Written as `save_pretrained` does; class vectors and a box refiner go into files of their own.
        processor: Likewise.
        prompts_per_pass: How many prompts a pass the model was trained for; None says nothing of it.
        text_level: Which words of a text saw each other in training.
        weights: What floating-point weights are stored as; they are read as float32 again.

    Raises:
        ValueError: A weight is too large for `weights`.
    """
    classes, refiner = getattr(model, "class_tokens", None), refiner_of(model)
    own = ("class_tokens.", "box_refiner.")
    state = {name: value for name, value in model.state_dict().items() if not name.startswith(own)}
    shared = {value.data_ptr(): value.to(weights) if value.is_floating_point() else value for value in state.values()}
    state = {name: shared[value.data_ptr()] for name, value in state.items()}
    if lost := [name for name, value in state.items() if not value.isfinite().all()]:
        raise ValueError(f"these weights cannot be stored as {weights}: {', '.join(lost[:3])}; store float32")
    model.save_pretrained(folder, state_dict=state)
    processor.save_pretrained(folder)
    settings: dict[str, Any] = {}
    if prompts_per_pass is not None:
        settings["prompts_per_pass"] = prompts_per_pass
    if text_level != "sub-sentence":
        settings["text_level"] = text_level
    if isinstance(classes, ClassTokens):
        settings["classes"] = list(classes.names)
        write_class_tokens(folder, classes)
    if refiner is not None:
        settings["box_refiner"] = write_refiner(folder, refiner, weights)
    if settings:
        (folder / _SETTINGS_FILE).write_text(json.dumps(settings) + "\n", encoding="utf-8")


def _own_settings(folder: Path) -> dict[str, Any]:
    file = folder / _SETTINGS_FILE
    content = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    if not isinstance(content, dict):
        raise ValueError(f"{file} must hold a JSON object")
    return content


def complete_settings(folder: Path, settings: DetectorSettings) -> DetectorSettings:
    """Return the settings with the folder's text level, and its own prompts a pass where they name none."""
    own = _own_settings(folder)
    per_pass = own.get("prompts_per_pass") if settings.prompts_per_pass is None else settings.prompts_per_pass
    return replace(settings, prompts_per_pass=per_pass, text_level=own.get("text_level", settings.text_level))


def load_grounding_dino(
    folder: Path,
    ontology: Ontology,
    settings: DetectorSettings | None = None,
    device: str = "cpu",
    text_cache: TextCache | None = None,
) -> GroundingDinoDetector:
    """Make a detector from a folder, for inference only; see `read_grounding_dino` and `complete_settings`."""
    return load_for_ontologies(folder, [ontology], settings, device, text_cache)[0]


def load_for_ontologies(
    folder: Path,
    ontologies: Sequence[Ontology],
    settings: DetectorSettings | None = None,
    device: str = "cpu",
    text_cache: TextCache | None = None,
) -> list[GroundingDinoDetector]:
    """Make a detector an ontology, all with one model that is read once; see `load_grounding_dino`."""
    model, processor = read_grounding_dino(folder)
    prepare_convolutions(model.model.backbone)
    chosen = complete_settings(folder, settings or DetectorSettings())
    names = _own_settings(folder).get("classes")
    if names is None:
        return [GroundingDinoDetector(model, processor, one, chosen, device, text_cache) for one in ontologies]
    tokens = read_class_tokens(folder, names)
    return [ClosedSetDetector(model, processor, one, tokens, chosen, device) for one in ontologies]
