"""Attention for training: the same numbers and gradients as transformers' modules, without a score held for every pair.

transformers writes out the scores of all image tokens with all words, and shifts, clamps and copies them for a softmax
in each direction. A softmax does not change where all of its scores are shifted, so each direction is one
`scaled_dot_product_attention`, which keeps no scores. Deformable attention is that of `models.training.deformable`.
Forward passes without gradient have still cheaper forms, in `models.grounding_dino`.
"""

from typing import Any, cast

from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers.models.grounding_dino.modeling_grounding_dino import (
    GroundingDinoBiMultiHeadAttention,
    GroundingDinoMultiheadAttention,
)
from transformers.models.mm_grounding_dino.modeling_mm_grounding_dino import (
    MMGroundingDinoBiMultiHeadAttention,
    MMGroundingDinoMultiheadAttention,
)

from models.grounding_dino.heads import attend, join_heads, split_heads
from models.training.deformable import SUMMED_ROWS


class _FusedBoth(nn.Module):
    """The fusion's attention: image tokens read from words, and words from image tokens."""

    def forward(
        self,
        vision_features: Tensor,
        text_features: Tensor,
        vision_attention_mask: Tensor | None = None,
        text_attention_mask: Tensor | None = None,
    ) -> tuple[tuple[Tensor, None], tuple[Tensor, None]]:
        """Attend both ways.

        Args:
            vision_features: (B, S, d).
            text_features: (B, T, d).
            vision_attention_mask: (B, S) bool, True on padding; None for none.
            text_attention_mask: (B, T) bool, True on padding; None for none.

        Returns:
            What image tokens read, (B, S, d), and what words read, (B, T, d), each with None in place of its weights.
        """
        own = cast(GroundingDinoBiMultiHeadAttention, self)
        dropout = own.dropout if self.training else 0.0
        places, words = (
            split_heads(project(features), own.num_heads)
            for project, features in ((own.vision_proj, vision_features), (own.text_proj, text_features))
        )
        place_values = split_heads(own.values_vision_proj(vision_features), own.num_heads)
        word_values = split_heads(own.values_text_proj(text_features), own.num_heads)
        read_vision = scaled_dot_product_attention(
            places, words, word_values, _seen(text_attention_mask), dropout, scale=own.scale
        )
        read_text = scaled_dot_product_attention(
            words, places, place_values, _seen(vision_attention_mask), dropout, scale=own.scale
        )
        return (own.out_vision_proj(join_heads(read_vision)), None), (own.out_text_proj(join_heads(read_text)), None)


def _seen(padding: Tensor | None) -> Tensor | None:
    """Return the mask of what may be looked at, (B, 1, 1, N), or None where that is everything."""
    return None if padding is None or not padding.any() else ~padding[:, None, None]


class _Fused(nn.Module):
    """Attention of queries to keys, with heads."""

    def forward(
        self,
        queries: Tensor,
        keys: Tensor,
        values: Tensor,
        attention_mask: Tensor | None = None,
        output_attentions: bool | None = False,
    ) -> tuple[Tensor, None]:
        """Attend.

        Args:
            queries: (B, Q, d).
            keys: (B, K, d).
            values: (B, K, d).
            attention_mask: Float, added to the scores, of a shape that extends to (B, heads, Q, K); None adds nothing.
            output_attentions: Taken as transformers' layers give it; there are no weights to return.

        Returns:
            (B, Q, d), and None in place of the weights.
        """
        own = cast(GroundingDinoMultiheadAttention, self)
        dropout = own.dropout.p if self.training else 0.0
        return attend(own, queries, keys, values, attention_mask, dropout), None


class _FusedBothGrounding(_FusedBoth, GroundingDinoBiMultiHeadAttention):  # type: ignore[misc]
    pass


class _FusedBothMMGrounding(_FusedBoth, MMGroundingDinoBiMultiHeadAttention):  # type: ignore[misc]
    pass


class _FusedGrounding(_Fused, GroundingDinoMultiheadAttention):  # type: ignore[misc]
    pass


class _FusedMMGrounding(_Fused, MMGroundingDinoMultiheadAttention):  # type: ignore[misc]
    pass


_FUSED: dict[type[nn.Module], Any] = {
    **SUMMED_ROWS,
    GroundingDinoBiMultiHeadAttention: _FusedBothGrounding,
    MMGroundingDinoBiMultiHeadAttention: _FusedBothMMGrounding,
    GroundingDinoMultiheadAttention: _FusedGrounding,
    MMGroundingDinoMultiheadAttention: _FusedMMGrounding,
}


def use_fused_attention(model: nn.Module) -> None:
    """Let a detector's attention modules compute so, in place; weights, their names and all results stay.

    Args:
        model: A Grounding DINO or MM-Grounding-DINO of transformers; other modules are left as they are.
    """
    for module in model.modules():
        if fused := _FUSED.get(type(module)):
            module.__class__ = fused
