"""Pack prompts into the fewest text passes that the model's token limit allows."""

from collections.abc import Sequence

_ENDS = 2
"""`[CLS]` and `[SEP]`."""


def pack_prompts(lengths: Sequence[int], max_tokens: int, prompts_per_pass: int | None = None) -> list[list[int]]:
    """Distribute prompts over passes, first fit decreasing; a prompt is never split.

    Args:
        lengths: Tokens of each prompt, without the dot that follows it; may be empty.
        max_tokens: Most tokens of a pass, with `[CLS]`, `[SEP]` and the dots.
        prompts_per_pass: Most prompts of a pass; None for as many as fit.

    Returns:
        Indices of the prompts of each pass, ascending within a pass; passes in order of their first prompt. The same
        input gives the same passes.

    Raises:
        ValueError: One prompt alone is too long, or `prompts_per_pass` is below 1.

    Source: Johnson 1973, first-fit decreasing bin packing.
    """
    if prompts_per_pass is not None and prompts_per_pass < 1:
        raise ValueError(f"prompts_per_pass must be at least 1, not {prompts_per_pass}")
    capacity = max_tokens - _ENDS
    passes: list[list[int]] = []
    free: list[int] = []
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        cost = lengths[index] + 1
        if cost > capacity:
            raise ValueError(f"prompt {index} has {lengths[index]} tokens; the model takes {capacity - 1} in one text")
        for number, members in enumerate(passes):
            if free[number] >= cost and (prompts_per_pass is None or len(members) < prompts_per_pass):
                members.append(index)
                free[number] -= cost
                break
        else:
            passes.append([index])
            free.append(capacity - cost)
    return sorted((sorted(members) for members in passes), key=lambda members: members[0])
