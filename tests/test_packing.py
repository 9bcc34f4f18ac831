"""Packing prompts into passes: nothing is lost, split or over the limit."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.grounding_dino.packing import join_groups, pack_prompts

LIMIT = 32
lengths_of_prompts = st.lists(st.integers(1, LIMIT - 3), max_size=60)
most = st.none() | st.integers(1, 9)


@settings(deadline=None)
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


@settings(deadline=None)
@given(st.lists(st.lists(st.integers(0, 5), min_size=1, max_size=9), max_size=40), most)
def test_likeness_loses_nothing_and_takes_no_more_passes(tokens: list[list[int]], per_pass: int | None) -> None:
    lengths = [len(ids) for ids in tokens]
    passes = pack_prompts(lengths, LIMIT, per_pass, tokens)
    assert sorted(index for members in passes for index in members) == list(range(len(lengths)))
    assert len(passes) == len(pack_prompts(lengths, LIMIT, per_pass))
    for members in passes:
        assert 2 + sum(lengths[index] + 1 for index in members) <= LIMIT
        assert per_pass is None or len(members) <= per_pass
    assert passes == pack_prompts(lengths, LIMIT, per_pass, tokens)


@settings(deadline=None)
@given(lengths_of_prompts, most, st.sets(st.integers(0, 59)))
def test_joined_groups_stay_whole_and_small(lengths: list[int], per_pass: int | None, left: set[int]) -> None:
    groups = [[index for index in members if index in left] for members in pack_prompts(lengths, LIMIT, per_pass)]
    passes = join_groups(groups, lengths, LIMIT // 2, per_pass)
    assert sorted(index for members in passes for index in members) == sorted(
        index for group in groups for index in group
    )
    for members in passes:
        assert members == sorted(members)
        alone = members in groups
        assert alone or sum(lengths[index] + 1 for index in members) <= LIMIT // 2
        assert alone or per_pass is None or len(members) <= per_pass
    for group in groups:
        assert any(set(group) <= set(members) for members in passes) or not group
    assert join_groups([[0], [1], [2]], [3, 3, 3], 8) == [[0, 1], [2]]


@given(st.permutations([(colour, shape) for colour in range(4) for shape in range(10, 14)]))
def test_alike_names_come_into_different_passes(tokens: list[tuple[int, int]]) -> None:
    """Whatever their order, of 4 colours and 4 shapes in 2 passes each pass has about half of each."""
    passes = pack_prompts([2] * 16, LIMIT, 8, tokens)
    assert [len(members) for members in passes] == [8, 8]
    for members in passes:
        for part in (0, 1):
            counts = [sum(tokens[index][part] == word for index in members) for word in {pair[part] for pair in tokens}]
            assert sum(abs(count - 2) for count in counts) <= 4


@given(lengths_of_prompts)
def test_passes_are_few(lengths: list[int]) -> None:
    """On average all passes but one are more than half full, or first fit would have made one of two."""
    tokens = sum(length + 1 for length in lengths)
    passes = pack_prompts(lengths, LIMIT)
    assert len(passes) >= -(-tokens // (LIMIT - 2))
    assert len(passes) <= 2 * tokens / (LIMIT - 2) + 1


@settings(deadline=None)
@given(st.integers(1, 200), st.integers(1, 9))
def test_passes_of_equal_prompts_are_even(count: int, per_pass: int) -> None:
    sizes = [len(members) for members in pack_prompts([2] * count, LIMIT, per_pass)]
    assert len(sizes) == -(-count // per_pass)
    assert max(sizes) - min(sizes) <= 1


def test_no_more_passes_where_evenness_does_not_fit() -> None:
    """Of 30: after 15 + 8 and 14 + 11 there is no room for another 8; first fit's 15 + 14 and 11 + 8 + 8 + 2 stays."""
    assert pack_prompts([1, 14, 7, 7, 10, 13], LIMIT) == [[0, 2, 3, 4], [1, 5]]


def test_by_hand() -> None:
    assert pack_prompts([], LIMIT) == []
    assert pack_prompts([29], LIMIT) == [[0]]
    assert pack_prompts([2, 2, 2], LIMIT) == [[0, 1, 2]]
    assert pack_prompts([2, 2, 2], LIMIT, 2) == [[0, 2], [1]]
    assert pack_prompts([14, 14, 1], LIMIT) == [[0, 2], [1]]


def test_what_cannot_be_packed() -> None:
    with pytest.raises(ValueError, match="prompt 1 has 30 tokens; the model takes 29"):
        pack_prompts([1, 30], LIMIT)
    with pytest.raises(ValueError, match="at least 1"):
        pack_prompts([1], LIMIT, 0)
