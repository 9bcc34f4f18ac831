"""Packing prompts into passes: nothing is lost, split or over the limit."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.grounding_dino.packing import pack_prompts

LIMIT = 32
lengths_of_prompts = st.lists(st.integers(1, LIMIT - 3), max_size=60)
most = st.none() | st.integers(1, 9)


@given(lengths_of_prompts, most)
def test_every_prompt_is_in_one_pass_and_no_pass_is_too_long(lengths: list[int], per_pass: int | None) -> None:
    passes = pack_prompts(lengths, LIMIT, per_pass)
    assert sorted(index for members in passes for index in members) == list(range(len(lengths)))
    for members in passes:
        assert members
        assert members == sorted(members)
        assert 2 + sum(lengths[index] + 1 for index in members) <= LIMIT
        assert per_pass is None or len(members) <= per_pass
    assert passes == sorted(passes)
    assert passes == pack_prompts(lengths, LIMIT, per_pass)


@given(lengths_of_prompts)
def test_passes_are_few(lengths: list[int]) -> None:
    """No two passes would fit into one."""
    room = [sum(lengths[index] + 1 for index in members) for members in pack_prompts(lengths, LIMIT)]
    assert all(one + two > LIMIT - 2 for place, one in enumerate(room) for two in room[:place])


def test_by_hand() -> None:
    assert pack_prompts([], LIMIT) == []
    assert pack_prompts([29], LIMIT) == [[0]]
    assert pack_prompts([2, 2, 2], LIMIT) == [[0, 1, 2]]
    assert pack_prompts([2, 2, 2], LIMIT, 2) == [[0, 1], [2]]
    assert pack_prompts([14, 14, 1], LIMIT) == [[0, 1], [2]]


def test_what_cannot_be_packed() -> None:
    with pytest.raises(ValueError, match="prompt 1 has 30 tokens; the model takes 29"):
        pack_prompts([1, 30], LIMIT)
    with pytest.raises(ValueError, match="at least 1"):
        pack_prompts([1], LIMIT, 0)
