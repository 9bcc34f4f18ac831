"""What the detector makes of whole images, kept beside the labels: which images are alike, and which are unlike all.

An image's feature is a unit vector from the means of the detector's backbone maps. It depends on the image and the
detector alone, so that two images are as alike in a small run as in a large one.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
from numpy.typing import NDArray

from models.boxes import FloatArray
from pipeline.store.run import Run, is_run
from pipeline.store.shards import read_timings

ALIKE = 0.9995
"""Cosine from which images count as near-duplicates. With the bundled detector no two of 101 photos of COCO come nearer
than .9981; eleven pairs of the 292 microscope images of BCCD do, which look alike; of the photos cut by 2.5 % on
each side 96 are nearer to their source, of those cut by 5 % 53."""
MOST_COMPARED = 100_000
"""Images that are compared each with each; of more, the work would be hours."""
_CELLS = 1 << 22


@dataclass(frozen=True, eq=False)
class ImageVectors:
    """Features of images.

    Attributes:
        image_ids: N ids, each once.
        vectors: (N, D) float32 of unit length; the cosine of two images is their product. N may be 0.
    """

    image_ids: tuple[str, ...]
    vectors: FloatArray

    def __len__(self) -> int:
        return len(self.image_ids)


def read_vectors(run: Run) -> ImageVectors:
    """Return the features of a run's images, about 4 D bytes an image.

    Images that failed, that an earlier version labelled, or whose timings are lost have none.
    """
    found: dict[str, FloatArray] = {}
    for entry in run.entries:
        times = read_timings(run.folder, entry.shard)
        if times is None:
            continue
        times = times.filter(pc.is_valid(times.column("image_feature")))
        ids = times.column("image_id").to_pylist()
        rows = times.column("image_feature").to_pylist()
        found |= {image_id: np.array(row, np.float32) for image_id, row in zip(ids, rows, strict=True)}
    if not found:
        return ImageVectors((), np.zeros((0, 0), np.float32))
    vectors = np.stack(list(found.values()))
    lengths = np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-6)
    return ImageVectors(tuple(found), vectors / lengths)


def alike_in_run(source: Path) -> list[tuple[str, str]]:
    """Return the pairs of image ids of a run that are near-duplicates; none of labels that are no run."""
    if not is_run(source):
        return []
    found = read_vectors(Run.open(source))
    return [(found.image_ids[left], found.image_ids[right]) for left, right in alike(found.vectors).tolist()]


def alike(vectors: FloatArray, least: float = ALIKE) -> NDArray[np.int64]:
    """Return the pairs of images that are near-duplicates.

    Args:
        vectors: (N, D) of unit length; nothing is compared where N is over MOST_COMPARED.
        least: Cosine from which on.

    Returns:
        (M, 2) indices, the smaller first.
    """
    found = [np.zeros((0, 2), np.int64)]
    for start, cosines in _cosines(vectors if len(vectors) <= MOST_COMPARED else vectors[:0]):
        left, right = np.nonzero(cosines >= least)
        later = right > left + start
        found.append(np.stack([left[later] + start, right[later]], axis=1))
    return np.concatenate(found)


def _cosines(vectors: FloatArray) -> Iterator[tuple[int, FloatArray]]:
    """Yield (start, the cosines of some rows from there on with all)."""
    step = max(_CELLS // max(len(vectors), 1), 1)
    for start in range(0, len(vectors), step):
        yield start, vectors[start : start + step] @ vectors.T


def spread_order(vectors: FloatArray, count: int) -> NDArray[np.int64]:
    """Choose images that are as different from each other as can be, one after the other.

    The first is the one that is least like the others on average; each next one is the image whose likeness to those
    chosen before is smallest. So the first k of them show what a set holds better than k drawn by chance.

    Args:
        vectors: (N, D) of unit length; N may be 0.
        count: How many, at most N.

    Returns:
        (min(count, N),) indices.

    Source: the greedy k-centre of Gonzalez, "Clustering to minimize the maximum intercluster distance", 1985.
    """
    count = min(count, len(vectors))
    chosen = np.zeros(count, np.int64)
    likeness = vectors @ vectors.mean(axis=0) if count else np.zeros(0, np.float32)
    for place in range(count):
        chosen[place] = likeness.argmin()
        own = vectors @ vectors[chosen[place]]
        likeness = own if place == 0 else np.maximum(likeness, own)
        likeness[chosen[: place + 1]] = np.inf
    return chosen
