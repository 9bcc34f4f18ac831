"""Small runs on the disk with known labels, for the tests of the review."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from models.detections import Detections, Instances
from models.masks import encode_mask
from models.ontology import Ontology
from pipeline.errors import UserError
from pipeline.paths import path_to_image_id, path_to_stored
from pipeline.records import AnnotatedImage, FailedImage, ImageTiming, Record
from pipeline.review.mongod import find_mongod
from pipeline.store.manifest import MANIFEST_NAME, ManifestWriter
from pipeline.store.run import RUN_FILE, SHARDS_FOLDER, TIMINGS_FOLDER
from pipeline.store.shards import write_shard


def mongod_missing() -> str:
    """Return why no MongoDB server can run here; empty where one can."""
    try:
        find_mongod()
    except UserError as error:
        return str(error)
    return ""


needs_mongod = pytest.mark.skipif(bool(mongod_missing()), reason=mongod_missing() or "mongod is here")
ONTOLOGY = Ontology.from_dict(
    {
        "round thing": {"prompts": ["circle", "disc"], "color": "#ff00ff"},
        "square": {"prompts": ["square"], "color": "#00ff00"},
    }
)
GREY = 110
HW = (60, 80)

LabelledMask = tuple[NDArray[np.bool_], tuple[float, float, float, float], int]
"""A mask (H, W), the detector's box and the prompt's index."""


def disc(image_hw: tuple[int, int], centre: tuple[float, float], radius: float) -> NDArray[np.bool_]:
    """Return a filled disc; the centre is (x, y)."""
    rows, columns = np.ogrid[: image_hw[0], : image_hw[1]]
    return np.asarray((columns - centre[0]) ** 2 + (rows - centre[1]) ** 2 <= radius**2)


def labelled(path: str, image_hw: tuple[int, int], objects: Sequence[LabelledMask]) -> AnnotatedImage:
    """Return the record of an image with these objects."""
    prompts = [ONTOLOGY.prompts[index] for _, _, index in objects]
    count = len(objects)
    found = Detections(
        image_hw,
        np.array([box for _, box, _ in objects], np.float32).reshape(-1, 4),
        np.linspace(0.9, 0.5, count, dtype=np.float32),
        np.array([prompt.class_id for prompt in prompts], np.int64),
        np.array([prompt.index for prompt in prompts], np.int64),
    )
    masks = tuple(encode_mask(mask) for mask, _, _ in objects)
    instances = Instances(found, masks, np.linspace(0.95, 0.7, count, dtype=np.float32))
    return AnnotatedImage.from_instances(path_to_image_id(path), path_to_stored(path), instances, ONTOLOGY)


def one_disc(path: str, radius: float = 10, prompt: int = 0) -> AnnotatedImage:
    """Return an image with one disc."""
    return labelled(path, HW, [(disc(HW, (30, 25), radius), (20, 15, 40, 35), prompt)])


def a_photo(path: str, radius: float = 10, threshold: str = "low") -> AnnotatedImage:
    """Return an image with two discs; a low threshold gives a third object."""
    objects = [
        (disc(HW, (20, 20), radius), (20 - radius, 20 - radius, 21 + radius, 21 + radius), 0),
        (disc(HW, (55, 35), radius), (55 - radius, 35 - radius, 56 + radius, 36 + radius), 2),
    ]
    if threshold == "low":
        objects.append((disc(HW, (8, 52), 5), (3, 47, 14, 58), 1))
    return labelled(path, HW, objects)


def odd_records() -> list[Record]:
    """Return images with everything that can be odd: sizes, borders, holes, masks beyond their box, none, failures."""
    wide, tall = (90, 160), (201, 97)
    ring = disc(wide, (60, 45), 30) & ~disc(wide, (60, 45), 12)
    corner = np.zeros(wide, bool)
    corner[70:, 130:] = True
    beyond = disc(tall, (50, 60), 33)
    pixel = np.zeros(tall, bool)
    pixel[200, 96] = True
    whole = np.ones((37, 53), bool)
    return [
        labelled("empty.png", (64, 48), []),
        FailedImage(path_to_image_id("sub/broken.jpg"), "sub/broken.jpg", "truncated after 12 of 900 bytes"),
        labelled("sub/tall.png", tall, [(beyond, (40, 50, 60, 70), 1), (pixel, (96, 200, 97, 201), 2)]),
        labelled(
            "wide.png",
            wide,
            [
                (ring, (29.7, 14.2, 91.1, 76.3), 0),
                (corner, (129.5, 69.6, 170, 95), 2),
                (np.zeros(wide, bool), (5.5, 6, 20, 30), 2),
            ],
        ),
        labelled("whole.png", (37, 53), [(whole, (0, 0, 53, 37), 2)]),
    ]


def write_run(folder: Path, records: Sequence[Record], fingerprint: str = "f" * 64) -> Path:
    """Write images and a run with these records; returns the run's folder, whose rows are replaced if it is there."""
    root, run = folder / "photos", folder / "run"
    for made in (root, run / SHARDS_FOLDER, run / TIMINGS_FOLDER):
        made.mkdir(parents=True, exist_ok=True)
    settings = {"images_root": str(root), "ontology": ONTOLOGY.to_dict(), "fingerprint": fingerprint}
    (run / RUN_FILE).write_text(json.dumps(settings))
    (run / MANIFEST_NAME).unlink(missing_ok=True)
    for record in records:
        path = root / record.path
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(record, FailedImage):
            path.write_bytes(b"not an image")
        else:
            Image.new("RGB", record.image_hw[::-1], (GREY, GREY, GREY)).save(path)
    with ManifestWriter(run) as manifest:
        timings = [ImageTiming(record.image_id, 0, 0, 0, 0, "host", "worker") for record in records]
        manifest.append(write_shard(run, records, timings, fingerprint, {}).to_line())
    return run
