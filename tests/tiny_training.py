"""Detectors of a few thousand parameters and small labelled scenes, for tests of training."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from transformers import (
    BertConfig,
    GroundingDinoConfig,
    GroundingDinoForObjectDetection,
    GroundingDinoProcessor,
    MMGroundingDinoConfig,
    MMGroundingDinoForObjectDetection,
    ResNetConfig,
)

from models.grounding_dino.features import GroundingModel
from models.grounding_dino.load import write_grounding_dino
from models.training.scenes import SceneConfig, render_scene
from models.training.tiny import tiny_processor

PAIRS = ("red circle", "blue square", "green triangle")
WORDS = ("red", "blue", "green", "circle", "square", "triangle")
_KINDS: dict[str, Any] = {
    "mm-grounding-dino": (MMGroundingDinoConfig, MMGroundingDinoForObjectDetection),
    "grounding-dino": (GroundingDinoConfig, GroundingDinoForObjectDetection),
}


def small_model(kind: str = "mm-grounding-dino", seed: int = 0) -> GroundingModel:
    torch.manual_seed(seed)
    config_class, model_class = _KINDS[kind]
    backbone = ResNetConfig(
        embedding_size=8,
        hidden_sizes=[8, 16, 16, 32],
        depths=[1, 1, 1, 1],
        layer_type="basic",
        out_features=["stage3", "stage4"],
    )
    text = BertConfig(
        vocab_size=1536,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=64,
    )
    config = config_class(
        backbone_config=backbone,
        text_config=text,
        d_model=32,
        encoder_layers=2,
        decoder_layers=2,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=32,
        decoder_ffn_dim=32,
        num_feature_levels=2,
        num_queries=10,
        max_text_len=64,
    )
    model = model_class(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "class_embed" in name and name.endswith(".bias"):
                parameter.fill_(-4.0)
    return model.requires_grad_(True)


def small_processor(folder: Path, words: Sequence[str] = WORDS, size: int = 64) -> GroundingDinoProcessor:
    processor = tiny_processor(words, folder)
    processor.image_processor.size = {"shortest_edge": size, "longest_edge": 2 * size}
    return processor


def write_small_detector(folder: Path, words: Sequence[str] = WORDS, kind: str = "mm-grounding-dino") -> Path:
    write_grounding_dino(folder, small_model(kind), small_processor(folder / "words", words))
    return folder


def write_scenes(folder: Path, count: int = 8, pairs: Sequence[str] = PAIRS, first_seed: int = 0) -> Path:
    """Write scenes as COCO (images beside the JSON in images/) and return the JSON."""
    (folder / "images").mkdir(parents=True)
    images, annotations = [], []
    for index in range(1, count + 1):
        scene = render_scene(first_seed + index, SceneConfig(size=96, pairs=tuple(pairs), max_objects=4))
        Image.fromarray(scene.image).save(folder / "images" / f"{index:03d}.png")
        images.append({"id": index, "file_name": f"{index:03d}.png", "width": 96, "height": 96})
        for box, label in zip(scene.boxes_xyxy.tolist(), scene.labels, strict=True):
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": index,
                    "category_id": list(pairs).index(label) + 1,
                    "bbox": [box[0], box[1], box[2] - box[0], box[3] - box[1]],
                    "iscrowd": 0,
                }
            )
    categories = [{"id": number, "name": name} for number, name in enumerate(pairs, start=1)]
    file = folder / "labels.json"
    file.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
    return file
