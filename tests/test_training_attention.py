"""Attention of training against transformers' own: the same results and the same gradients."""

import copy

import pytest
import torch
from torch import Tensor, nn
from transformers import GroundingDinoConfig
from transformers.models.grounding_dino.modeling_grounding_dino import GroundingDinoMultiscaleDeformableAttention

from models.training.attention import use_fused_attention
from models.training.batches import collate
from models.training.criterion import grounding_loss
from models.training.denoising import DenoisingConfig
from models.training.forward import DenoisingTrainer
from tests.grounding_models import NAMED_SAMPLES

LEVEL_HW = [(5, 7), (3, 2), (1, 1)]


def step(trainer: DenoisingTrainer, batch) -> tuple[float, dict[str, Tensor]]:  # type: ignore[no-untyped-def]
    trainer.train()
    output = trainer(batch, torch.Generator().manual_seed(0))
    terms = grounding_loss(output.decoded, output.selection, batch.targets, output.denoised, output.denoising)
    total = torch.stack(list(terms.values())).sum()
    total.backward()
    gradients = {name: value.grad for name, value in trainer.named_parameters() if value.grad is not None}
    return float(total.detach()), gradients


def fresh_copy(model):  # type: ignore[no-untyped-def]
    """Return the model with transformers' own modules, whatever trainers have made of the fixture's."""
    copied = type(model)(copy.deepcopy(model.config))
    copied.load_state_dict(model.state_dict())
    return copied.train(model.training)


def test_a_step_is_that_of_transformers_modules(grounding_model, grounding_processor, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    """Losses and all gradients, for both kinds of model, with texts of unequal length and denoising queries."""
    batch = collate(NAMED_SAMPLES, grounding_processor.tokenizer)
    config = DenoisingConfig(queries=6, max_groups=2)
    with monkeypatch.context() as patched:
        patched.setattr("models.training.forward.use_fused_attention", lambda _: None)
        torch.manual_seed(0)
        plain = DenoisingTrainer(fresh_copy(grounding_model), config)
    fused = copy.deepcopy(plain)
    use_fused_attention(fused.model)
    assert {type(module) for module in plain.modules()} - {type(module) for module in fused.modules()}
    assert fused.state_dict().keys() == plain.state_dict().keys()
    (expected, their_gradients), (loss, gradients) = step(plain, batch), step(fused, batch)
    assert loss == pytest.approx(expected, rel=1e-5)
    assert gradients.keys() == their_gradients.keys()
    largest = max(float(gradient.abs().max()) for gradient in their_gradients.values())
    for name, gradient in their_gradients.items():
        torch.testing.assert_close(
            gradients[name], gradient, atol=3e-5 * largest, rtol=1e-3, msg=lambda text, name=name: f"{name}: {text}"
        )


def both_kinds(heads: int, points: int, reach: float = 1.0) -> tuple[nn.Module, nn.Module]:
    """Return a deformable attention of transformers with random weights, and the same as training has it."""
    torch.manual_seed(0)
    config = GroundingDinoConfig(d_model=8, num_feature_levels=len(LEVEL_HW))
    plain = GroundingDinoMultiscaleDeformableAttention(config, heads, points)
    for parameter in plain.parameters():
        nn.init.normal_(parameter, std=0.5)
    with torch.no_grad():
        plain.sampling_offsets.bias *= reach
    fused = nn.ModuleList([copy.deepcopy(plain)])
    use_fused_attention(fused)
    return plain, fused[0]


def inputs(coordinates: int) -> dict[str, Tensor]:
    """Return random inputs for two images; the second's last tokens are padding."""
    generator = torch.Generator().manual_seed(0)
    size = sum(height * width for height, width in LEVEL_HW)
    seen = torch.ones(2, size, dtype=torch.bool)
    seen[1, -5:] = False
    return {
        "hidden_states": torch.randn(2, 6, 8, generator=generator),
        "attention_mask": seen,
        "encoder_hidden_states": torch.randn(2, size, 8, generator=generator),
        "position_embeddings": torch.randn(2, 6, 8, generator=generator),
        "reference_points": torch.rand(2, 6, len(LEVEL_HW), coordinates, generator=generator),
    }


def attend(attention: nn.Module, given: dict[str, Tensor]) -> Tensor:
    read: Tensor = attention(**given, spatial_shapes=torch.tensor(LEVEL_HW), spatial_shapes_list=LEVEL_HW)[0]
    return read


@pytest.mark.parametrize("reach", [1.0, 20.0])
@pytest.mark.parametrize("coordinates", [2, 4])
@pytest.mark.parametrize(("heads", "points"), [(1, 1), (2, 3)])
def test_deformable_attention_is_transformers(coordinates: int, heads: int, points: int, reach: float) -> None:
    """Values and all gradients, around points and boxes; with a reach of 20 most samples lie outside of the image."""
    direction = torch.randn(2, 6, 8, generator=torch.Generator().manual_seed(1))

    def run(attention: nn.Module) -> list[Tensor]:
        given = {name: value.clone() for name, value in inputs(coordinates).items()}
        leaves = [value.requires_grad_(True) for name, value in given.items() if name != "attention_mask"]
        read = attend(attention, given)
        (read * direction).sum().backward()
        gradients = [leaf.grad for leaf in (*leaves, *attention.parameters())]
        return [read.detach(), *(gradient for gradient in gradients if gradient is not None)]

    plain, fused = both_kinds(heads, points, reach)
    assert type(plain) is not type(fused)
    expected, mine = run(plain), run(fused)
    assert len(expected) == len(mine) == 1 + 4 + 8
    for my, their in zip(mine, expected, strict=True):
        torch.testing.assert_close(my, their, atol=2e-5 * float(their.abs().max()), rtol=1e-4)


def test_a_trained_detector_still_samples_in_16_bits() -> None:
    """Under autocast projections are in 16 bits: left to transformers' own module."""
    plain, fused = both_kinds(2, 3)
    with torch.autocast("cpu", torch.bfloat16):
        expected, read = (attend(attention, inputs(4)) for attention in (plain, fused))
    torch.testing.assert_close(read, expected, atol=0, rtol=0)
