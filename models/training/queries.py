"""More queries for images that hold more objects than the model was made for."""

import torch
from torch import nn

from models.grounding_dino.features import GroundingModel


def grow_queries(model: GroundingModel, count: int, seed: int = 0) -> bool:
    """Raise the number of object queries; new ones start as noisy copies of those there are.

    Args:
        model: Changed in place, its configuration too.
        count: Wanted number; fewer than there are changes nothing.
        seed: Of the noise.

    Returns:
        Whether the model was changed.
    """
    have = model.config.num_queries
    if count <= have:
        return False
    model.config.num_queries = count
    if model.config.embedding_init_target:
        old = model.model.query_position_embeddings.weight.detach()
        noise = torch.randn(count - have, old.shape[1], generator=torch.Generator().manual_seed(seed)).to(old)
        copies = old[torch.arange(count - have) % have] + 0.1 * old.std() * noise
        grown = nn.Embedding(count, old.shape[1]).to(old)
        with torch.no_grad():
            grown.weight.copy_(torch.cat([old, copies]))
        model.model.query_position_embeddings = grown
    return True
