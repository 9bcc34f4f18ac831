"""Prompt sets of training images: what is asked for, and that the truth follows."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.training.augment import Labelled
from models.training.prompts import PromptSampling, Sample, ask_for_expressions, ask_for_names, draw_prompts
from models.training.referring import Referring

COLOURS, SHAPES = ("red", "blue", "green", "white"), ("circle", "square", "star", "ring")
VOCABULARY = tuple(f"{colour} {shape}" for colour in COLOURS for shape in SHAPES)
IMAGE = np.zeros((8, 12, 3), np.uint8)
seeds = st.integers(0, 2**32)
presents = st.lists(st.sampled_from(VOCABULARY), max_size=8)
samplings = st.sampled_from(
    [
        PromptSampling(),
        PromptSampling((1, 3), (0.5, 0.5)),
        PromptSampling((6,), (1.0,), nothing_present=0, hard_share=1.0),
        PromptSampling((6,), (1.0,), nothing_present=1.0),
        PromptSampling((100,), (1.0,), keep_present=0.0),
    ]
)


@given(seeds, presents, samplings)
def test_sets_are_bounded_and_known(seed: int, present: list[str], sampling: PromptSampling) -> None:
    prompts = draw_prompts(np.random.default_rng(seed), present, VOCABULARY, sampling)
    assert 1 <= len(prompts) <= len(VOCABULARY)
    assert len(prompts) <= max(*sampling.sizes, len(set(present)))
    assert len(set(prompts)) == len(prompts)
    assert set(prompts) <= set(VOCABULARY)
    assert prompts == draw_prompts(np.random.default_rng(seed), present, VOCABULARY, sampling)


@given(seeds, presents)
def test_sets_of_which_nothing_is_present(seed: int, present: list[str]) -> None:
    always = PromptSampling((6,), (1.0,), nothing_present=1.0)
    assert not set(draw_prompts(np.random.default_rng(seed), present, VOCABULARY, always)) & set(present)


def test_shares() -> None:
    rng = np.random.default_rng(0)
    present = ["red circle", "blue square"]
    sets = [draw_prompts(rng, present, VOCABULARY, PromptSampling()) for _ in range(600)]
    asked = np.array([[name in prompts for name in present] for prompts in sets])
    without = 0.3 + 0.7 * 0.15**2
    assert abs((~asked.any(1)).mean() - without) < 0.06
    assert abs(asked.mean() - 0.7 * 0.85) < 0.06


def test_hard_negatives_share_a_word() -> None:
    rng = np.random.default_rng(0)
    sampling = PromptSampling((9,), (1.0,), nothing_present=0.0, keep_present=1.0, hard_share=0.5)
    for _ in range(50):
        prompts = draw_prompts(rng, ["red circle"], VOCABULARY, sampling)
        absent = [prompt for prompt in prompts if prompt != "red circle"]
        hard = [prompt for prompt in absent if "red" in prompt or "circle" in prompt]
        assert len(absent) == 8
        assert len(hard) == 4


def test_few_hard_ones_are_replaced_by_easy_ones() -> None:
    sampling = PromptSampling((4,), (1.0,), nothing_present=0.0, keep_present=1.0, hard_share=1.0)
    prompts = draw_prompts(np.random.default_rng(0), ["red circle"], ("red circle", "red star", "a", "b"), sampling)
    assert sorted(prompts) == ["a", "b", "red circle", "red star"]


def test_the_order_tells_nothing() -> None:
    rng = np.random.default_rng(0)
    sampling = PromptSampling((4,), (1.0,), nothing_present=0.0, keep_present=1.0)
    places = [draw_prompts(rng, ["red circle"], VOCABULARY, sampling).index("red circle") for _ in range(400)]
    assert np.bincount(places, minlength=4).min() > 60


def test_all_that_there_is_present() -> None:
    """Without an absent name a set can only ask for what is there."""
    never = PromptSampling((2,), (1.0,), nothing_present=1.0, keep_present=0.0)
    assert draw_prompts(np.random.default_rng(0), ["a", "b"], ["a", "b"], never) == ["a"]


@given(seeds, presents, samplings)
def test_the_truth_matches_the_names(seed: int, present: list[str], sampling: PromptSampling) -> None:
    boxes = np.array([[row, row, row + 1, row + 2] for row in range(len(present))], np.float32).reshape(-1, 4)
    sample = ask_for_names(np.random.default_rng(seed), Labelled(IMAGE, boxes, tuple(present)), VOCABULARY, sampling)
    assert sample.positive.shape == (len(sample.boxes_xyxy), len(sample.prompts))
    assert (sample.positive.sum(1) == 1).all()
    kept = [name for name in present if name in sample.prompts]
    assert [sample.prompts[column] for column in sample.positive.argmax(1)] == kept
    assert sample.boxes_xyxy[:, 0].tolist() == [row for row, name in enumerate(present) if name in sample.prompts]


def ask(seed: int, expressions: list[Referring], untrue: list[str]) -> Sample:
    boxes = np.array([[0, 0, 2, 2], [3, 3, 5, 5], [6, 0, 8, 2]], np.float32)
    return ask_for_expressions(np.random.default_rng(seed), IMAGE, boxes, expressions, untrue)


@pytest.mark.parametrize("seed", range(4))
def test_expressions(seed: int) -> None:
    expressions = [Referring("the red circle", 2), Referring("the rightmost shape", 2), Referring("the star", 0)]
    sample = ask(seed, expressions, ["the blue ring", "the star"])
    assert sorted(sample.prompts) == ["the blue ring", "the red circle", "the rightmost shape", "the star"]
    assert sample.boxes_xyxy[:, 0].tolist() == [0, 6]
    named = [{text for text, true in zip(sample.prompts, row, strict=True) if true} for row in sample.positive]
    assert named == [{"the star"}, {"the red circle", "the rightmost shape"}]
