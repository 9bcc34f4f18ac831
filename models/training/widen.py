"""Double the width of a tiny Grounding DINO, so that it begins as what it was.

Each channel becomes two. What writes channels writes both alike, so that normalisations see the statistics that they
saw; what reads them splits its weights between the two, unevenly, so that the two part in training. Sine positions are
not doubled but gain frequencies in between: what reads positions reads those channels that hold the old frequencies.

Source: Chen et al. 2016, Net2Net, section 2.3 (Net2WiderNet).
"""

import copy
import re

import torch
from torch import Tensor
from transformers import MMGroundingDinoForObjectDetection

_READS_POSITIONS = re.compile(
    r"self_attn\.(query|key|sampling_offsets|attention_weights)\.weight$"
    r"|encoder_attn\.(sampling_offsets|attention_weights)\.weight$"
    r"|encoder_attn_text\.query\.weight$"
    r"|reference_points_head\.layers\.0\.weight$"
)
_ATTENTION_QUERY = re.compile(r"\.query\.(weight|bias)$")
_TEXT_READER = re.compile(r"encoder_attn_text\.(key|value)\.weight$")
_ROOT = 2**0.5


def widen(model: MMGroundingDinoForObjectDetection, unevenness: float = 0.5) -> MMGroundingDinoForObjectDetection:
    """Return the model with twice its `d_model`, heads and feed-forward widths unchanged, that predicts the same.

    Args:
        model: Any tiny model; it is left as it is. Backbone and text encoder keep their widths.
        unevenness: Standard deviation of what one of two channels gives less than the other, in shares of a weight
            matrix's root mean square.

    Raises:
        ValueError: The width is no multiple of 64, for which GroupNorm's groups would mix channels.
    """
    width = model.config.d_model
    if width % 64:
        raise ValueError(f"a detector of width {width} cannot be widened; take a multiple of 64")
    config = copy.deepcopy(model.config)
    config.d_model = 2 * width
    wide = MMGroundingDinoForObjectDetection(config)
    last_text_norm = f"encoder.layers.{config.encoder_layers - 1}.text_enhancer_layer.layer_norm_after."
    noise = torch.Generator().manual_seed(0)
    old = model.state_dict()
    state = {}
    for name, target in wide.state_dict().items():
        value = old[name]
        if value.dim() and value.shape[0] < target.shape[0]:
            value = _write(value, 0)
        if value.dim() > 1 and value.shape[1] < target.shape[1]:
            if name.endswith(("level_embed", "query_position_embeddings.weight")):
                value = _write(value, 1)
            else:
                value = _read(value, noise, 0.0 if _READS_POSITIONS.search(name) else unevenness)
        if _ATTENTION_QUERY.search(name) and "text_backbone" not in name:
            value = value / _ROOT  # the product of twice as many channels, divided by the root of twice as many
        if last_text_norm in name:
            value = value / _ROOT  # likewise in the contrastive head, whose words these are
        if _TEXT_READER.search(name):
            value = value * _ROOT
        state[name] = value
    wide.load_state_dict(state)
    wide.requires_grad_(True)
    return wide


def _write(value: Tensor, dim: int) -> Tensor:
    """Repeat channels along a dimension, in pairs as sine and cosine of a frequency lie: 0 1 0 1 2 3 2 3 and so on."""
    pairs: Tensor = value.unflatten(dim, (-1, 1, 2))
    return pairs.repeat_interleave(2, dim + 1).flatten(dim, dim + 2)


def _read(value: Tensor, noise: torch.Generator, unevenness: float) -> Tensor:
    """Split the columns of (O, I) among the copies of each channel; with 0 the first copy gets all."""
    if unevenness == 0:
        first, second = value, torch.zeros_like(value)
    else:
        part = torch.randn(value.shape, generator=noise) * value.square().mean().sqrt() * unevenness
        first, second = value / 2 + part, value / 2 - part
    return torch.stack([first.unflatten(1, (-1, 2)), second.unflatten(1, (-1, 2))], dim=2).flatten(1)
