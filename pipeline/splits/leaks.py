"""Leaks: what two sets of images share, although a model that learned from one is to be judged by the other."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np

from pipeline.checksums import file_sha256
from pipeline.errors import UserError
from pipeline.splits.groups import GroupBy
from pipeline.splits.perceptual import HashedFiles, nearest
from pipeline.splits.sets import LabelSet
from pipeline.splits.sides import check_distance, hash_present_files


@dataclass(frozen=True)
class Leak:
    """What an image of one set shares with an image of another.

    Attributes:
        kind: "same-file", "near-duplicate" or "same-group".
        sets: The two files or folders.
        paths: An image of each.
        text: What they share.
    """

    kind: str
    sets: tuple[Path, Path]
    paths: tuple[str, str]
    text: str

    def __str__(self) -> str:
        return f"{self.sets[1]}:{self.paths[1]}: {self.kind} as {self.paths[0]} of {self.sets[0]}: {self.text}"


@dataclass(frozen=True)
class LeakReport:
    """What was found, and (path, reason) of files that could not be compared."""

    leaks: tuple[Leak, ...]
    unread: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class _Seen:
    """What is known of a set's images: content by digest, hashes, and the first image of each group."""

    found: LabelSet
    digests: dict[str, str]
    hashed: HashedFiles | None
    groups: dict[str, str]


def find_leaks(sets: Sequence[LabelSet], group_by: str, near_duplicates: int | None) -> LeakReport:
    """Compare each set with each.

    An image of the later set is named once a pair of sets, for what is strongest: the same content before its nearest
    near-duplicate. A group that is in both sets is named once.

    Args:
        sets: Two or more.
        group_by: As in `SplitSettings`.
        near_duplicates: Most bits in which near-duplicates differ; None looks at no image file, not at contents either.

    Raises:
        UserError: There are fewer than two sets, files are missing, or an option is wrong.
    """
    if len(sets) < 2:
        raise UserError("leaks are looked for between two or more sets; give train.json val.json")
    check_distance(near_duplicates)
    groups = GroupBy.parse(group_by)
    if near_duplicates is None and not group_by:
        raise UserError("without near-duplicates and without --group-by there is nothing to compare")
    seen = [_look_at(found, groups, near_duplicates is not None) for found in sets]
    leaks = tuple(leak for first, second in combinations(seen, 2) for leak in _compare(first, second, near_duplicates))
    return LeakReport(leaks, tuple(entry for one in seen if one.hashed is not None for entry in one.hashed.unread))


def _look_at(found: LabelSet, group_by: GroupBy, read_files: bool) -> _Seen:
    hashed = hash_present_files(found.images) if read_files else None
    digests: dict[str, str] = {}
    groups: dict[str, str] = {}
    for image in found.images:
        if read_files and image.file is not None:
            digests.setdefault(image.path, file_sha256(image.file))
        if (key := group_by.key(image.path, image.video)) is not None:
            groups.setdefault(key, image.path)
    return _Seen(found, digests, hashed, groups)


def _compare(first: _Seen, second: _Seen, distance: int | None) -> Iterator[Leak]:
    sets = (first.found.path, second.found.path)
    contents = {digest: path for path, digest in reversed(first.digests.items())}
    named = set()
    for path, digest in second.digests.items():
        if digest in contents:
            named.add(path)
            yield Leak("same-file", sets, (contents[digest], path), f"sha256 {digest[:16]}")
    if first.hashed is not None and second.hashed is not None and distance is not None and len(first.hashed.rows):
        nearby, bits = nearest(second.hashed.hashes, first.hashed.hashes)
        for row in np.flatnonzero(bits <= distance).tolist():
            path = second.found.images[int(second.hashed.rows[row])].path
            like = first.found.images[int(first.hashed.rows[nearby[row]])].path
            if path not in named:
                yield Leak("near-duplicate", sets, (like, path), f"{bits[row]} of 128 bits differ")
    for key in first.groups.keys() & second.groups.keys():
        shown = key.replace("\0", ", ")
        yield Leak("same-group", sets, (first.groups[key], second.groups[key]), f"group {shown!r}")
