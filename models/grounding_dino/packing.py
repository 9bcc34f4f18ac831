"""Pack prompts into the fewest text passes that the model's token limit allows, of even size and unlike names."""

from collections import Counter
from collections.abc import Sequence
from functools import partial

_ENDS = 2
"""`[CLS]` and `[SEP]`."""


def pack_prompts(
    lengths: Sequence[int],
    max_tokens: int,
    prompts_per_pass: int | None = None,
    tokens: Sequence[Sequence[int]] | None = None,
) -> list[list[int]]:
    """Distribute prompts over passes; a prompt is never split.

    First fit decreasing says how many passes there are. Then the prompts are spread over as many passes of even size,
    the longest first, each into the one whose prompts share the fewest tokens with it, and of those the one with the
    fewest tokens: alike names in one pass move each other's scores (docs/prompts.md has the figures).

    Args:
        lengths: Tokens of each prompt, without the dot that follows it; may be empty.
        max_tokens: Most tokens of a pass, with `[CLS]`, `[SEP]` and the dots.
        prompts_per_pass: Most prompts of a pass; None for as many as fit.
        tokens: Of each prompt, to tell which are alike; None takes none for alike.

    Returns:
        Indices of the prompts of each pass, ascending within a pass; passes in order of their first prompt. The same
        input gives the same passes.

    Raises:
        ValueError: One prompt alone is too long, or `prompts_per_pass` is below 1.

    Source: Johnson 1973, first-fit decreasing bin packing; Graham 1969, longest processing time first.
    """
    if prompts_per_pass is not None and prompts_per_pass < 1:
        raise ValueError(f"prompts_per_pass must be at least 1, not {prompts_per_pass}")
    capacity = max_tokens - _ENDS
    for index, length in enumerate(lengths):
        if length + 1 > capacity:
            raise ValueError(f"prompt {index} has {length} tokens; the model takes {capacity - 1} in one text")
    most = len(lengths) if prompts_per_pass is None else prompts_per_pass
    order = sorted(range(len(lengths)), key=lambda index: (-lengths[index], index))
    passes = _first_fit(lengths, order, capacity, most)
    count = len(passes)
    even = min(most, -(-len(lengths) // count)) if count else most
    passes = (
        _spread(lengths, order, capacity, even, count, tokens or [()] * len(lengths))
        or _spread(lengths, order, capacity, most, count, [()] * len(lengths))
        or passes
    )
    return sorted((sorted(members) for members in passes), key=lambda members: members[0])


def join_groups(
    groups: Sequence[Sequence[int]], lengths: Sequence[int], max_tokens: int, most: int | None = None
) -> list[list[int]]:
    """Join groups of prompts to fewer passes, in order, each group into the first pass that has room; none is split.

    Args:
        groups: Indices of the prompts of each group; a group may be empty.
        lengths: Tokens of each prompt, without the dot that follows it.
        max_tokens: Most tokens of a joined pass, with the dots and without `[CLS]` and `[SEP]`.
        most: Most prompts of a joined pass; None for as many as fit.

    Returns:
        Indices of the prompts of each pass, ascending within a pass; a group that is larger alone stays alone.
    """
    passes: list[list[int]] = []
    for group in groups:
        if not group:
            continue
        for members in passes:
            joined = [*members, *group]
            tokens = sum(lengths[index] + 1 for index in joined)
            if tokens <= max_tokens and (most is None or len(joined) <= most):
                members[:] = sorted(joined)
                break
        else:
            passes.append(sorted(group))
    return passes


def _first_fit(lengths: Sequence[int], order: Sequence[int], capacity: int, most: int) -> list[list[int]]:
    """Put each prompt into the first pass that has room, or into a new one."""
    passes: list[list[int]] = []
    free: list[int] = []
    for index in order:
        cost = lengths[index] + 1
        for number, members in enumerate(passes):
            if free[number] >= cost and len(members) < most:
                members.append(index)
                free[number] -= cost
                break
        else:
            passes.append([index])
            free.append(capacity - cost)
    return passes


def _spread(
    lengths: Sequence[int],
    order: Sequence[int],
    capacity: int,
    most: int,
    count: int,
    tokens: Sequence[Sequence[int]],
) -> list[list[int]] | None:
    """Put each prompt into the pass with room that has the fewest of its tokens, or the fewest tokens.

    Returns:
        The passes; None where that leads nowhere.
    """
    passes: list[list[int]] = [[] for _ in range(count)]
    held: list[Counter[int]] = [Counter() for _ in range(count)]
    used = [0] * count
    for index in order:
        cost = lengths[index] + 1
        open_passes = [n for n in range(count) if used[n] + cost <= capacity and len(passes[n]) < most]
        if not open_passes:
            return None
        number = min(open_passes, key=partial(_likeness, tokens[index], held, used))
        passes[number].append(index)
        held[number].update(tokens[index])
        used[number] += cost
    return passes


def _likeness(
    own: Sequence[int], held: Sequence[Counter[int]], used: Sequence[int], number: int
) -> tuple[int, int, int]:
    return sum(held[number][token] for token in own), used[number], number
