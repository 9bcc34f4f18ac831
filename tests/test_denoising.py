"""Denoising queries: how they are noised, what they should say, and who sees whom."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from models.training.denoising import Denoising, DenoisingConfig, attention_blocked, make_denoising
from models.training.matcher import Target

TOKENS = 9
SPANS = torch.zeros(4, TOKENS)
for prompt in range(4):
    SPANS[prompt, 1 + 2 * prompt] = 1
SPANS[3, 8] = 1


def target(count: int) -> Target:
    """Return boxes in the middle, so that no noise reaches the image's edge, named by prompts in turn."""
    boxes = torch.tensor([[0.5, 0.5, 0.1 + 0.02 * row, 0.2] for row in range(count)]).reshape(-1, 4)
    return Target(boxes, SPANS[torch.arange(count) % 4])


def made(counts: tuple[int, ...], seed: int = 0, **fields: object) -> Denoising:
    config = DenoisingConfig(**fields)  # type: ignore[arg-type]
    denoising = make_denoising(
        [target(count) for count in counts], [SPANS] * len(counts), config, torch.Generator().manual_seed(seed)
    )
    assert denoising is not None
    return denoising


def split(tensor: torch.Tensor, denoising: Denoising, most: int, polarities: int = 2) -> torch.Tensor:
    """(B, D, ...) -> (B, groups, polarity, objects, ...)."""
    return tensor.unflatten(1, (denoising.groups, polarities, most))


@pytest.mark.parametrize(
    ("counts", "queries", "groups"), [((1, 0), 40, 5), ((10,), 40, 4), ((3, 20), 40, 2), ((60,), 40, 1)]
)
def test_groups_adapt_to_the_boxes(counts: tuple[int, ...], queries: int, groups: int) -> None:
    denoising = made(counts, queries=queries)
    assert denoising.groups == groups
    assert denoising.references.shape == (len(counts), groups * 2 * max(counts), 4)


def test_nothing_to_denoise() -> None:
    generator = torch.Generator()
    assert make_denoising([target(0)] * 2, [SPANS] * 2, DenoisingConfig(), generator) is None
    assert make_denoising([target(3)], [SPANS], DenoisingConfig(queries=0), generator) is None


def test_what_queries_should_say() -> None:
    """Positives restore their box and true name, negatives predict nothing, filler is neither."""
    denoising = made((2, 1, 0), label_noise=1.0)
    parts = {
        name: split(getattr(denoising, name), denoising, 2)
        for name in ("positive", "real", "token_map", "boxes", "references", "prompts")
    }
    assert parts["positive"][:2, :, 0, 0].all()
    assert not parts["positive"][:, :, 1].any()
    assert not parts["positive"][1, :, :, 1].any()
    assert parts["real"].sum(dim=(1, 2, 3)).tolist() == [denoising.groups * 4, denoising.groups * 2, 0]
    assert (parts["token_map"][:, :, 1] == 0).all()
    assert (parts["token_map"][0, :, 0] == target(2).token_map).all()
    assert (parts["boxes"][0, :, :, :] == target(2).boxes).all()
    assert (denoising.prompts[~denoising.real] == 0).all()
    torch.testing.assert_close(denoising.prompts[denoising.real].sum(-1), torch.ones(int(denoising.real.sum())))


@given(st.integers(0, 2**31), st.floats(0.05, 0.6))
def test_positives_move_less_than_negatives(seed: int, noise: float) -> None:
    denoising = made((3,), seed, box_noise=noise)
    references = split(denoising.references, denoising, 3)[0]
    boxes = target(3).boxes
    corners = torch.cat(
        [references[..., :2] - references[..., 2:] / 2, references[..., :2] + references[..., 2:] / 2], -1
    )
    truth = torch.cat([boxes[:, :2] - boxes[:, 2:] / 2, boxes[:, :2] + boxes[:, 2:] / 2], -1)
    half = torch.cat([boxes[:, 2:] / 2] * 2, -1)
    moved = (corners - truth).abs() / half
    assert (moved[:, 0] <= noise + 1e-4).all()
    if noise < 0.49:  # beyond, corners of a negative may change places
        assert (moved[:, 1] >= noise - 1e-4).all()
        assert (moved[:, 1] <= 2 * noise + 1e-4).all()


@given(st.integers(0, 2**31))
def test_references_are_boxes_of_the_image(seed: int) -> None:
    edge = Target(torch.tensor([[0.02, 0.98, 0.04, 0.04], [0.5, 0.5, 1.0, 1.0]]), SPANS[:2])
    generator = torch.Generator().manual_seed(seed)
    denoising = make_denoising([edge], [SPANS], DenoisingConfig(box_noise=1.0), generator)
    assert denoising is not None
    assert ((denoising.references >= 0) & (denoising.references <= 1)).all()
    assert (denoising.references[..., 2:] > 0).all()


def test_label_noise() -> None:
    names = split(made((4,), label_noise=0.0).prompts, made((4,)), 4)
    truth = target(4).token_map / target(4).token_map.sum(1, keepdim=True)
    assert (names == truth).all()
    noisy = made((4,), queries=400, max_groups=100, label_noise=0.5)
    wrong = (split(noisy.prompts, noisy, 4) != truth).any(-1).float().mean()
    assert 0.3 < wrong < 0.45, "half are drawn anew, a quarter of which keep their name by chance"


def test_plain_denoising_has_no_negatives() -> None:
    denoising = made((2, 1), contrastive=False)
    assert denoising.references.shape[1] == denoising.groups * 2
    assert (denoising.positive == denoising.real).all()


def test_the_same_seed_gives_the_same_noise() -> None:
    assert torch.equal(made((2, 3), 5).references, made((2, 3), 5).references)
    assert not torch.equal(made((2, 3), 5).references, made((2, 3), 6).references)


def test_who_sees_whom() -> None:
    denoising = made((2,), queries=4)
    assert denoising.groups == 2
    blocked = attention_blocked(denoising, 3)
    first, second, matching = slice(0, 4), slice(4, 8), slice(8, 11)
    assert not blocked[first, first].any()
    assert not blocked[second, second].any()
    assert blocked[first, second].all()
    assert blocked[second, first].all()
    assert blocked[matching, :8].all()
    assert not blocked[matching, matching].any()
    assert not blocked[:8, matching].any()


@pytest.mark.parametrize(
    "fields", [{"queries": -1}, {"max_groups": 0}, {"label_noise": 1.5}, {"label_noise": -0.1}, {"box_noise": 0}]
)
def test_out_of_range(fields: dict) -> None:  # type: ignore[type-arg]
    with pytest.raises(ValueError, match="out of range"):
        DenoisingConfig(**fields)
