"""Attention of training against transformers' own: the same results and the same gradients."""

import copy

import pytest
import torch
from torch import Tensor, nn
from transformers.models.grounding_dino.modeling_grounding_dino import MultiScaleDeformableAttention

from models.training.attention import use_fused_attention
from models.training.batches import collate
from models.training.criterion import grounding_loss
from models.training.deformable import sample_levels
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


@pytest.mark.parametrize("spread", [0.4, 3.0])
@pytest.mark.parametrize(("heads", "points"), [(1, 1), (2, 3)])
def test_sampling_is_transformers(spread: float, heads: int, points: int) -> None:
    """Values and gradients; a spread of 3 lies mostly outside of the image."""
    generator = torch.Generator().manual_seed(0)
    size = sum(height * width for height, width in LEVEL_HW)
    value = torch.randn(2, size, heads, 4, generator=generator)
    places = 0.5 + spread * (torch.rand(2, 6, heads, len(LEVEL_HW), points, 2, generator=generator) - 0.5) * 2
    weights = torch.rand(2, 6, heads, len(LEVEL_HW), points, generator=generator)
    direction = torch.randn(2, 6, heads * 4, generator=generator)

    def run(sample) -> list[Tensor]:  # type: ignore[no-untyped-def]
        leaves = [tensor.clone().requires_grad_(True) for tensor in (value, places, weights)]
        read = sample(*leaves)
        (read * direction).sum().backward()
        return [read.detach(), *(leaf.grad for leaf in leaves)]

    theirs = MultiScaleDeformableAttention()
    expected = run(lambda v, p, w: theirs(v, torch.tensor(LEVEL_HW), LEVEL_HW, None, p, w, 64))
    for mine, their in zip(run(lambda v, p, w: sample_levels(v, LEVEL_HW, p, w)), expected, strict=True):
        torch.testing.assert_close(mine, their, atol=1e-5, rtol=1e-4)


def test_a_trained_detector_still_samples_in_16_bits() -> None:
    """Under autocast values and weights are in 16 bits and places are not: left to transformers' own module."""
    generator = torch.Generator().manual_seed(0)
    value = torch.randn(1, sum(height * width for height, width in LEVEL_HW), 2, 4, generator=generator)
    places = torch.rand(1, 6, 2, len(LEVEL_HW), 3, 2, generator=generator)
    weights = torch.rand(1, 6, 2, len(LEVEL_HW), 3, generator=generator)
    plain, fused = (nn.ModuleList([MultiScaleDeformableAttention()]) for _ in range(2))
    use_fused_attention(fused)
    with torch.autocast("cpu", torch.bfloat16):
        expected, read = (
            sampler(value.bfloat16(), torch.tensor(LEVEL_HW), LEVEL_HW, None, places, weights.bfloat16(), 64)
            for sampler in (plain[0], fused[0])
        )
    torch.testing.assert_close(read, expected, atol=0, rtol=0)
