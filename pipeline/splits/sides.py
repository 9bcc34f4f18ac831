"""Which side an image falls on: a function of its own id and the seed, not of the images around it.

The draw is the hash of a key: the image's id, or the key of the group that it belongs to. So a set that grows leaves
every image where it was. Near-duplicates must share a side, and so share a key: of all keys that they link, the one
with the smallest rank, which is a hash, too. An image can therefore change its side in one case only: a new image
that resembles it has a key of smaller rank.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import UserError
from pipeline.splits.balance import choose_seed, draw
from pipeline.splits.groups import GroupBy, connect
from pipeline.splits.perceptual import DEFAULT_DISTANCE, HashedFiles, hash_files, near_links

SIDES = ("train", "val", "test")
"""The names of the sides, in the order of the shares."""

_MOST_DISTANCE = 32


@dataclass(frozen=True)
class SplitImage:
    """An image to be put on a side.

    Attributes:
        image_id: The same for the same image for ever (`pipeline.paths.path_to_image_id`).
        path: Relative, with "/" between its parts; what groups are read from.
        classes: The class of each of its objects; may be empty.
        file: The image file; None where there is none to look at.
        video: What the labels name as the video that it is a frame of; None where they name none.
    """

    image_id: str
    path: str
    classes: tuple[str, ...] = ()
    file: Path | None = None
    video: str | None = None


@dataclass(frozen=True)
class SplitSettings:
    """How to split.

    Attributes:
        shares: Of train, val and, where there are three, test; two or three numbers from 0 up, whatever their sum.
        seed: 0 or more; None takes the one of many that spreads the classes best (see `pipeline.splits.balance`).
        group_by: "", "folder", "video" or "regex:PATTERN" (see `pipeline.splits.groups`).
        near_duplicates: Bits of 128 in which near-duplicates may differ; None looks at no image file.

    Raises:
        UserError: A value is none of these.
    """

    shares: tuple[float, ...] = (80, 10, 10)
    seed: int | None = 0
    group_by: str = ""
    near_duplicates: int | None = DEFAULT_DISTANCE

    def __post_init__(self) -> None:
        wrong = not all(np.isfinite(share) and share >= 0 for share in self.shares)
        if len(self.shares) not in (2, 3) or wrong or np.count_nonzero(self.shares) < 2:
            raise UserError(f"the shares {self.shares} must be two or three numbers, two of them over 0: 80/10/10")
        if self.seed is not None and not 0 <= self.seed < 2**63:
            raise UserError(f"the seed {self.seed} must be a whole number from 0 up")
        check_distance(self.near_duplicates)
        GroupBy.parse(self.group_by)

    @property
    def names(self) -> tuple[str, ...]:
        """The sides whose share is over 0, in the order of SIDES."""
        return tuple(name for name, share in zip(SIDES, self.shares, strict=False) if share > 0)


@dataclass(frozen=True)
class Split:
    """Images on their sides.

    Attributes:
        sides: Image id -> side.
        seed: The one that was used.
        groups: How many sets of images are kept together; one of a single image counts.
        largest: Images in the largest of them.
        similar: Images that have a near-duplicate.
        ungrouped: Paths that the pattern of the groups does not fit; each is a group of its own.
        unread: (path, reason) of image files that cannot be compared because they cannot be read.
    """

    sides: dict[str, str]
    seed: int
    groups: int
    largest: int
    similar: int
    ungrouped: tuple[str, ...]
    unread: tuple[tuple[str, str], ...]


def parse_shares(text: str) -> tuple[float, ...]:
    """Read "80/10/10" or "80/20".

    Raises:
        UserError: It is something else.
    """
    try:
        return tuple(float(part) for part in text.split("/"))
    except ValueError as error:
        raise UserError(f"{text!r} is no split; give shares as 80/10/10 (train/val/test) or 80/20") from error


def check_distance(distance: int | None) -> None:
    """Raise UserError for a distance of near-duplicates that makes no sense."""
    if distance is not None and not 0 <= distance <= _MOST_DISTANCE:
        raise UserError(f"near-duplicates can differ in 0 to {_MOST_DISTANCE} bits, not {distance}")


def assign_sides(images: Sequence[SplitImage], settings: SplitSettings) -> dict[str, str]:
    """Return image id -> side of SIDES; see `split_images`."""
    return split_images(images, settings).sides


def split_images(images: Sequence[SplitImage], settings: SplitSettings, alike: Sequence[tuple[str, str]] = ()) -> Split:
    """Put each image on a side.

    Args:
        images: In any order; images of one id are one image.
        settings: How.
        alike: Pairs of image ids that are near-duplicates by what a detector saw in them
            (`pipeline.image_features`); ids that are none of the images' are passed over.

    Raises:
        UserError: There are no images, or near-duplicates are to be found and files are missing.
    """
    if not images:
        raise UserError("there are no images to split")
    hashed = hash_present_files(images) if settings.near_duplicates is not None else None
    keys, ungrouped = _group_keys(images, settings)
    names = sorted(set(keys))
    index = {name: number for number, name in enumerate(names)}
    units = np.array([index[key] for key in keys], np.int64)
    first: dict[str, int] = {}
    same_id = [(unit, first.setdefault(image.image_id, unit)) for unit, image in zip(units, images, strict=True)]
    links = [np.array(same_id, np.int64)]
    rows = {image.image_id: row for row, image in enumerate(images)}
    near = [[rows[one], rows[other]] for one, other in alike if one in rows and other in rows]
    if hashed is not None and settings.near_duplicates is not None:
        near += hashed.rows[near_links(hashed.hashes, settings.near_duplicates)].tolist()
    near_rows = np.array(near, np.int64).reshape(-1, 2)
    links.append(units[near_rows])
    sets = connect(len(names), np.concatenate(links))
    draws = _anchors(names, sets)[sets[units]]
    seed = settings.seed
    if seed is None:
        seed = choose_seed([image.classes for image in images], draws, settings.shares)
    chosen = draw(draws, seed, settings.shares)
    return Split(
        {image.image_id: SIDES[side] for image, side in zip(images, chosen.tolist(), strict=True)},
        seed,
        int(sets.max()) + 1,
        int(np.bincount(sets[units]).max()),
        len(np.unique(near_rows)),
        tuple(ungrouped),
        hashed.unread if hashed is not None else (),
    )


def hash_present_files(images: Sequence[SplitImage]) -> HashedFiles:
    """Return the perceptual hashes of images whose files must all be there.

    Raises:
        UserError: A file is missing.
    """
    missing = [image.path for image in images if image.file is None or not image.file.is_file()]
    if missing:
        raise UserError(
            f"{len(missing)} of {len(images)} image files are not there (first: {missing[0]}), so near-duplicates "
            "cannot be found; say where the images are (--images of split, --images-root of export), "
            "or do without by --near-duplicates off"
        )
    return hash_files([(image.path, image.file) for image in images if image.file is not None])


def _group_keys(images: Sequence[SplitImage], settings: SplitSettings) -> tuple[list[str], list[str]]:
    """Return the key of each image's group, and the paths that no group fits."""
    group_by = GroupBy.parse(settings.group_by)
    keys, ungrouped = [], []
    for image in images:
        group = group_by.key(image.path, image.video)
        keys.append(f"image:{image.image_id}" if group is None else f"group:{group}")
        if group is None and settings.group_by:
            ungrouped.append(image.path)
    return keys, ungrouped


def _anchors(names: Sequence[str], sets: NDArray[np.int64]) -> NDArray[np.uint64]:
    """Return the hash that each set of keys draws by: that of its key of smallest rank.

    Args:
        names: N keys.
        sets: (N,) the set of each key, numbered from 0.

    Returns:
        (sets,) uint64.
    """
    digests = [hashlib.sha256(name.encode(errors="surrogateescape")).digest() for name in names]
    words = np.frombuffer(b"".join(digests), ">u8").astype(np.uint64).reshape(-1, 4)
    by_rank = np.lexsort((words[:, 1], sets))
    firsts = np.r_[True, sets[by_rank][1:] != sets[by_rank][:-1]]
    return np.asarray(words[by_rank[firsts], 0])
