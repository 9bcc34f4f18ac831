"""Hungarian matching: the cheapest assignment, batched, with images that hold nothing."""

import itertools

import pytest
import torch
from torch import Tensor

from models.training.matcher import MatchCosts, Target, match, pairwise_giou, token_costs

TOKENS, QUERIES = 6, 5


def random_target(count: int, seed: int) -> Target:
    generator = torch.Generator().manual_seed(seed)
    boxes = torch.cat(
        [torch.rand((count, 2), generator=generator), 0.3 * torch.rand((count, 2), generator=generator)], 1
    )
    token_map = torch.zeros(count, TOKENS)
    for row in range(count):
        start = int(torch.randint(TOKENS - 1, (1,), generator=generator))
        token_map[row, start : start + 1 + row % 2] = 1
    return Target(boxes, token_map)


def predictions(layers: int, images: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    boxes = torch.rand((layers, images, QUERIES, 4), generator=generator) * 0.8 + 0.05
    return torch.randn((layers, images, QUERIES, TOKENS), generator=generator), boxes


def cost_by_hand(logits: Tensor, box: Tensor, target: Target, row: int, costs: MatchCosts) -> float:
    probability = logits.sigmoid().clamp(1e-7, 1 - 1e-7)
    focal = 0.25 * (1 - probability) ** 2 * -probability.log() - 0.75 * probability**2 * -(1 - probability).log()
    named = target.token_map[row].bool() & (logits != -torch.inf)
    classification = focal[named].sum() / target.token_map[row].sum()
    l1 = (box - target.boxes[row]).abs().sum()
    giou = pairwise_giou(box[None], target.boxes[row : row + 1])[0, 0]
    return float(costs.focal * classification + costs.l1 * l1 - costs.giou * giou)


@pytest.mark.parametrize("counts", [(2, 0, 3), (1,), (0, 4), (5,)])
def test_it_is_the_cheapest_of_all_assignments(counts: tuple[int, ...]) -> None:
    layers, costs = 2, MatchCosts()
    targets = [random_target(count, seed) for seed, count in enumerate(counts)]
    logits, boxes = predictions(layers, len(counts))
    logits[..., -1] = -torch.inf
    for layer, row in enumerate(match(logits, boxes, targets, costs)):
        for image, (queries, chosen) in enumerate(row):
            assert sorted(chosen.tolist()) == list(range(counts[image]))
            assert len(set(queries.tolist())) == counts[image]
            table = [
                [
                    cost_by_hand(logits[layer, image, q], boxes[layer, image, q], targets[image], t, costs)
                    for q in range(QUERIES)
                ]
                for t in range(counts[image])
            ]
            best = min(
                sum(table[t][q] for t, q in enumerate(order))
                for order in itertools.permutations(range(QUERIES), counts[image])
            )
            found = sum(table[t][q] for q, t in zip(queries.tolist(), chosen.tolist(), strict=True))
            assert found == pytest.approx(best, abs=1e-4)


@pytest.mark.parametrize("images", [1, 3])
def test_nothing_in_any_image(images: int) -> None:
    assigned = match(*predictions(3, images), [random_target(0, 0)] * images)
    assert len(assigned) == 3
    assert all(len(q) == len(t) == 0 and q.dtype == torch.long for row in assigned for q, t in row)


def test_more_objects_than_queries() -> None:
    ((queries, chosen),) = match(*predictions(1, 1), [random_target(8, 3)])[0]
    assert sorted(queries.tolist()) == list(range(QUERIES))
    assert len(set(chosen.tolist())) == QUERIES


def test_the_text_decides_between_equal_boxes() -> None:
    boxes = torch.full((1, 1, 2, 4), 0.5)
    logits = torch.tensor([[[[-3.0, 3.0], [3.0, -3.0]]]])
    ((queries, chosen),) = match(logits, boxes, [Target(boxes[0, 0].clone(), torch.eye(2))])[0]
    assert dict(zip(chosen.tolist(), queries.tolist(), strict=True)) == {0: 1, 1: 0}


def test_the_box_decides_between_equal_texts() -> None:
    boxes = torch.tensor([[0.2, 0.2, 0.1, 0.1], [0.8, 0.8, 0.1, 0.1]])
    target = Target(boxes.flip(0), torch.ones(2, 1))
    ((queries, chosen),) = match(torch.zeros(1, 1, 2, 1), boxes[None, None], [target])[0]
    assert dict(zip(chosen.tolist(), queries.tolist(), strict=True)) == {0: 1, 1: 0}


def test_token_costs_by_hand() -> None:
    costs = token_costs(torch.tensor([0.0, -torch.inf, 2.0]))
    half = 0.25 * 0.25 * 0.693147 - 0.75 * 0.25 * 0.693147
    probability = 0.880797
    sure = 0.25 * (1 - probability) ** 2 * 0.126928 - 0.75 * probability**2 * 2.126928
    torch.testing.assert_close(costs, torch.tensor([half, 0.0, sure]), atol=1e-5, rtol=0)


def test_broken_predictions_still_match() -> None:
    """A diverged model must end in the loss, where it is seen, not in the solver."""
    logits, boxes = predictions(1, 1)
    boxes[0, 0, 0] = torch.nan
    ((queries, _),) = match(logits, boxes, [random_target(2, 0)])[0]
    assert 0 not in queries.tolist()
