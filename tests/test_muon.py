"""Muon: orthogonal updates, which weights get them, and the same steps as torch's own two optimisers."""

import copy

import pytest
import torch
from torch import nn

from models.training.muon import Muon, _iterate, _iterate_on_squares, matrix_names, orthogonalise
from models.training.tiny import build_tiny


@pytest.mark.parametrize("shape", [(3, 16, 16), (2, 8, 100), (2, 100, 8)])
def test_orthogonalise_levels_the_singular_values(shape: tuple[int, int, int]) -> None:
    matrices = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    matrices[0] *= 1e-3
    result = orthogonalise(matrices)
    assert result.shape == shape
    values = torch.linalg.svdvals(result)
    assert values[:, : shape[1] // 2 if shape[1] == shape[2] else None].min() > 0.6
    assert values.max() < 1.3
    left, _, right = torch.linalg.svd(matrices, full_matrices=False)
    nearest = left @ right
    alike = (result * nearest).sum((1, 2)) / (result.norm(dim=(1, 2)) * nearest.norm(dim=(1, 2)))
    assert alike.min() > 0.95


def test_the_short_way_for_wide_matrices_gives_the_same() -> None:
    matrices = torch.randn((3, 12, 80), generator=torch.Generator().manual_seed(0))
    matrices[1, 3] = matrices[1, 2]
    matrices /= matrices.norm(dim=(1, 2), keepdim=True)
    torch.testing.assert_close(_iterate_on_squares(matrices), _iterate(matrices), atol=1e-5, rtol=0)


def test_orthogonalise_of_nothing() -> None:
    assert not orthogonalise(torch.zeros(2, 4, 6)).any()
    assert orthogonalise(torch.zeros(0, 4, 6)).shape == (0, 4, 6)


def test_which_weights_are_matrices() -> None:
    model = build_tiny()
    names = matrix_names(model)
    shapes = {name: parameter.shape for name, parameter in model.named_parameters()}
    assert {len(shapes[name]) for name in names} == {2, 4}
    assert all(name.endswith(".weight") and shapes[name][0] >= 8 for name in names)
    assert any("backbone.conv_encoder" in name for name in names)
    assert not any("sampling_offsets" in name or "embeddings" in name for name in names)
    assert "model.query_position_embeddings.weight" not in names
    assert "model.decoder.bbox_embed.0.layers.1.weight" in names
    assert "model.decoder.bbox_embed.0.layers.2.weight" not in names, "four outputs"


def small_net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(12, 16), nn.Tanh(), nn.Linear(16, 8))


def train(net: nn.Module, optimiser: torch.optim.Optimizer, steps: int) -> list[float]:
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn((64, 12), generator=generator)
    wanted = torch.randn((64, 8), generator=generator)
    losses = []
    for _ in range(steps):
        loss = (net(inputs) - wanted).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    return losses


def test_groups_that_are_no_matrices_are_trained_by_adamw() -> None:
    net = small_net()
    reference = copy.deepcopy(net)
    own = Muon([{"params": net.parameters()}], lr=1e-2, weight_decay=0.1)
    theirs = torch.optim.AdamW(reference.parameters(), lr=1e-2, weight_decay=0.1)
    assert train(net, own, 20) == pytest.approx(train(reference, theirs, 20), rel=1e-4)


def test_matrices_are_trained_as_by_torchs_muon() -> None:
    """There the orthogonal matrix is one of bfloat16, hence the tolerance."""
    net = small_net().requires_grad_(False)
    for layer in (net[0], net[2]):
        layer.weight.requires_grad_(True)
    reference = copy.deepcopy(net)
    weights = [[layer.weight for layer in (one[0], one[2])] for one in (net, reference)]
    start = [weight.detach().clone() for weight in weights[0]]
    own = Muon([{"params": weights[0], "matrices": True}], lr=1e-2, weight_decay=0.1)
    theirs = torch.optim.Muon(weights[1], lr=1e-2, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    train(net, own, 10)
    train(reference, theirs, 10)
    for before, mine, other in zip(start, *weights, strict=True):
        moved, expected = mine - before, other - before
        assert torch.nn.functional.cosine_similarity(moved.flatten(), expected.flatten(), dim=0) > 0.99
        assert moved.norm().item() == pytest.approx(expected.norm().item(), rel=0.05)


def test_a_convolution_is_the_matrix_of_its_output_channels() -> None:
    torch.manual_seed(0)
    layer = nn.Conv2d(3, 8, 3, bias=False).to(memory_format=torch.channels_last)
    before = layer.weight.detach().clone()
    optimiser = Muon([{"params": [layer.weight], "matrices": True}], lr=0.1, weight_decay=0.0)
    layer(torch.randn(2, 3, 9, 9)).square().sum().backward()
    gradient = layer.weight.grad
    assert gradient is not None
    optimiser.step()
    expected = orthogonalise(gradient.flatten(1)[None])[0].view(8, 3, 3, 3) * -0.1 * 0.2 * 27**0.5
    torch.testing.assert_close(layer.weight.detach() - before, expected, atol=1e-5, rtol=1e-3)


def test_a_parameter_without_a_gradient_stays() -> None:
    net = small_net()
    before = copy.deepcopy(net.state_dict())
    optimiser = Muon([{"params": [net[0].weight], "matrices": True}, {"params": [net[0].bias]}], lr=1.0)
    optimiser.step()
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_its_state_goes_on() -> None:
    def optimise(net: nn.Sequential) -> Muon:
        matrices, others = [net[0].weight, net[2].weight], [net[0].bias, net[2].bias]
        return Muon([{"params": matrices, "matrices": True}, {"params": others}], lr=1e-2)

    unbroken, broken = small_net(), small_net()
    losses = train(unbroken, optimise(unbroken), 8)
    optimiser = optimise(broken)
    begun = train(broken, optimiser, 4)
    resumed = optimise(broken)
    resumed.load_state_dict(copy.deepcopy(optimiser.state_dict()))
    assert begun + train(broken, resumed, 4) == losses


def test_it_takes_no_closure() -> None:
    with pytest.raises(ValueError, match="call backward before step"):
        Muon([{"params": small_net().parameters()}], lr=1e-2).step(lambda: 0.0)
