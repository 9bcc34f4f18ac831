"""The tiny Grounding DINO: its configuration, vocabulary and start values.

It is MM-Grounding-DINO at small size: the contrastive head there divides by the root of the width and has a bias, which
lets it train from nothing (the plain dot product starts at a loss of thousands).
"""

import copy
import re
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn
from transformers import (
    BertConfig,
    BertTokenizer,
    GroundingDinoImageProcessor,
    GroundingDinoProcessor,
    MMGroundingDinoConfig,
    MMGroundingDinoForObjectDetection,
    ResNetConfig,
)

from models.training.referring import WORDS

CELL_WORDS = ("blood", "cell", "platelet", "white")
_SIDE = 336
"""Shorter image side in pixels, until a training says at which it ended."""
_VOCABULARY_SIZE = 1536
_SPECIAL = {"[PAD]": 0, "[UNK]": 100, "[CLS]": 101, "[SEP]": 102, "[MASK]": 103, ".": 1012, "?": 1029}


def image_size(short_side: int) -> dict[str, int]:
    """Return the processor's image size for a shorter side in pixels; the longer may be 1.75 times as long."""
    return {"shortest_edge": short_side, "longest_edge": short_side * 7 // 4}


def tiny_vocabulary(words: Sequence[str]) -> list[str]:
    """Return the vocabulary file's lines: BERT's special ids where BERT has them, then the words, then free places.

    The model's phrase mask knows the delimiters by BERT's ids, so they must stand at exactly those.

    Raises:
        ValueError: A word stands twice or there are too many.
    """
    if len(set(words)) != len(words):
        raise ValueError("the vocabulary has a word twice")
    places = [place for place in range(_VOCABULARY_SIZE) if place not in _SPECIAL.values()]
    if len(words) > len(places):
        raise ValueError(f"the tiny model's vocabulary holds {len(places)} words, not {len(words)}")
    lines = [f"[unused{place}]" for place in range(_VOCABULARY_SIZE)]
    for token, place in _SPECIAL.items():
        lines[place] = token
    for word, place in zip(words, places, strict=False):
        lines[place] = word
    return lines


def tiny_words() -> list[str]:
    """Return the words that the bundled model is trained on: scenes, referring expressions and blood cells."""
    return sorted({*WORDS, *CELL_WORDS})


def tiny_processor(words: Sequence[str], folder: Path) -> GroundingDinoProcessor:
    """Build the processor (image resize and tokenizer), writing the vocabulary file into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = folder / "vocab.txt"
    vocabulary.write_text("\n".join(tiny_vocabulary(words)) + "\n", encoding="utf-8")
    tokenizer = BertTokenizer.from_pretrained(str(folder))
    return GroundingDinoProcessor(GroundingDinoImageProcessor(size=image_size(_SIDE), do_pad=False), tokenizer)


def tiny_backbone() -> ResNetConfig:
    """Return the configuration of the tiny model's image backbone."""
    config = ResNetConfig(
        embedding_size=32,
        hidden_sizes=[32, 64, 128, 192],
        depths=[2, 2, 2, 2],
        layer_type="basic",
    )
    config.out_features = ["stage2", "stage3", "stage4"]
    return config


def tiny_config() -> MMGroundingDinoConfig:
    """Return the tiny model's configuration."""
    text = BertConfig(
        vocab_size=_VOCABULARY_SIZE,
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=128,
        max_position_embeddings=256,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    return MMGroundingDinoConfig(
        backbone_config=tiny_backbone(),
        text_config=text,
        d_model=64,
        encoder_layers=2,
        decoder_layers=3,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_ffn_dim=256,
        decoder_ffn_dim=256,
        num_feature_levels=3,
        num_queries=60,
        dropout=0.0,
        fusion_droppath=0.0,
        max_text_len=256,
    )


def build_tiny(seed: int = 0) -> MMGroundingDinoForObjectDetection:
    """Build the tiny model with start values from which it trains.

    Linear layers start by Xavier's rule, the fusion's gates at .1 (published models start at 1e-4, which takes longer
    than this model's whole training to open), the contrastive bias at -4.
    """
    torch.manual_seed(seed)
    model = MMGroundingDinoForObjectDetection(tiny_config())
    for name, module in model.named_modules():
        deformable = name.endswith(("sampling_offsets", "attention_weights"))
        last_of_box_head = "bbox_embed" in name and name.endswith("layers.2")
        if isinstance(module, nn.Linear) and not deformable and not last_of_box_head:
            nn.init.xavier_uniform_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(("vision_param", "text_param")):
                parameter.fill_(0.1)
            elif name.endswith("class_embed.bias") or ("class_embed" in name and name.endswith(".bias")):
                parameter.fill_(-4.0)
    model.requires_grad_(True)
    return model


def grow_decoder(model: MMGroundingDinoForObjectDetection, layers: int) -> MMGroundingDinoForObjectDetection:
    """Return the model with more decoder layers.

    Args:
        model: Any tiny model; it is left as it is.
        layers: Decoder layers to have, at least as many as there are. New ones are copies of the last, which refines
            boxes once more.

    Raises:
        ValueError: There are more layers already.
    """
    last = model.config.decoder_layers - 1
    if layers <= last:
        raise ValueError(f"a decoder of {last + 1} layers cannot grow to {layers}")
    config = copy.deepcopy(model.config)
    config.decoder_layers = layers
    grown = MMGroundingDinoForObjectDetection(config)
    known = model.state_dict()
    per_layer = re.compile(r"((?:decoder\.layers|bbox_embed|class_embed)\.)(\d+)")

    def source(key: str) -> str:
        return per_layer.sub(lambda found: f"{found[1]}{min(int(found[2]), last)}", key)

    grown.load_state_dict({key: known[source(key)] for key in grown.state_dict()})
    grown.requires_grad_(True)
    return grown
