"""Fusion, deformable attention and feed-forward of inference against transformers' modules."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers import GroundingDinoConfig
from transformers.models.grounding_dino import modeling_grounding_dino as theirs

from models.grounding_dino import feed_forward, fusion
from models.grounding_dino.deformable import attend_by_grid, attend_deformably, attend_to_boxes
from models.grounding_dino.forward import encode_image, encode_text, enhance
from models.grounding_dino.fusion import fuse
from models.grounding_dino.spans import stack_texts
from tests.grounding_models import PROMPTS_20, pixels, text_of

CONFIG = GroundingDinoConfig(
    d_model=32, encoder_attention_heads=4, encoder_ffn_dim=96, num_feature_levels=2, encoder_n_points=3
)
"""Fusion heads of 24 on 32 dimensions: no two sizes are equal by chance."""


def random_weights(module: torch.nn.Module, size: float) -> Any:
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(size * torch.randn(parameter.shape, generator=generator))
    return module.eval()


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("size", [0.1, 1.0, 3.0])
@pytest.mark.parametrize("block", [512, 7])
def test_fusion_is_transformers(size: float, block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where scores differ by thousands, and where the image is not a whole number of blocks."""
    monkeypatch.setattr(fusion, "_BLOCK", block)
    layer = random_weights(theirs.GroundingDinoFusionLayer(CONFIG), size)
    vision, text = normal(2, 50, 32), normal(2, 9, 32, seed=1)
    mask = torch.arange(9)[None] < torch.tensor([[9], [4]])
    with torch.inference_mode():
        mine = fuse(layer, vision, text, mask)
        (their_vision, shares), (their_text, _) = layer(vision, text, torch.zeros(2, 50, dtype=torch.bool), ~mask)
    scale = max(float(their_vision.abs().max()), 1.0)
    torch.testing.assert_close(mine[0], their_vision, atol=1e-5 * scale, rtol=1e-5)
    torch.testing.assert_close(mine[1], their_text, atol=1e-5 * scale, rtol=1e-5)
    if size < 1:
        assert (shares.amax(-1) < 0.9).any(), "a softmax that only chooses hides the sums"
    assert (their_vision - layer.layer_norm_vision(vision)).abs().max() > 1e-3


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
@settings(max_examples=25, deadline=None)
@given(
    sides=st.tuples(*[st.integers(1, 9)] * 4),
    count=st.integers(1, 2),
    reach=st.sampled_from([0.05, 1.0, 30.0]),
    seed=st.integers(0, 1000),
)
def test_deformable_attention_is_transformers(
    device: str, sides: tuple[int, ...], count: int, reach: float, seed: int
) -> None:
    """Also on levels of one pixel, and with offsets far outside of the image."""
    attention = random_weights(theirs.GroundingDinoMultiscaleDeformableAttention(CONFIG, 4, 3), 0.5).to(device)
    level_hw = [(sides[0], sides[1]), (sides[2], sides[3])]
    with torch.no_grad():
        attention.sampling_offsets.weight.mul_(reach)
    length = sum(height * width for height, width in level_hw)
    hidden, positions = (normal(count, length, 32, seed=seed + part).to(device) for part in (0, 1))
    ratios = torch.ones((count, 2, 2), device=device)
    references = theirs.GroundingDinoEncoder.get_reference_points(level_hw, ratios, device)
    with torch.inference_mode():
        expected = attention(
            hidden_states=hidden,
            encoder_hidden_states=hidden,
            position_embeddings=positions,
            reference_points=references,
            spatial_shapes=torch.tensor(level_hw, device=device),
            spatial_shapes_list=level_hw,
        )[0]
        # A place is a product there and a sum here; the farther the offset, the more of its fraction is rounded away.
        room = (2e-5 if device == "cpu" else 5e-5) * max(reach, 1.0)
        torch.testing.assert_close(
            attend_deformably(attention, hidden, positions, level_hw), expected, atol=room, rtol=0
        )
        torch.testing.assert_close(attend_by_grid(attention, hidden, positions, level_hw), expected, atol=room, rtol=0)


@settings(max_examples=15, deadline=None)
@given(sides=st.tuples(*[st.integers(1, 9)] * 4), queries=st.integers(1, 5), seed=st.integers(0, 1000))
def test_deformable_attention_to_boxes_is_transformers(sides: tuple[int, ...], queries: int, seed: int) -> None:
    """Boxes of any size, also such that reach out of the image."""
    attention = random_weights(theirs.GroundingDinoMultiscaleDeformableAttention(CONFIG, 4, 3), 0.5)
    level_hw = [(sides[0], sides[1]), (sides[2], sides[3])]
    vision = normal(2, sum(height * width for height, width in level_hw), 32, seed=seed)
    hidden = normal(2, queries, 32, seed=seed + 1)
    boxes = normal(2, queries, 4, seed=seed + 2).sigmoid()
    with torch.inference_mode():
        expected = attention(
            hidden_states=hidden,
            encoder_hidden_states=vision,
            reference_points=boxes[:, :, None].expand(-1, -1, 2, -1),
            spatial_shapes=torch.tensor(level_hw),
            spatial_shapes_list=level_hw,
        )[0]
        found = attend_to_boxes(attention, hidden, vision, boxes, level_hw)
    torch.testing.assert_close(found, expected, atol=2e-5, rtol=0)
    assert found.std() > 1e-3


def test_feed_forward_in_blocks_is_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed_forward, "_BLOCK", 7)
    layer = random_weights(theirs.GroundingDinoDeformableLayer(CONFIG), 0.3)
    hidden = normal(2, 32, 20).transpose(1, 2)  # 40 tokens are no whole number of blocks; their memory has gaps
    with torch.inference_mode():
        expected = layer.fc2(layer.activation_fn(layer.fc1(hidden)))
        torch.testing.assert_close(feed_forward.widen_and_narrow(layer, hidden), expected, atol=1e-5, rtol=1e-5)


def test_with_and_without_gradient_are_one(grounding_model, grounding_processor) -> None:
    texts = [text_of(grounding_processor, PROMPTS_20[:count]) for count in (1, 20)]
    ids, mask = stack_texts(texts, 0)
    image = encode_image(grounding_model, pixels(2))
    text = encode_text(grounding_model, ids, mask)
    plain = enhance(grounding_model, image, text)
    assert plain.vision.requires_grad
    with torch.no_grad():
        quick = enhance(grounding_model, image, text)
    torch.testing.assert_close(quick.vision, plain.vision, atol=2e-5, rtol=0)
    torch.testing.assert_close(quick.text[mask], plain.text[mask], atol=2e-5, rtol=0)
