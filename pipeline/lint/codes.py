"""The codes of findings: what each says, and how a user chooses among them; docs/lint.md explains each."""

from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.errors import UserError


@dataclass(frozen=True)
class Code:
    """One kind of finding.

    Attributes:
        name: A letter and three digits; the letter and the first digit are the group.
        title: What is wrong, in a few words.
        is_error: A reader stops or learns something wrong; otherwise a person should look.
    """

    name: str
    title: str
    is_error: bool = True


CODES = {
    code.name: code
    for code in (
        Code("S101", "malformed entry"),
        Code("S102", "annotation id used twice"),
        Code("S103", "image id used twice"),
        Code("S104", "category id used twice"),
        Code("S105", "no such image"),
        Code("S106", "no such category"),
        Code("S107", "NaN or infinity"),
        Code("B201", "box outside of the image"),
        Code("B202", "box without size"),
        Code("B203", "near-duplicate box", is_error=False),
        Code("B204", "box of the whole image", is_error=False),
        Code("M301", "area is not the mask's"),
        Code("M302", "bbox is not the mask's"),
        Code("M303", "broken polygon"),
        Code("M304", "open polygon"),
        Code("M305", "RLE of another size"),
        Code("M306", "broken RLE"),
        Code("M307", "empty segmentation"),
        Code("M308", "misuse of iscrowd"),
        Code("C401", "unused category", is_error=False),
        Code("C402", "category named twice"),
        Code("I501", "image file missing"),
        Code("I502", "image file unreadable"),
        Code("I503", "image of another size"),
        Code("I504", "same image twice", is_error=False),
    )
}
"""Name -> code, in the order of docs/lint.md."""


def choose_codes(select: Sequence[str] = (), ignore: Sequence[str] = ()) -> frozenset[str]:
    """Return the names of the codes to look for.

    Args:
        select: Codes or beginnings of codes ("B", "M3"); none means all.
        ignore: Likewise, taken away from those.

    Raises:
        UserError: No code begins so.
    """
    chosen = _expand(select) if select else set(CODES)
    return frozenset(chosen - _expand(ignore))


def _expand(prefixes: Sequence[str]) -> set[str]:
    found = set()
    for prefix in prefixes:
        names = {name for name in CODES if name.startswith(prefix.strip().upper())} if prefix.strip() else set()
        if not names:
            raise UserError(f"no code begins with {prefix!r}; known are {', '.join(CODES)}")
        found |= names
    return found
