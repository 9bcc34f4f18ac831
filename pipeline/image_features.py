"""What the detector makes of whole images, kept beside the labels: which images are alike, and which are unlike all.

An image's feature is the mean of each map of the detector's backbone. Its numbers are compared with those of the other
images of the run: from each its mean is taken and the rest divided by its deviation, so that what all images of a run
have in common says nothing.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow.compute as pc
from numpy.typing import NDArray

from models.boxes import FloatArray
from pipeline.store.run import Run
from pipeline.store.shards import read_timings

ALIKE = 0.95
"""Cosine from which images count as near-duplicates. Of 100 photos, the one unrelated image that resembles another most
has .94 with the bundled detector; a photo and its crop by a twentieth have .97 in the middle."""
MOST_COMPARED = 100_000
"""Images that are compared each with each; of more, the work would be hours."""
_FEWEST = 16
"""Images below which there is no telling what they have in common."""
_CELLS = 1 << 22


@dataclass(frozen=True, eq=False)
class ImageVectors:
    """Features of images, ready to be compared.

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

    Images that failed, that an earlier version labelled, or whose timings are lost have none; nor have all images of a
    run that has fewer than 16 of them, or of runs that were merged although their detectors differ.
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
    if len(found) < _FEWEST or len({len(row) for row in found.values()}) > 1:
        return ImageVectors((), np.zeros((0, 0), np.float32))
    return ImageVectors(tuple(found), compare_ready(np.stack(list(found.values()))))


def compare_ready(features: FloatArray) -> FloatArray:
    """Return features without what all have in common, each of unit length.

    Args:
        features: (N, D) float32; N may be 0.
    """
    if not len(features):
        return features
    spread = features.std(axis=0)
    centred = (features - features.mean(axis=0)) / np.where(spread > 1e-6, spread, 1)
    lengths = np.linalg.norm(centred, axis=1, keepdims=True)
    return np.asarray(centred / np.maximum(lengths, 1e-6), np.float32)


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


def nearest_cosines(vectors: FloatArray) -> FloatArray:
    """Return the cosine of each image with the other that resembles it most, (N,); -1 where nothing is compared."""
    nearest = np.full(len(vectors), -1, np.float32)
    for start, cosines in _cosines(vectors if len(vectors) <= MOST_COMPARED else vectors[:0]):
        rows = np.arange(len(cosines))
        cosines[rows, rows + start] = -1
        nearest[start + rows] = cosines.max(axis=1, initial=-1)
    return nearest


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
