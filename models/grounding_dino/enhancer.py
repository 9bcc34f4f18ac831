"""The feature enhancer for inference: transformers' layers, fusion and deformable attention in cheaper exact forms."""

from collections.abc import Iterable
from typing import cast

from torch import Tensor
from transformers.models.grounding_dino.modeling_grounding_dino import (
    GroundingDinoDeformableLayer,
    GroundingDinoEncoder,
    GroundingDinoEncoderLayer,
    encode_sinusoidal_position_embedding,
)

from models.grounding_dino.deformable import attend_by_grid, attend_deformably
from models.grounding_dino.feed_forward import widen_and_narrow
from models.grounding_dino.fusion import fuse
from models.precision import add_into, full_precision


def run_enhancer(
    encoder: GroundingDinoEncoder,
    vision: Tensor,
    positions: Tensor,
    level_hw: list[tuple[int, int]],
    text: Tensor,
    token_mask: Tensor,
    phrase_mask: Tensor,
    position_ids: Tensor,
) -> tuple[Tensor, Tensor]:
    """Run the encoder's layers as in evaluation mode, without gradient.

    Inside of `low_precision` what image tokens do among themselves is computed in it; fusion and text never are.

    Args:
        encoder: transformers' encoder of a Grounding DINO or MM-Grounding-DINO.
        vision: (B, S, d), the levels' tokens joined, no padding.
        positions: (B, S, d), position plus level embedding.
        level_hw: (height, width) of each level; their products sum to S.
        text: (B, T, d).
        token_mask: (B, T) bool, False on padding.
        phrase_mask: (B, T, T) bool, True where a token may attend to another.
        position_ids: (B, T) int64, the place of a token in its phrase.

    Returns:
        Vision (B, S, d) and text (B, T, d).
    """
    places = encode_sinusoidal_position_embedding(
        position_ids[..., None].to(text.dtype), num_pos_feats=encoder.config.d_model
    )
    for layer in cast(Iterable[GroundingDinoEncoderLayer], encoder.layers):
        with full_precision(vision.device.type):
            vision, text = fuse(layer.fusion_layer, vision, text, token_mask)
            text = layer.text_enhancer_layer(
                hidden_states=text, attention_masks=phrase_mask, position_embeddings=places
            )[0]
        vision = _run_deformable(layer.deformable_layer, vision, positions, level_hw)
    return vision, text


def _run_deformable(
    layer: GroundingDinoDeformableLayer, vision: Tensor, positions: Tensor, level_hw: list[tuple[int, int]]
) -> Tensor:
    if vision.device.type == "cpu":
        with full_precision("cpu"):
            read = attend_deformably(layer.self_attn, vision, positions, level_hw)
    else:
        read = attend_by_grid(layer.self_attn, vision, positions, level_hw)
    vision = layer.self_attn_layer_norm(add_into(read, vision))
    out: Tensor = layer.final_layer_norm(add_into(widen_and_narrow(layer, vision), vision))
    return out
