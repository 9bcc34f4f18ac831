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
_ROBOFLOW = re.compile(r"_(?:jpe?g|png|bmp)\.rf\.\w+$", re.IGNORECASE)
"""What Roboflow puts behind the name of a frame."""
_FRAME = re.compile(r"^(.*?)(?:^|[ _.-])(?:frame|frm|image|img|f)?[ _.-]?\d+$", re.IGNORECASE | re.DOTALL)
"""A clip's name, a separator, perhaps a word for a frame, and its number."""


@dataclass(frozen=True)
class GroupBy:
    """How a path tells its group.

    Attributes:
        folder: The group is the folder of the image.
        video: The group is the video that the image is a frame of.
        pattern: The group is what this finds in the path: its groups in parentheses, or all of it where it has none.
    """

    folder: bool = False
    video: bool = False
    pattern: re.Pattern[str] | None = None

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read "", "folder", "video" or "regex:PATTERN".

        Raises:
            UserError: It is something else, or the pattern is broken.
        """
        if text in ("", "folder", "video"):
            return cls(folder=text == "folder", video=text == "video")
        if not text.startswith(_REGEX):
            raise UserError(
                f"unknown groups {text!r}; give folder, video or regex:PATTERN, such as 'regex:^(site\\d+)_'"
            )
        try:
            return cls(pattern=re.compile(text.removeprefix(_REGEX)))
        except re.error as error:
            raise UserError(f"{text!r}: the pattern cannot be read: {error}") from error

    def key(self, path: str, video: str | None = None) -> str | None:
        """Return the group of an image; None where it has none.

        Args:
            path: With "/" between its parts.
            video: What the labels name as its video; None where they name none.
        """
        if self.folder:
            return str(PurePosixPath(path).parent)
        if self.video:
            return clip_of(path) if video is None else f"video\0{video}"
        found = self.pattern.search(path) if self.pattern is not None else None
        if found is None:
            return None
        return "\0".join(part or "" for part in found.groups()) if found.groups() else found[0]


def clip_of(path: str) -> str | None:
    """Return the clip that an image is a frame of, by the usual names of frames; None where it has no such name.

    `clip_000123.jpg`, `clip-frame12.png` and Roboflow's `clip_mp4-12_jpg.rf.0a1b.jpg` are of "clip" (and "clip_mp4") in
    their folder, `clip/frame_12.jpg` and `clip/000012.jpg` of the folder. A number alone, in no folder, tells nothing.

    Args:
        path: With "/" between its parts.
    """
    file = PurePosixPath(path)
    found = _FRAME.match(_ROBOFLOW.sub("", file.stem))
    if found is None:
        return None
    clip, folder = found[1].strip(" _.-"), str(file.parent)
    return None if not clip and folder == "." else f"{folder}\0{clip}"


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
