"""Bringing two sets of labels together: the same images by their paths, the same classes by their names."""

import difflib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from models.class_spec import normalise_prompt
from models.masks import Rle
from pipeline.errors import UserError
from pipeline.paths import stored_to_path
from pipeline.proof.label_set import LabelledImage, LabelSet, Objects

_SHOWN = 5


@dataclass(frozen=True, eq=False)
class Pair:
    """A truth and the labels to judge, on the same images and classes.

    Attributes:
        names: The classes that are judged, in the truth's order; rows of both sides' `class_rows`.
        images: The truth's images; rows of both sides' `image_rows`.
        truth: What is there.
        found: The labels.
        has_scores: The labels have scores of their own.
        has_masks: All labels, and all objects that are no crowd, have a mask.
        image_root: Folder that the images' paths start from, or None.
        notes: What a person should know about what was left out.
    """

    names: tuple[str, ...]
    images: tuple[LabelledImage, ...]
    truth: Objects
    found: Objects
    has_scores: bool
    has_masks: bool
    image_root: Path | None
    notes: tuple[str, ...]

    def image_file(self, row: int) -> Path | None:
        """Return the file of an image, or None where it is not found."""
        if self.image_root is None:
            return None
        path = self.images[row].path
        for name in (path, stored_to_path(path)):
            if (file := self.image_root / name).is_file():
                return file
        return None


def pair_labels(truth: LabelSet, found: LabelSet, classes: Sequence[str] | None = None) -> Pair:
    """Match images and classes of two sets of labels.

    Images are the same where their paths are, or where one path is the end of the other, from a "/" on, and of no
    other. Labels of images that the truth does not have are left out and noted. Classes are the same where their names
    are, whatever their letter case.

    Args:
        truth: What is there.
        found: The labels to judge.
        classes: Judge only these; None means all, which both sides must then know.

    Raises:
        UserError: An image or class of one side has no counterpart, or an image has two sizes.
    """
    notes: list[str] = []
    names = _names(truth, found, classes)
    image_of = _match_images(truth, found, notes)
    class_rows = {name: row for row, name in enumerate(names)}
    truth_side = _restrict(truth, np.arange(len(truth.images)), class_rows)
    found_side = _restrict(found, image_of, class_rows)
    if not len(truth_side) or truth_side.crowd.all():
        raise UserError(f"{truth.origin}: it has no object of the classes {_some(list(names))} to judge by")
    if not found.has_scores:
        notes.append(f"{found.origin}: without scores of its own; each label counts with score 1")
    has_masks = _have_masks(truth_side, found_side, truth.origin, found.origin, notes)
    return Pair(
        names,
        truth.images,
        truth_side,
        found_side,
        found.has_scores,
        has_masks,
        truth.image_root or found.image_root,
        tuple(notes),
    )


def _names(truth: LabelSet, found: LabelSet, classes: Sequence[str] | None) -> tuple[str, ...]:
    """Return the classes to judge: those that either side has an object of, or those that were asked for."""
    if classes is not None:
        asked = [normalise_prompt(name) for name in classes]
        for name in asked:
            if name not in truth.names:
                raise UserError(f"--classes: {truth.origin} has no class {name!r}{_near(name, truth.names)}")
        return tuple(name for name in truth.names if name in asked)
    sides = []
    for one, other in ((truth, found), (found, truth)):
        used = {one.names[row] for row in np.unique(one.objects.class_rows)}
        unknown = [name for name in one.names if name in used and name not in other.names]
        if unknown:
            raise UserError(
                f"{other.origin}: it has no class {unknown[0]!r}, of which {one.origin} has objects"
                f"{_near(unknown[0], other.names)} ({len(unknown)} such: {_some(unknown)}); "
                "rename the class, or name with --classes those to judge"
            )
        sides.append(used)
    return tuple(name for name in truth.names if name in sides[0] | sides[1])


def _near(name: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    return f"; did you mean {close[0]!r}?" if close else ""


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (" …" if len(names) > _SHOWN else "")


def _match_images(truth: LabelSet, found: LabelSet, notes: list[str]) -> NDArray[np.int64]:
    """Return the truth's row of each image of the labels; -1 where the truth does not have it."""
    if not found.lists_images:
        return np.arange(len(truth.images))
    for side in (truth, found):
        twice = [path for path, count in Counter(image.path for image in side.images).items() if count > 1]
        if twice:
            raise UserError(f"{side.origin}: the image {twice[0]!r} is listed twice")
    truth_paths, found_paths = ([image.path for image in side.images] for side in (truth, found))
    failed_paths = [path for path, _ in found.failed]
    match = match_paths(truth_paths, found_paths + failed_paths)
    image_of = np.array(match[: len(found_paths)], np.int64)
    missing = sorted(set(range(len(truth_paths))) - set(match))
    if missing:
        names = _some([truth_paths[row] for row in missing])
        raise UserError(
            f"{found.origin}: {len(missing)} of the {len(truth_paths)} images of {truth.origin} are not in it: "
            f"{names}; label them too, or judge by the truth of the same images (images are matched by their paths)"
        )
    for image, row in zip(found.images, image_of, strict=True):
        if row >= 0 and truth.images[row].image_hw != image.image_hw:
            sizes = " and ".join(f"{hw[1]} × {hw[0]}" for hw in (truth.images[row].image_hw, image.image_hw))
            raise UserError(f"{image.path}: its size differs between {truth.origin} and {found.origin}: {sizes}")
    if extra := int((image_of < 0).sum()):
        notes.append(f"{found.origin}: {extra} images are not in the truth and were left out")
    if failed := sum(row >= 0 for row in match[len(found_paths) :]):
        notes.append(f"{found.origin}: {failed} images failed there and count as images in which nothing was found")
    return image_of


def match_paths(truth: Sequence[str], found: Sequence[str]) -> list[int]:
    """Return the truth's row for each path of the labels: of the same path, or of the only one that one ends with."""
    rows = {path: row for row, path in enumerate(truth)}
    match = [rows.get(path, -1) for path in found]
    taken = set(match)
    by_name: dict[str, list[int]] = {}
    for row, path in enumerate(truth):
        if row not in taken:
            by_name.setdefault(path.rsplit("/", 1)[-1], []).append(row)
    claims: dict[int, list[int]] = {}
    for place, path in enumerate(found):
        if match[place] >= 0:
            continue
        ends = [row for row in by_name.get(path.rsplit("/", 1)[-1], ()) if _is_end(path, truth[row])]
        if len(ends) == 1:
            claims.setdefault(ends[0], []).append(place)
    for row, places in claims.items():
        if len(places) == 1:
            match[places[0]] = row
    return match


def _is_end(first: str, second: str) -> bool:
    longer, shorter = (first, second) if len(first) > len(second) else (second, first)
    return longer.endswith("/" + shorter.removeprefix("./"))


def _restrict(side: LabelSet, image_of: NDArray[np.int64], class_rows: dict[str, int]) -> Objects:
    """Return the objects of the images and classes that are judged, with their rows there."""
    class_of = np.array([class_rows.get(name, -1) for name in side.names], np.int64)
    objects = side.objects
    images, classes = image_of[objects.image_rows], class_of[objects.class_rows]
    rows = np.flatnonzero((images >= 0) & (classes >= 0))
    return objects.take(rows, images[rows], classes[rows])


def _have_masks(truth: Objects, found: Objects, truth_origin: Path, origin: Path, notes: list[str]) -> bool:
    without = []
    for objects, name in ((truth, truth_origin), (found, origin)):
        lacking = sum(mask is None for mask, crowd in zip(objects.masks, objects.crowd, strict=True) if not crowd)
        if lacking:
            without.append(f"{lacking} of the {len(objects)} objects of {name}")
    if without:
        notes.append(f"masks are not judged: {' and '.join(without)} have none")
    return not without


def masks_of(objects: Objects, rows: NDArray[np.int64]) -> list[Rle]:
    """Return the masks of rows that all have one."""
    return [mask for row in rows if (mask := objects.masks[row]) is not None]
