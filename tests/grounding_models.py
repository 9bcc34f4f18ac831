"""Small random Grounding DINO models, lively enough that comparing their outputs means something."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from transformers import (
    BertConfig,
    GroundingDinoConfig,
    GroundingDinoForObjectDetection,
    GroundingDinoProcessor,
    MMGroundingDinoConfig,
    MMGroundingDinoForObjectDetection,
    ResNetConfig,
    SwinConfig,
)

from models.grounding_dino.features import GroundingModel
from models.grounding_dino.spans import PromptText, join_prompts, prompt_tokens
from models.training.prompts import Sample
from models.training.tiny import tiny_processor, tiny_words

WORDS = tuple(sorted({*tiny_words(), "a", "b", "c", "d", "traffic", "light", "car"}))
PROMPTS_20 = (
    *(f"{colour} {shape}" for colour in ("red", "blue", "green", "white") for shape in "abcd"),
    "traffic light",
    "light blue car",
    "the red circle left of the blue square",
    "platelet",
)
KINDS = ("grounding-dino", "mm-grounding-dino")


def _text_config() -> BertConfig:
    return BertConfig(
        vocab_size=1536,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=256,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )


def make_model(kind: str) -> GroundingModel:
    """Make a random model: a Swin with a fourth level for Grounding DINO, a ResNet for MM-Grounding-DINO."""
    common = {
        "text_config": _text_config(),
        "d_model": 32,
        "encoder_layers": 2,
        "decoder_layers": 3,
        "encoder_attention_heads": 4,
        "decoder_attention_heads": 4,
        "encoder_ffn_dim": 64,
        "decoder_ffn_dim": 64,
        "num_queries": 12,
        "dropout": 0.0,
        "fusion_droppath": 0.0,
        "max_text_len": 256,
    }
    torch.manual_seed(1)
    if kind == "grounding-dino":
        backbone = SwinConfig(
            embed_dim=16,
            depths=[1, 1, 1, 1],
            num_heads=[1, 2, 2, 4],
            window_size=4,
            drop_path_rate=0.0,
            out_features=["stage2", "stage3", "stage4"],
        )
        config = GroundingDinoConfig(backbone_config=backbone, num_feature_levels=4, **common)
        model: GroundingModel = GroundingDinoForObjectDetection(config)
    else:
        backbone = ResNetConfig(
            embedding_size=8,
            hidden_sizes=[8, 16, 24, 32],
            depths=[1, 1, 1, 1],
            layer_type="basic",
            out_features=["stage2", "stage3", "stage4"],
        )
        model = MMGroundingDinoForObjectDetection(
            MMGroundingDinoConfig(backbone_config=backbone, num_feature_levels=3, **common)
        )
    enliven(model)
    return model.eval()


def enliven(model: GroundingModel) -> None:
    """Give every weight a size at which text and image move the boxes; published start values leave some at 0."""
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if name.endswith(("vision_param", "text_param")):
                parameter.fill_(0.5)
            elif "class_embed" in name:
                parameter.copy_(-1 + 0.1 * noise)
            elif "embeddings" in name or "query_position" in name:
                parameter.copy_(noise if parameter.dim() > 1 else parameter + 0.1 * noise)
            elif parameter.dim() > 1:
                fan_in = parameter[0].numel()
                parameter.copy_(noise / fan_in**0.5)
            else:
                parameter.add_(0.1 * noise)


def make_processor(folder: Path) -> GroundingDinoProcessor:
    """Make a processor that resizes to a short side of 64 and a long one of at most 112 pixels."""
    processor = tiny_processor(WORDS, folder)
    processor.image_processor.size = {"shortest_edge": 64, "longest_edge": 112}
    return processor


def text_of(processor: GroundingDinoProcessor, prompts: tuple[str, ...]) -> PromptText:
    """Join prompts as the detector does."""
    return join_prompts(processor.tokenizer, [prompt_tokens(processor.tokenizer, prompt) for prompt in prompts])


def pixels(count: int, height: int = 64, width: int = 80, seed: int = 0) -> Tensor:
    """Draw images of smooth random blobs, normalised."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randn((count, 3, 6, 6), generator=generator)
    return torch.nn.functional.interpolate(coarse, (height, width), mode="bilinear")


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Draw a random RGB image."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def named_sample(seed: int, prompts: tuple[str, ...], named: tuple[int, ...], size_hw: tuple[int, int]) -> Sample:
    """Draw a sample whose boxes are painted rectangles; `named` is the prompt of each box."""
    rng = np.random.default_rng(seed)
    height, width = size_hw
    image = np.full((height, width, 3), 90, np.uint8)
    boxes = []
    for prompt in named:
        x, y = rng.uniform(0, 0.6, 2)
        box = [x * width, y * height, (x + 0.3) * width, (y + 0.35) * height]
        boxes.append(box)
        x1, y1, x2, y2 = (round(side) for side in box)
        image[y1:y2, x1:x2] = (60 * prompt % 255, 250 - 50 * prompt, 40 * prompt)
    positive = np.zeros((len(named), len(prompts)), bool)
    positive[np.arange(len(named)), list(named)] = True
    return Sample(image, np.array(boxes, np.float32).reshape(-1, 4), prompts, positive)


NAMED_SAMPLES = (
    named_sample(1, ("red circle", "blue square", "car"), (0, 2), (64, 64)),
    named_sample(2, ("green star",), (), (64, 64)),
    named_sample(3, ("platelet", "traffic light", "light blue car", "a"), (2, 2, 1), (64, 64)),
)


@dataclass
class RandomSource:
    """Painted rectangles with names by colour, as a source of training samples."""

    aspect: float = 1.0

    def draw(self, rng: np.random.Generator, size_hw: tuple[int, int]) -> Sample:
        """Draw a sample of one to three boxes."""
        prompts = ("red circle", "blue square", "car", "light blue car")[: int(rng.integers(2, 5))]
        named = tuple(int(prompt) for prompt in rng.integers(0, len(prompts), int(rng.integers(1, 4))))
        return named_sample(int(rng.integers(2**30)), prompts, named, size_hw)
