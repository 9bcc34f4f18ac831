"""Read a Grounding DINO or MM-Grounding-DINO from a folder as `save_pretrained` writes it."""

import json
from dataclasses import replace
from pathlib import Path

import torch
from transformers import (
    AutoConfig,
    GroundingDinoForObjectDetection,
    GroundingDinoProcessor,
    MMGroundingDinoForObjectDetection,
)

from models.grounding_dino.detector import DetectorSettings, GroundingDinoDetector
from models.grounding_dino.forward import GroundingModel
from models.ontology import Ontology

_CLASSES = {"grounding-dino": GroundingDinoForObjectDetection, "mm-grounding-dino": MMGroundingDinoForObjectDetection}
_SETTINGS_FILE = "groundlabel.json"


def read_grounding_dino(folder: Path) -> tuple[GroundingModel, GroundingDinoProcessor]:
    """Read model and processor; weights in float32, sdpa attention.

    Raises:
        FileNotFoundError: A file is missing; the message names it.
        ValueError: The folder holds another kind of model, or weights that do not fit.
    """
    for name in ("config.json", "preprocessor_config.json"):
        if not (folder / name).exists() and not (folder / "processor_config.json").exists():
            raise FileNotFoundError(f"{folder} holds no {name}; a detector is a folder as save_pretrained writes it")
    if not any(folder.glob("*.safetensors")):
        raise FileNotFoundError(f"{folder} holds no model.safetensors; put the detector's weights there")
    kind = AutoConfig.from_pretrained(folder).model_type
    if kind not in _CLASSES:
        raise ValueError(f"{folder} holds a {kind}; a detector is one of {', '.join(_CLASSES)}")
    try:
        model, report = _CLASSES[kind].from_pretrained(
            folder, dtype=torch.float32, attn_implementation="sdpa", output_loading_info=True
        )
    except (OSError, RuntimeError) as error:
        raise ValueError(f"the weights in {folder} cannot be read: {error}") from error
    if report["missing_keys"]:
        raise ValueError(f"the weights in {folder} lack {sorted(report['missing_keys'])[:3]}; is the download complete?")
    return model, GroundingDinoProcessor.from_pretrained(folder)


def write_grounding_dino(
    folder: Path, model: GroundingModel, processor: GroundingDinoProcessor, prompts_per_pass: int | None = None
) -> None:
    """Write model and processor as `save_pretrained` does, and how many prompts a pass the model was trained for."""
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    if prompts_per_pass is not None:
        settings = json.dumps({"prompts_per_pass": prompts_per_pass}) + "\n"
        (folder / _SETTINGS_FILE).write_text(settings, encoding="utf-8")


def load_grounding_dino(
    folder: Path, ontology: Ontology, settings: DetectorSettings | None = None, device: str = "cpu"
) -> GroundingDinoDetector:
    """Make a detector from a folder; the folder's own prompts a pass hold where the settings name none."""
    chosen = settings or DetectorSettings()
    own = folder / _SETTINGS_FILE
    if chosen.prompts_per_pass is None and own.exists():
        chosen = replace(chosen, **json.loads(own.read_text(encoding="utf-8")))
    model, processor = read_grounding_dino(folder)
    return GroundingDinoDetector(model, processor, ontology, chosen, device)
