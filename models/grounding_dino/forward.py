"""Grounding DINO's forward pass in four steps, over the weights of transformers' modules.

transformers runs backbone, text encoder, fusion, query selection and decoder as one call. Here each is a function, so
that the backbone runs once an image while text passes run many times, that the encoder's box head gets a gradient, and
that the decoder takes denoising queries with an attention mask. With the same inputs the result is transformers' own.

Images of a batch have one size and no padding: padding changes Grounding DINO's results (GroupNorm and the backbone's
borders see it). Text may be padded.

Source: Liu et al. 2023 (Grounding DINO), section 3; transformers, models/mm_grounding_dino.
"""

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor
from torch.nn.functional import normalize
from transformers.models.grounding_dino.modeling_grounding_dino import (
    encode_sinusoidal_position_embedding,
    generate_masks_with_special_tokens_and_transfer_map,
)

from models.grounding_dino.box_refiner import read_maps, refine_boxes, refiner_of
from models.grounding_dino.decoder import run_decoder
from models.grounding_dino.enhancer import run_enhancer
from models.grounding_dino.features import Decoded, Encoded, GroundingModel, ImageFeatures, TextFeatures, TextLevel
from models.grounding_dino.query_selection import start_queries
from models.precision import Precision, low_precision


def encode_image(model: GroundingModel, pixel_values: Tensor, precision: Precision = "fp32") -> ImageFeatures:
    """Run backbone and input projection.

    Args:
        model: Any transformers Grounding DINO or MM-Grounding-DINO.
        pixel_values: (B, 3, H, W) float, normalised, no padding.
        precision: Of both; the features are of the pixels' dtype.
    """
    core = model.model
    mask = torch.ones((len(pixel_values), *pixel_values.shape[-2:]), dtype=torch.long, device=pixel_values.device)
    with low_precision(precision, pixel_values.device.type):
        if refiner_of(model) is None:
            fine = None
            backbone_maps = [source for source, _ in core.backbone.conv_encoder(pixel_values, mask)]
        else:
            fine, backbone_maps = read_maps(core.backbone.conv_encoder.model, pixel_values)
        maps = [project(source) for project, source in zip(core.input_proj_vision, backbone_maps, strict=False)]
        for level in range(len(maps), model.config.num_feature_levels):
            source = backbone_maps[-1] if level == len(backbone_maps) else maps[-1]
            maps.append(core.input_proj_vision[level](source))
    place = core.backbone.position_embedding
    tokens = torch.cat([level_map.flatten(2).transpose(1, 2) for level_map in maps], dim=1).to(pixel_values.dtype)
    placed = []
    for level_map, own in zip(maps, core.level_embed, strict=True):
        seen = torch.ones((len(mask), *level_map.shape[-2:]), dtype=torch.bool, device=mask.device)
        placed.append(place(level_map, seen).to(tokens.dtype).flatten(2).transpose(1, 2) + own)
    level_hw = [(level_map.shape[-2], level_map.shape[-1]) for level_map in maps]
    if fine is not None:
        # Laid out once here, for all text passes to read.
        stem, first = (fine_map.to(tokens.dtype, memory_format=torch.channels_last) for fine_map in fine)
        fine = (stem, first)
    return ImageFeatures(tokens, torch.cat(placed, dim=1), level_hw, _summarise(backbone_maps), fine)


def _summarise(maps: Sequence[Tensor]) -> Tensor:
    """Return (B, D) of unit length: of each map the square roots of its means, with their signs, in equal parts.

    The roots keep a few strong channels from deciding alone (Hellinger's kernel; Arandjelović and Zisserman, "Three
    things everyone should know to improve object retrieval", 2012).
    """
    means = [level_map.float().mean(dim=(2, 3)) for level_map in maps]
    roots = [normalize(mean.sign() * mean.abs().sqrt(), dim=1) for mean in means]
    summary: Tensor = torch.cat(roots, dim=1) / len(roots) ** 0.5
    return summary


def phrase_masks(
    input_ids: Tensor, token_mask: Tensor, special_tokens: Tensor, level: TextLevel = "sub-sentence"
) -> tuple[Tensor, Tensor]:
    """Say which text tokens may see each other.

    Args:
        input_ids: (B, T) int64, `[CLS] phrase . phrase . [SEP]`, padded at the end.
        token_mask: (B, T) bool, False on padding.
        special_tokens: (K,) int64, the ids that end a phrase.
        level: `sub-sentence`: the words of one phrase see each other; `word`: each word sees itself;
            `sentence`: all see all.

    Returns:
        (B, T, T) bool, True where attention is allowed, and (B, T) int64 position ids.

    Source: Liu et al. 2023, section 3.4 and figure 4.
    """
    count, length = input_ids.shape
    own = torch.eye(length, dtype=torch.bool, device=input_ids.device).expand(count, -1, -1)
    if level == "sub-sentence":
        mask, position_ids = generate_masks_with_special_tokens_and_transfer_map(
            cast(torch.LongTensor, input_ids), cast(torch.LongTensor, special_tokens)
        )
        return mask & (token_mask[:, None, :] | own), position_ids
    if level == "word":
        return own, torch.zeros_like(input_ids)
    if level == "sentence":
        everything = token_mask[:, None, :] & token_mask[:, :, None]
        return everything | own, torch.arange(length, device=input_ids.device).expand(count, -1)
    raise ValueError(f"text level must be sub-sentence, word or sentence, not {level!r}")


def encode_text(
    model: GroundingModel, input_ids: Tensor, token_mask: Tensor, level: TextLevel = "sub-sentence"
) -> TextFeatures:
    """Run the text encoder and its projection.

    Args:
        model: The model; its text encoder must use sdpa attention (eager leaks between phrases).
        input_ids: (B, T) int64 with T at most `max_text_len`.
        token_mask: (B, T) bool, False on padding.
        level: Which words see each other; see `phrase_masks`.

    Raises:
        ValueError: The text is longer than the model takes.
    """
    if input_ids.shape[1] > model.config.max_text_len:
        raise ValueError(f"a text of {input_ids.shape[1]} tokens exceeds the model's {model.config.max_text_len}")
    core = model.model
    phrase_mask, position_ids = phrase_masks(input_ids, token_mask, core.special_tokens, level)
    hidden = core.text_backbone(
        input_ids, phrase_mask[:, None], torch.zeros_like(input_ids), position_ids
    ).last_hidden_state
    return TextFeatures(core.text_projection(hidden), token_mask, phrase_mask, position_ids)


def enhance(model: GroundingModel, image: ImageFeatures, text: TextFeatures, precision: Precision = "fp32") -> Encoded:
    """Run the feature enhancer: fusion, text self-attention, deformable self-attention, layer by layer.

    With gradients these are transformers' own layers, without those of `run_enhancer`; the numbers are the same.
    The precision counts without gradients only.
    """
    core = model.model
    if not (torch.is_grad_enabled() or core.training):
        with low_precision(precision, image.tokens.device.type):
            vision, enhanced = run_enhancer(
                core.encoder,
                image.tokens,
                image.positions,
                image.level_hw,
                text.tokens,
                text.token_mask,
                text.phrase_mask,
                text.position_ids,
            )
        return Encoded(vision, enhanced, image, text.token_mask)
    count = len(image.tokens)
    no_padding = torch.zeros(image.tokens.shape[:2], dtype=torch.bool, device=image.tokens.device)
    valid_ratios = image.tokens.new_ones((count, len(image.level_hw), 2))
    outputs = core.encoder(
        vision_features=image.tokens,
        vision_attention_mask=no_padding,
        vision_position_embedding=image.positions,
        spatial_shapes=image.shapes,
        spatial_shapes_list=image.level_hw,
        level_start_index=image.level_starts,
        valid_ratios=valid_ratios,
        text_features=text.tokens,
        text_attention_mask=~text.token_mask,
        text_position_embedding=None,
        text_self_attention_masks=~text.phrase_mask,
        text_position_ids=text.position_ids,
    )
    return Encoded(outputs.last_hidden_state_vision, outputs.last_hidden_state_text, image, text.token_mask)


def decode(
    model: GroundingModel,
    encoded: Encoded,
    content: Tensor,
    references: Tensor,
    attention_blocked: Tensor | None = None,
    look_forward_twice: bool = False,
) -> Decoded:
    """Run the cross-modality decoder.

    Args:
        model: The model.
        encoded: What `enhance` returned, B images.
        content: (B, Q, d), the queries' content.
        references: (B, Q, 4), the anchors cx cy w h in [0, 1]; learned ones get a gradient.
        attention_blocked: (Q, Q) bool, True where a query must not see another; None lets all see all.
        look_forward_twice: The box of layer i also trains layer i - 1's refinement (DINO, section 3.5).

    Returns:
        Predictions of each layer; values do not depend on `look_forward_twice`, gradients do.
    """
    decoder = model.model.decoder
    lowest = torch.finfo(content.dtype).min
    text_blocked = (~encoded.token_mask)[:, None, None, :].to(content.dtype) * lowest
    if attention_blocked is not None:
        attention_blocked = attention_blocked.to(content.dtype) * lowest
    levels = len(encoded.image.level_hw)
    hidden, previous = content, references
    all_logits, all_boxes = [], []
    for index, layer in enumerate(decoder.layers):
        positions = encode_sinusoidal_position_embedding(references, num_pos_feats=model.config.d_model // 2)
        hidden = layer(
            hidden_states=hidden,
            position_embeddings=decoder.reference_points_head(positions),
            reference_points=references[:, :, None].expand(-1, -1, levels, -1),
            spatial_shapes=encoded.image.shapes,
            spatial_shapes_list=encoded.image.level_hw,
            level_start_index=encoded.image.level_starts,
            vision_encoder_hidden_states=encoded.vision,
            text_encoder_hidden_states=encoded.text,
            text_encoder_attention_mask=text_blocked,
            self_attn_mask=attention_blocked,
        )[0]
        normed = decoder.layer_norm(hidden)
        origin = previous if look_forward_twice or index == 0 else previous.detach()
        all_boxes.append((model.bbox_embed[index](normed) + torch.special.logit(origin, eps=1e-5)).sigmoid())
        logits = model.class_embed[index](normed, encoded.text, encoded.token_mask)
        all_logits.append(logits[..., : encoded.text.shape[1]])
        previous = (decoder.bbox_embed[index](hidden) + torch.special.logit(references, eps=1e-5)).sigmoid()
        references = previous.detach()
    return Decoded(torch.stack(all_logits), torch.stack(all_boxes), normed)


def predict(
    model: GroundingModel, image: ImageFeatures, text: TextFeatures, precision: Precision = "fp32"
) -> tuple[Tensor, Tensor]:
    """Run everything after the two encoders and return the last predictions; call it without gradient.

    Only the feature enhancer computes in `precision`.

    Returns:
        Token logits (B, Q, T), -inf on padding, and boxes (B, Q, 4), cx cy w h in [0, 1], refined where the model has
        a box refiner.
    """
    logits, boxes, queries = predict_coarsely(model, image, text, precision)
    return logits, refine(model, image, logits, boxes, queries)


def refine(model: GroundingModel, image: ImageFeatures, logits: Tensor, boxes: Tensor, queries: Tensor) -> Tensor:
    """Let the model's box refiner, where it has one, move the sides of the boxes that `predict_coarsely` found."""
    refiner = refiner_of(model)
    if refiner is None or image.fine is None:
        return boxes
    return refine_boxes(refiner, image.fine, logits, boxes, queries)


def predict_coarsely(
    model: GroundingModel, image: ImageFeatures, text: TextFeatures, precision: Precision = "fp32"
) -> tuple[Tensor, Tensor, Tensor]:
    """Do as `predict` does, but for the refinement; return the last queries, normalised, (B, Q, d), too."""
    encoded = enhance(model, image, text, precision)
    start = start_queries(model, encoded)
    hidden, anchors = run_decoder(
        model.model.decoder,
        start.content,
        start.references,
        encoded.vision,
        image.level_hw,
        encoded.text,
        encoded.token_mask,
    )
    logits = model.class_embed[-1](hidden, encoded.text, encoded.token_mask)[..., : encoded.text.shape[1]]
    boxes = (model.bbox_embed[-1](hidden) + torch.special.logit(anchors, eps=1e-5)).sigmoid()
    return logits, boxes, hidden
