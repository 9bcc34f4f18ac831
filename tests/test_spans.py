"""Token spans: the processor's own ids, and scores that come from a prompt's own tokens only."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.grounding_dino.spans import PromptText, join_prompts, prompt_tokens, span_matrix, span_scores, stack_texts
from tests.grounding_models import PROMPTS_20, WORDS, text_of


@pytest.mark.parametrize("prompts", [("a",), ("a", "b"), ("red circle", "light blue car", "platelet"), PROMPTS_20])
def test_ids_are_the_processors(grounding_processor, prompts: tuple[str, ...]) -> None:
    text = text_of(grounding_processor, prompts)
    joined = grounding_processor(text=". ".join(prompts) + ".", return_tensors="pt")["input_ids"][0].tolist()
    assert list(text.input_ids) == joined
    assert len(text) == len(joined)
    for prompt, (start, end) in zip(prompts, text.spans, strict=True):
        assert grounding_processor.tokenizer.decode(text.input_ids[start:end]) == prompt


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(st.sampled_from(WORDS), min_size=1, max_size=4).map(" ".join), min_size=1, max_size=12))
def test_spans_are_the_prompts_own_tokens(grounding_processor, prompts: list[str]) -> None:
    """Whatever the prompts, the ids are the processor's, and each span decodes to its prompt."""
    text = text_of(grounding_processor, tuple(prompts))
    joined = grounding_processor(text=". ".join(prompts) + ".", return_tensors="pt")["input_ids"][0].tolist()
    assert list(text.input_ids) == joined
    decoded = [grounding_processor.tokenizer.decode(text.input_ids[start:end]) for start, end in text.spans]
    assert decoded == prompts
    covered = [place for start, end in text.spans for place in range(start, end)]
    assert len(set(covered)) == len(covered)
    assert all(text.input_ids[end] == 1012 for _, end in text.spans), "a dot after each"


def test_case_does_not_matter(grounding_processor) -> None:
    tokenizer = grounding_processor.tokenizer
    assert prompt_tokens(tokenizer, "Red CIRCLE") == prompt_tokens(tokenizer, "red circle")


def test_no_prompt(grounding_processor) -> None:
    text = join_prompts(grounding_processor.tokenizer, [])
    assert text.input_ids == (101, 102)
    assert span_scores(torch.zeros(3, 2), text).shape == (3, 0)
    assert span_matrix(text, 2).shape == (0, 2)


@pytest.mark.parametrize("prompt", ["red. circle", "circle?", "."])
def test_a_mark_would_split_the_prompt(grounding_processor, prompt: str) -> None:
    with pytest.raises(ValueError, match="would split it"):
        prompt_tokens(grounding_processor.tokenizer, prompt)


@pytest.mark.parametrize("prompt", ["", "   ", "\u200b"])
def test_a_prompt_without_words(grounding_processor, prompt: str) -> None:
    with pytest.raises(ValueError, match="is empty"):
        prompt_tokens(grounding_processor.tokenizer, prompt)


def test_stacking_pads_at_the_end() -> None:
    ids, mask = stack_texts([PromptText((101, 5, 1012, 102), ((1, 2),)), PromptText((101, 102), ())], 0)
    assert ids.tolist() == [[101, 5, 1012, 102], [101, 102, 0, 0]]
    assert mask.tolist() == [[True] * 4, [True, True, False, False]]


def test_a_score_is_the_mean_over_the_span() -> None:
    text = PromptText((101, 1, 2, 1012, 3, 1012, 102), ((1, 3), (4, 5)))
    probabilities = torch.tensor([[0.9, 0.8, 0.2, 0.99, 0.6, 0.99, 0.99]])
    torch.testing.assert_close(span_scores(probabilities.logit(), text), torch.tensor([[0.5, 0.6]]))
    assert span_matrix(text, 8).tolist() == [[0, 1, 1, 0, 0, 0, 0, 0], [0, 0, 0, 0, 1, 0, 0, 0]]


@given(st.lists(st.integers(1, 4), min_size=2, max_size=8), st.integers(0, 7), st.integers(0, 2**20))
def test_a_score_never_comes_from_another_prompts_tokens(lengths: list[int], which: int, seed: int) -> None:
    spans, place = [], 1
    for length in lengths:
        spans.append((place, place + length))
        place += length + 1
    text = PromptText(tuple(range(place + 1)), tuple(spans))
    which %= len(lengths)
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn((3, len(text)), generator=generator)
    before = span_scores(logits, text)
    own = span_matrix(text, len(text))[which].bool()
    logits[:, ~own] += 10 * torch.rand((3, int((~own).sum())), generator=generator)
    after = span_scores(logits, text)
    torch.testing.assert_close(before[:, which], after[:, which])
    others = [index for index in range(len(lengths)) if index != which]
    assert (after[:, others] > before[:, others]).all()
