"""Pack prompts into the fewest text passes that the model's token limit allows, of even size."""

from collections.abc import Sequence

_ENDS = 2
"""`[CLS]` and `[SEP]`."""


def pack_prompts(lengths: Sequence[int], max_tokens: int, prompts_per_pass: int | None = None) -> list[list[int]]:
    """Distribute prompts over passes; a prompt is never split.

    First fit decreasing says how many passes there are. Then the prompts are spread over as many, the longest first,
    each into the pass with the fewest tokens: so passes are even, and neighbours in a list, which are often alike, come
    into different ones. That makes scores depend less on the packing (docs/prompts.md has the figures).

    Args:
        lengths: Tokens of each prompt, without the dot that follows it; may be empty.
        max_tokens: Most tokens of a pass, with `[CLS]`, `[SEP]` and the dots.
        prompts_per_pass: Most prompts of a pass; None for as many as fit.

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
    passes = _spread(lengths, order, capacity, most, len(passes)) or passes
    return sorted((sorted(members) for members in passes), key=lambda members: members[0])


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
    lengths: Sequence[int], order: Sequence[int], capacity: int, most: int, count: int
) -> list[list[int]] | None:
    """Put each prompt into the pass with the fewest tokens that has room; None where that leads nowhere."""
    passes: list[list[int]] = [[] for _ in range(count)]
    used = [0] * count
    for index in order:
        cost = lengths[index] + 1
        open_passes = [n for n in range(count) if used[n] + cost <= capacity and len(passes[n]) < most]
        if not open_passes:
            return None
        number = min(open_passes, key=lambda n: (used[n], n))
        passes[number].append(index)
        used[number] += cost
    return passes
