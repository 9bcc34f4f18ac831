"""The cross-modality decoder for inference: cheaper exact attention, and the last layer's answer alone.

Training needs what each layer predicts, and its gradient; `models.grounding_dino.forward.decode` gives both.
"""

from collections.abc import Callable, Sequence
from typing import cast

import torch
from torch import Tensor
from transformers.models.grounding_dino.modeling_grounding_dino import (
    GroundingDinoDecoder,
    GroundingDinoDecoderLayer,
    encode_sinusoidal_position_embedding,
)

from models.grounding_dino.deformable import attend_to_boxes
from models.grounding_dino.feed_forward import widen_and_narrow
from models.grounding_dino.heads import attend


def run_decoder(
    decoder: GroundingDinoDecoder,
    content: Tensor,
    references: Tensor,
    vision: Tensor,
    level_hw: list[tuple[int, int]],
    text: Tensor,
    token_mask: Tensor,
) -> tuple[Tensor, Tensor]:
    """Run the decoder's layers as in evaluation mode, without gradient.

    Args:
        decoder: transformers' decoder of a Grounding DINO or MM-Grounding-DINO.
        content: (B, Q, d), the queries' content.
        references: (B, Q, 4), their anchors, cx cy w h in [0, 1].
        vision: (B, S, d), the levels' tokens after the feature enhancer.
        level_hw: (height, width) of each level; their products sum to S.
        text: (B, T, d), the text after it.
        token_mask: (B, T) bool, False on padding.

    Returns:
        The last layer's queries, normalised, (B, Q, d), and the anchors that it started from, (B, Q, 4).
    """
    hidden, anchors = content, references
    layers = cast(Sequence[GroundingDinoDecoderLayer], decoder.layers)
    heads = cast(Sequence[Callable[[Tensor], Tensor]], decoder.bbox_embed)
    for index, layer in enumerate(layers):
        if index:
            anchors = (heads[index - 1](hidden) + torch.special.logit(anchors, eps=1e-5)).sigmoid()
        places = encode_sinusoidal_position_embedding(anchors, num_pos_feats=decoder.config.d_model // 2)
        positions = decoder.reference_points_head(places)
        hidden = _run_layer(layer, hidden, positions, anchors, vision, level_hw, text, token_mask)
    normed: Tensor = decoder.layer_norm(hidden)
    return normed, anchors


def _run_layer(
    layer: GroundingDinoDecoderLayer,
    hidden: Tensor,
    positions: Tensor,
    anchors: Tensor,
    vision: Tensor,
    level_hw: list[tuple[int, int]],
    text: Tensor,
    token_mask: Tensor,
) -> Tensor:
    placed = hidden + positions
    hidden = layer.self_attn_layer_norm(attend(layer.self_attn, placed, placed, hidden, None).add_(hidden))
    read = attend(layer.encoder_attn_text, hidden + positions, text, text, token_mask[:, None, None])
    hidden = layer.encoder_attn_text_layer_norm(read.add_(hidden))
    if hidden.device.type == "cpu":
        read = attend_to_boxes(layer.encoder_attn, hidden + positions, vision, anchors, level_hw)
    else:
        read = layer.encoder_attn(
            hidden_states=hidden,
            encoder_hidden_states=vision,
            position_embeddings=positions,
            reference_points=anchors[:, :, None].expand(-1, -1, len(level_hw), -1),
            spatial_shapes=torch.as_tensor(level_hw, device=hidden.device),
            spatial_shapes_list=level_hw,
        )[0]
    hidden = layer.encoder_attn_layer_norm(read.add_(hidden))
    out: Tensor = layer.final_layer_norm(widen_and_narrow(layer, hidden).add_(hidden))
    return out
