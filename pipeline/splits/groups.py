"""What belongs together: the groups that a user names, and sets that are linked in pairs."""

import re
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Self

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components

from pipeline.errors import UserError

_REGEX = "regex:"


@dataclass(frozen=True)
class GroupBy:
    """How a path tells its group.

    Attributes:
        folder: The group is the folder of the image.
        pattern: The group is what this finds in the path: its groups in parentheses, or all of it where it has none.
    """

    folder: bool = False
    pattern: re.Pattern[str] | None = None

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read "", "folder" or "regex:PATTERN".

        Raises:
            UserError: It is something else, or the pattern is broken.
        """
        if text in ("", "folder"):
            return cls(folder=text == "folder")
        if not text.startswith(_REGEX):
            raise UserError(f"unknown groups {text!r}; give folder or regex:PATTERN, such as 'regex:^(site\\d+)_'")
        try:
            return cls(pattern=re.compile(text.removeprefix(_REGEX)))
        except re.error as error:
            raise UserError(f"{text!r}: the pattern cannot be read: {error}") from error

    def key(self, path: str) -> str | None:
        """Return the group of a path with "/" between its parts; None where it has none."""
        if self.folder:
            return str(PurePosixPath(path).parent)
        found = self.pattern.search(path) if self.pattern is not None else None
        if found is None:
            return None
        return "\0".join(part or "" for part in found.groups()) if found.groups() else found[0]


def connect(count: int, links: NDArray[np.int64]) -> NDArray[np.int64]:
    """Number the sets of things that are linked, directly or through others.

    Args:
        count: Of things.
        links: (M, 2) indices of things; M may be 0.

    Returns:
        (count,) the number of each thing's set, from 0.
    """
    matrix = csr_array((np.ones(len(links), bool), (links[:, 0], links[:, 1])), shape=(count, count))
    return np.asarray(connected_components(matrix, directed=False)[1], dtype=np.int64)
