"""Convolutional networks made faster for inference, once, when they are loaded; what they compute stays.

Batch normalisation with fixed statistics is a scale and a shift a channel: the convolution before it takes both. And
maps are kept with their channels last, as the libraries' convolutions like them best.
"""

from itertools import pairwise
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights
from transformers.models.grounding_dino.modeling_grounding_dino import GroundingDinoFrozenBatchNorm2d
from transformers.models.mm_grounding_dino.modeling_mm_grounding_dino import MMGroundingDinoFrozenBatchNorm2d
from transformers.models.resnet.modeling_resnet import (
    ResNetBasicLayer,
    ResNetBottleNeckLayer,
    ResNetConvLayer,
    ResNetShortCut,
)

_FROZEN_NORMS = (GroundingDinoFrozenBatchNorm2d, MMGroundingDinoFrozenBatchNorm2d)
_RESNET_PARTS = (ResNetConvLayer, ResNetBasicLayer, ResNetBottleNeckLayer)
"""What their activations take is nobody else's, and can be overwritten."""
_FROZEN_EPS = 1e-5
"""The number that transformers' frozen normalisations add to the variance; they don't keep it."""


@torch.no_grad()
def prepare_convolutions(network: nn.Module) -> None:
    """Fold batch normalisation into convolutions and put channels last, in place.

    A network without batch normalisation, as a vision transformer, is left as it is. Afterwards it can be used for
    inference only, and its state dict fits no other network.

    Args:
        network: In evaluation mode.

    Raises:
        ValueError: It is in training mode, where the statistics are not fixed.
    """
    if network.training:
        raise ValueError("a network in training cannot be prepared for inference")
    pairs = [(parent, *names) for parent in network.modules() for names in _pairs(parent)]
    for module in network.modules():
        if isinstance(module, _RESNET_PARTS) and isinstance(module.activation, nn.ReLU):
            module.activation.inplace = True
    for parent, conv_name, norm_name in pairs:
        conv, norm = cast(nn.Conv2d, parent.get_submodule(conv_name)), parent.get_submodule(norm_name)
        _fold(conv, norm)
        setattr(parent, norm_name, nn.Identity())
    if pairs:
        network.to(memory_format=torch.channels_last)


def _pairs(parent: nn.Module) -> list[tuple[str, str]]:
    """Return the names of children that run one after the other: a convolution and its normalisation."""
    if not isinstance(parent, ResNetConvLayer | ResNetShortCut | nn.Sequential):
        return []
    return [
        (first, second)
        for (first, conv), (second, norm) in pairwise(parent.named_children())
        if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d | _FROZEN_NORMS[0] | _FROZEN_NORMS[1])
    ]


def _fold(conv: nn.Conv2d, norm: nn.Module) -> None:
    """Let a convolution do what its normalisation does after it."""
    eps = norm.eps if isinstance(norm, nn.BatchNorm2d) else _FROZEN_EPS
    statistics = (norm.get_buffer("running_mean"), norm.get_buffer("running_var"), eps)
    scale, shift = cast(Tensor, norm.weight), cast(Tensor, norm.bias)
    conv.weight, conv.bias = fuse_conv_bn_weights(conv.weight, conv.bias, *statistics, scale, shift)
