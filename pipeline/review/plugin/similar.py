"""Objects that look like one that a person selected, by what the run's own detector sees in their crops.

A run keeps a feature of each image and none of its objects. So those of the view are made when somebody asks, from a
square crop around each object, and are kept in this process.
"""

import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image as Pictures

from models.boxes import FloatArray
from models.interfaces import Image
from pipeline.config import AnnotateConfig
from pipeline.errors import UserError
from pipeline.review.documents import rel_to_box
from pipeline.review.plugin import loaded
from pipeline.review.plugin.edits import Document
from pipeline.review.plugin.targets import image_hw_of, stored_labels, stored_samples
from pipeline.review.schema import POLYGONS, PREDICTIONS
from pipeline.reviewed.changes import BoxXyxy
from pipeline.run_options import config_of
from pipeline.stages import Stages
from pipeline.store.run import Run

MOST_SHOWN = 200
"""Objects in the view that comes out."""
_MARGIN = 0.1
_SIDE = 128
"""Pixels of a crop's side: of one size, crops share a batch whatever their shape."""
_GREY = (114, 114, 114)
_BATCH = 8
_MOST_HELD = 50_000

_Key = tuple[str, str, str, BoxXyxy]
_held: OrderedDict[_Key, FloatArray] = OrderedDict()
_lock = threading.Lock()


@dataclass(frozen=True)
class Similar:
    """Objects by their likeness to one of them.

    Attributes:
        label_ids: The most similar first, the one that was asked for at their head.
        cosines: Of each with that one.
        compared: How many objects were compared.
        view: A FiftyOne view of single objects in this order.
    """

    label_ids: tuple[str, ...]
    cosines: tuple[float, ...]
    compared: int
    view: Any


def find_similar(
    dataset: Any, run: Run, asked: Sequence[tuple[Document, str, Document]], sample_ids: Sequence[str]
) -> Iterator[int | Similar]:
    """Compare an object with all labels of some images.

    Args:
        dataset: A FiftyOne dataset of the run.
        run: The run.
        asked: (sample, field, label) of the one object.
        sample_ids: Which images; N may be 0.

    Yields:
        How many of the images are done, after each, and at the end what was found.

    Raises:
        UserError: Not one object is asked for, its image cannot be read, the detector makes no features, or the models
            are not on this machine.
    """
    if len(asked) != 1 or asked[0][1] == POLYGONS:
        raise UserError(f"select one object with a box, not {len(asked)}: click it in an open image, or one patch")
    sample, _, label = asked[0]
    config = config_of(run)
    stages = loaded.stages_of(config, run.ontology)
    own = _features(run, stages, config, sample, [label])
    if own is None:
        raise UserError(f"{sample['path']}: the image cannot be read")
    found: dict[str, float] = {}
    for count, other in enumerate(stored_samples(dataset, sample_ids), start=1):
        labels = stored_labels(other, PREDICTIONS) if all(image_hw_of(other)) else []
        vectors = _features(run, stages, config, other, labels)
        for one, vector in zip(labels, vectors or (), strict=vectors is not None):
            found[str(one["_id"])] = float(own[0] @ vector)
        yield count
    found[str(label["_id"])] = 1.0
    ranked = sorted(found, key=lambda label_id: (label_id != str(label["_id"]), -found[label_id]))[:MOST_SHOWN]
    in_labels = [label_id for label_id in ranked if label_id != str(label["_id"]) or asked[0][1] == PREDICTIONS]
    patches = dataset.select_labels(ids=in_labels, fields=PREDICTIONS).to_patches(PREDICTIONS)
    yield Similar(
        tuple(ranked),
        tuple(found[label_id] for label_id in ranked),
        len(found),
        patches.select(in_labels, ordered=True),
    )


def _features(
    run: Run, stages: Stages, config: AnnotateConfig, sample: Document, labels: Sequence[Document]
) -> list[FloatArray] | None:
    """Return a unit vector for each label of an image, those that are not held made now; None without the image."""
    keys = [_key(run, sample, label) for label in labels]
    with _lock:
        missing = [key for key in dict.fromkeys(keys) if key not in _held]
        if missing:
            pixels = loaded.read_pixels(sample["filepath"], config)
            if pixels is None:
                return None
            _held.update(zip(missing, _describe(stages, [crop_square(pixels, key[3]) for key in missing]), strict=True))
        vectors = [_held[key] for key in keys]
        for key in keys:
            _held.move_to_end(key)
        while len(_held) > _MOST_HELD:
            _held.popitem(last=False)
    return vectors


def crop_square(image: Image, box_xyxy: BoxXyxy) -> Image:
    """Return the square around a box and a tenth of its longer side on each side, at one size.

    Args:
        image: (H, W, 3) uint8.
        box_xyxy: Pixels, inside the image.

    Returns:
        (128, 128, 3) uint8; what the image has not is grey.
    """
    x1, y1, x2, y2 = box_xyxy
    side = max(round(max(x2 - x1, y2 - y1) * (1 + 2 * _MARGIN)), 1)
    left, top = round((x1 + x2 - side) / 2), round((y1 + y2 - side) / 2)
    square = Pictures.new("RGB", (side, side), _GREY)
    inside = image[max(top, 0) : top + side, max(left, 0) : left + side]
    if inside.size:
        square.paste(Pictures.fromarray(inside), (max(-left, 0), max(-top, 0)))
    return np.array(square.resize((_SIDE, _SIDE), Pictures.Resampling.BILINEAR))


def _key(run: Run, sample: Document, label: Document) -> _Key:
    box = rel_to_box(label["bounding_box"], image_hw_of(sample))
    return str(run.folder), run.fingerprint, str(sample["image_id"]), box


def _describe(stages: Stages, crops: Sequence[Image]) -> list[FloatArray]:
    """Return a unit vector for each crop."""
    vectors: list[FloatArray] = []
    for start in range(0, len(crops), _BATCH):
        for found in stages.detect(crops[start : start + _BATCH]):
            if found.image_feature is None:
                raise UserError("the run's detector says nothing of how an image looks, so no objects can be compared")
            vectors.append(found.image_feature)
    return vectors
