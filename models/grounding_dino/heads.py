"""Attention with heads, by the weights of transformers' module, for inference and for training alike."""

from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers.models.grounding_dino.modeling_grounding_dino import GroundingDinoMultiheadAttention


def split_heads(projected: Tensor, heads: int) -> Tensor:
    """Return (B, heads, N, d / heads) of (B, N, d)."""
    parts: Tensor = projected.unflatten(-1, (heads, -1)).transpose(1, 2)
    return parts


def join_heads(read: Tensor) -> Tensor:
    """Return (B, N, d) of (B, heads, N, d / heads)."""
    return read.transpose(1, 2).flatten(2)


def attend(
    attention: GroundingDinoMultiheadAttention,
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    mask: Tensor | None,
    dropout: float = 0.0,
) -> Tensor:
    """Attend as the module does.

    Args:
        attention: The module whose weights are used.
        queries: (B, Q, d).
        keys: (B, K, d).
        values: (B, K, d).
        mask: Extends to (B, heads, Q, K): bool, False where a query must not look, or float, added to the scores.
        dropout: Share of the attention that is dropped.

    Returns:
        (B, Q, d).
    """
    parts = (attention.query(queries), attention.key(keys), attention.value(values))
    query, key, value = (split_heads(part, attention.num_attention_heads) for part in parts)
    read = scaled_dot_product_attention(query, key, value, mask, dropout)
    projected: Tensor = attention.out_proj(join_heads(read))
    return projected
