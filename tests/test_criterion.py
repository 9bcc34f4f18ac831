"""The loss, term by term, against numbers computed by hand."""

import math

import pytest
import torch
from torch import Tensor

from models.grounding_dino.features import Decoded
from models.grounding_dino.query_selection import Selection
from models.training.criterion import LossWeights, box_losses, contrastive_focal, grounding_loss
from models.training.denoising import DenoisingConfig, make_denoising
from models.training.matcher import Target

TOKENS, QUERIES, LAYERS = 5, 4, 2
NO_STATES = torch.zeros(0)
"""The decoder's queries, which these losses do not read."""


def focal_by_hand(logit: float, positive: bool, alpha: float = 0.25, gamma: float = 2.0) -> float:
    probability = 1 / (1 + math.exp(-logit))
    if positive:
        return -alpha * (1 - probability) ** gamma * math.log(probability)
    return -(1 - alpha) * probability**gamma * math.log(1 - probability)


def test_focal_by_hand() -> None:
    logits = torch.tensor([[0.5, -2.0, -torch.inf]])
    value = contrastive_focal(logits, torch.tensor([[1.0, 0.0, 1.0]]), LossWeights())
    assert value.item() == pytest.approx(focal_by_hand(0.5, True) + focal_by_hand(-2.0, False), abs=1e-6)


def test_box_losses_by_hand() -> None:
    """Boxes of .2 x .2 shifted by .1: IoU 1/3, hull .06, union .06, so GIoU is 1/3 too; then two far apart."""
    near = torch.tensor([[0.3, 0.5, 0.2, 0.2]]), torch.tensor([[0.4, 0.5, 0.2, 0.2]])
    l1, giou = box_losses(*near)
    assert l1.item() == pytest.approx(0.1, abs=1e-6)
    assert giou.item() == pytest.approx(1 - 1 / 3, abs=1e-5)
    far = torch.tensor([[0.1, 0.5, 0.2, 0.2]]), torch.tensor([[0.9, 0.5, 0.2, 0.2]])
    l1, giou = box_losses(*far)
    assert l1.item() == pytest.approx(0.8, abs=1e-6)
    assert giou.item() == pytest.approx(1 - (0 - (0.2 - 0.08) / 0.2), abs=1e-5)
    assert [loss.item() for loss in box_losses(torch.zeros(0, 4), torch.zeros(0, 4))] == [0, 0]


def predictions(images: int, tokens: int = TOKENS, seed: int = 0) -> tuple[Decoded, Selection, list[Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    leaves = [
        torch.randn((LAYERS, images, QUERIES, tokens), generator=generator).requires_grad_(),
        torch.randn((LAYERS, images, QUERIES, 4), generator=generator).requires_grad_(),
        torch.randn((images, 7, tokens), generator=generator).requires_grad_(),
        torch.randn((images, QUERIES, 4), generator=generator).requires_grad_(),
    ]
    chosen = torch.stack([torch.randperm(7, generator=generator)[:QUERIES] for _ in range(images)])
    selection = Selection(leaves[2], torch.zeros(images, 7, 8), chosen, leaves[3])
    return Decoded(leaves[0], leaves[1].sigmoid(), NO_STATES), selection, leaves


def one_object(token: int, box: tuple[float, ...] = (0.5, 0.5, 0.2, 0.4), tokens: int = TOKENS) -> Target:
    token_map = torch.zeros(1, tokens)
    token_map[0, token] = 1
    return Target(torch.tensor([box]), token_map)


def nothing(tokens: int = TOKENS) -> Target:
    return Target(torch.zeros(0, 4), torch.zeros(0, tokens))


def test_one_query_one_object_by_hand() -> None:
    target = one_object(1)
    box = torch.tensor([0.5, 0.5, 0.2, 0.2])
    logits = torch.tensor([0.3, 1.0, -0.5, -torch.inf, 2.0])
    decoded = Decoded(logits[None, None, None], box[None, None, None], NO_STATES)
    selection = Selection(
        logits[None, None], torch.zeros(1, 1, 8), torch.zeros(1, 1, dtype=torch.long), box.logit()[None, None]
    )
    losses = grounding_loss(decoded, selection, [target])
    focal = sum(focal_by_hand(v, p) for v, p in ((0.3, False), (1.0, True), (-0.5, False), (2.0, False)))
    expected = {"focal": focal, "l1": 5 * 0.2, "giou": 2 * 0.5}
    assert set(losses) == {name + suffix for name in expected for suffix in ("", "_encoder")}
    for name, value in expected.items():
        assert losses[name].item() == pytest.approx(value, abs=1e-4)
        assert losses[name + "_encoder"].item() == pytest.approx(value, abs=1e-4)


def test_terms_and_weights() -> None:
    decoded, selection, _ = predictions(2)
    targets = [one_object(1), one_object(3)]
    losses = grounding_loss(decoded, selection, targets)
    assert set(losses) == {f"{name}{suffix}" for name in ("focal", "l1", "giou") for suffix in ("", "_0", "_encoder")}
    doubled = grounding_loss(decoded, selection, targets, weights=LossWeights(2, 10, 4, encoder=3))
    for name, value in losses.items():
        factor = 6 if name.endswith("_encoder") else 2
        torch.testing.assert_close(doubled[name], factor * value)
    world = grounding_loss(decoded, selection, targets, world_boxes=4.0)
    torch.testing.assert_close(world["focal"], losses["focal"] / 2)


@pytest.mark.parametrize("images", [1, 3])
def test_without_any_object_the_background_is_trained(images: int) -> None:
    decoded, selection, leaves = predictions(images)
    losses = grounding_loss(decoded, selection, [nothing()] * images)
    total = torch.stack(list(losses.values())).sum()
    assert torch.isfinite(total)
    assert losses["l1"].item() == losses["giou"].item() == losses["l1_encoder"].item() == 0
    total.backward()
    assert (leaves[0].grad > 0).all(), "each logit must be pushed down"  # type: ignore[operator]
    assert torch.isfinite(leaves[1].grad).all()  # type: ignore[arg-type]


def test_an_image_without_objects_among_others() -> None:
    decoded, selection, _ = predictions(3)
    losses = grounding_loss(decoded, selection, [one_object(0), nothing(), one_object(2)])
    assert all(torch.isfinite(term) for term in losses.values())
    assert losses["l1"] > 0


@pytest.mark.parametrize("image", range(4))
def test_each_image_is_held_against_its_own_prompts(image: int) -> None:
    """Texts differ an image and are padded; from the third image on transformers' own loss is wrong here."""
    lengths = (3, 5, 2, 4)
    targets = [one_object(row % 2, tokens=5) for row in range(4)]
    decoded, selection, leaves = predictions(4)
    with torch.no_grad():
        for row, length in enumerate(lengths):
            leaves[0][:, row, :, length:] = -torch.inf
            leaves[2][row, :, length:] = -torch.inf
    grounding_loss(decoded, selection, targets)["focal"].backward()
    gradient = leaves[0].grad[-1, image]  # type: ignore[index]
    pulled_up = (gradient < 0).nonzero()
    assert len(pulled_up) == 1, "one query of the image is told one token"
    assert pulled_up[0, 1] == image % 2
    assert (gradient[:, lengths[image] :] == 0).all()


def test_phrases_of_several_tokens_are_told_all_of_them() -> None:
    token_map = torch.tensor([[0.0, 1, 1, 0, 0]])
    decoded, selection, leaves = predictions(1)
    grounding_loss(decoded, selection, [Target(torch.full((1, 4), 0.5), token_map)])["focal"].backward()
    pulled_up = (leaves[0].grad[-1, 0] < 0).any(0)  # type: ignore[index]
    assert pulled_up.tolist() == [False, True, True, False, False]


def test_denoising_terms_are_an_average_over_groups() -> None:
    """The same query in two groups costs as much as in one; filler costs nothing."""
    targets, spans = [one_object(1), nothing()], [torch.eye(2, TOKENS)] * 2
    decoded, selection, _ = predictions(2)
    losses = []
    for groups in (1, 2):
        config = DenoisingConfig(queries=groups, label_noise=0, max_groups=groups)
        denoising = make_denoising(targets, spans, config, torch.Generator().manual_seed(0))
        assert denoising is not None
        assert denoising.groups == groups
        queries = denoising.references.shape[1]
        boxes = torch.full((LAYERS, 2, queries, 4), 0.3)
        denoised = Decoded(torch.zeros(LAYERS, 2, queries, TOKENS), boxes, NO_STATES)
        losses.append(grounding_loss(decoded, selection, targets, denoised, denoising))
    for name in ("focal_denoising", "l1_denoising", "giou_denoising"):
        torch.testing.assert_close(losses[0][name], losses[1][name])
    positive_and_negative = focal_by_hand(0, True) + (2 * TOKENS - 1) * focal_by_hand(0, False)
    assert losses[0]["focal_denoising"].item() == pytest.approx(LAYERS * positive_and_negative, abs=1e-5)
    assert losses[0]["l1_denoising"].item() == pytest.approx(LAYERS * 5 * 0.6, abs=1e-5)
