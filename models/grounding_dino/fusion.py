"""The feature enhancer's fusion of image and text, exact, without a score for every pair held at once.

transformers projects the image into every head, makes all scores N_image × N_text, and copies them several times for a
softmax in each direction. Three rearrangements give the same numbers for a fraction of the cost and memory:

- The image's projections move to the text's side, which is far shorter. Scores: (Wv) · k = v · (Wᵀk). The text's
  reading: Σ a (Wv + b) = W (Σ a v) + b, since the shares a sum to 1. The image's reading: W (Σ a t) = Σ a (Wt). The
  bias of the image's projection adds the same to all scores of a text token, so the softmax over the image drops it.
- The scores of a block of image tokens serve both directions, then are forgotten.
- The softmax over the image is summed block by block, with the greatest score so far taken out of the sums.

transformers takes the maximum out of the scores and clamps what is left at ±50,000; a difference of more than about 100
is 0 after the softmax in float32, so that the clamp changes nothing.

Source: Liu et al. 2023 (Grounding DINO), section 3.1; Li et al. 2022 (GLIP), section 3.3; Milakov and Gimelshein 2018,
for the softmax in one pass.
"""

import torch
from torch import Tensor
from transformers.models.grounding_dino.modeling_grounding_dino import (
    GroundingDinoBiMultiHeadAttention,
    GroundingDinoFusionLayer,
)

_BLOCK = 512
"""Image tokens at a time on a CPU."""
_BLOCK_DEVICE = 8192
"""The same on an accelerator, which wants fewer and larger steps."""


def fuse(layer: GroundingDinoFusionLayer, vision: Tensor, text: Tensor, token_mask: Tensor) -> tuple[Tensor, Tensor]:
    """Let image and text read from each other, as the layer does in evaluation mode.

    Args:
        layer: The module whose weights are used.
        vision: (B, S, d).
        text: (B, T, d).
        token_mask: (B, T) bool, False on padding.

    Returns:
        Vision (B, S, d) and text (B, T, d); they carry no gradient.
    """
    vision, text = layer.layer_norm_vision(vision), layer.layer_norm_text(text)
    read_vision, read_text = _attend_both_ways(layer.attn, vision, text, token_mask)
    return read_vision.mul_(layer.vision_param).add_(vision), read_text.mul_(layer.text_param).add_(text)


def _attend_both_ways(
    attention: GroundingDinoBiMultiHeadAttention, vision: Tensor, text: Tensor, token_mask: Tensor
) -> tuple[Tensor, Tensor]:
    """Return what each image token reads from the text (B, S, d), and each text token from the image (B, T, d)."""
    count, length, dims = vision.shape
    words, heads, own = text.shape[1], attention.num_heads, attention.head_dim
    keys = attention.text_proj(text).view(count, words, heads, own) * attention.scale
    values = attention.values_text_proj(text).view(count, words, heads, own)
    queries = torch.einsum("bthe,hed->bdht", keys, attention.vision_proj.weight.view(heads, own, dims)).flatten(2)
    bias = torch.einsum("bthe,he->bht", keys, attention.vision_proj.bias.view(heads, own))
    bias = bias.masked_fill(~token_mask[:, None], -torch.inf)[:, None]
    answers = torch.einsum("bthe,dhe->bhtd", values, attention.out_vision_proj.weight.view(dims, heads, own))
    answers = answers.flatten(1, 2)
    read = torch.empty_like(vision, memory_format=torch.contiguous_format)
    greatest = vision.new_full((count, 1, heads * words), -torch.inf)
    total = torch.zeros_like(greatest)
    summed = vision.new_zeros((count, heads * words, dims))
    block = _BLOCK if vision.device.type == "cpu" else _BLOCK_DEVICE
    for start in range(0, length, block):
        part = vision[:, start : start + block]
        scores = part @ queries
        shares = (scores.view(count, -1, heads, words) + bias).softmax(-1).flatten(2)
        read[:, start : start + block] = shares @ answers
        before = greatest
        greatest = torch.maximum(before, scores.amax(1, keepdim=True))
        shrink = (before - greatest).exp_()
        scores.sub_(greatest).exp_()
        total = total.mul_(shrink).add_(scores.sum(1, keepdim=True))
        summed = torch.baddbmm(summed.mul_(shrink.transpose(1, 2)), scores.transpose(1, 2), part)
    summed = summed.div_(total.transpose(1, 2)).view(count, heads, words, dims)
    weight = attention.values_vision_proj.weight.view(heads, own, dims)
    heard = torch.einsum("bhtd,hed->bthe", summed, weight).flatten(2) + attention.values_vision_proj.bias
    return read.add_(attention.out_vision_proj.bias), attention.out_text_proj(heard)
