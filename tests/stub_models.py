"""A detector and a segmenter that need no weights, for tests of what stands around the models."""

import ctypes
import os
import signal
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image as PillowImage

from models.detections import Detections, Instances
from models.interfaces import Image
from models.masks import encode_mask
from models.ontology import Ontology
from pipeline.annotator import Annotated, Annotator
from pipeline.config import AnnotateConfig
from pipeline.sources import ImageRef
from pipeline.store.run import SHARDS_FOLDER
from pipeline.store.shards import shard_name

ONTOLOGY = Ontology.from_names("red thing, green thing")
CRASH, RAISE, RAISE_IN_SEGMENTER, SLOW, SEGFAULT, HANG = 201, 202, 203, 204, 205, 206
"""Red value of the first pixel that makes the stub misbehave."""


class StubDetector:
    """One box a bright region: left half for red, right half for green; remembers the sizes of its batches."""

    def __init__(self) -> None:
        self.batches: list[int] = []

    def resized_hw(self, image_hw: tuple[int, int]) -> tuple[int, int]:
        return image_hw

    def __call__(self, images: Sequence[Image]) -> list[Detections]:
        self.batches.append(len(images))
        if len({image.shape for image in images}) > 1:
            raise ValueError("images of different sizes in one batch")
        return [self._detect(image) for image in images]

    def _detect(self, image: Image) -> Detections:
        mark = int(image[0, 0, 0])
        if mark == CRASH:
            os.kill(os.getpid(), signal.SIGKILL)
        if mark == SEGFAULT:
            signal.raise_signal(signal.SIGSEGV)  # to this very thread, as a real one is
        if mark == HANG:
            ctypes.CDLL(None).sleep(600)
        if mark == RAISE:
            raise ValueError("this image is not to my taste")
        if mark == SLOW:
            time.sleep(0.5)
        height, width = image.shape[:2]
        boxes = np.array([[0, 0, width / 2, height], [width / 2, 0, width, height]], np.float32)
        present = np.array([image[..., 0].max() > 100, image[..., 1].max() > 100])
        classes = np.array([1, 2])[present]
        return Detections((height, width), boxes[present], np.full(len(classes), 0.75), classes, classes - 1)


class StubSegmenter:
    """The mask of a box is the box."""

    def __call__(self, image: Image, detections: Detections) -> Instances:
        if int(image[0, 0, 0]) == RAISE_IN_SEGMENTER:
            raise RuntimeError("no mask for this one")
        masks = []
        for x1, y1, x2, y2 in detections.boxes_xyxy.astype(int):
            mask = np.zeros(detections.image_hw, bool)
            mask[y1:y2, x1:x2] = True
            masks.append(encode_mask(mask))
        return Instances(detections, tuple(masks), np.full(len(masks), 0.5, np.float32))


def build_stub() -> Annotator:
    """Make an annotator of the stubs; workers call it too."""
    return Annotator(StubDetector(), StubSegmenter(), ONTOLOGY, batch_size=4)


class _DiesAfterCommit(Annotator):
    """Commits its batch and kills its worker before the call returns, once."""

    def __call__(self, refs: Sequence[ImageRef], root: str) -> Annotated:
        done = super().__call__(refs, root)
        marker = Path(root).parent / "died"
        if not marker.exists():
            marker.touch()
            name = shard_name(ref.image_id for ref in refs)
            run_folder = Path(root).parent / "run"
            threading.Thread(target=_kill_when_there, args=(run_folder / SHARDS_FOLDER / name,)).start()
        return done


def _kill_when_there(path: Path) -> None:
    while not path.exists():
        time.sleep(0.0005)
    os.kill(os.getpid(), signal.SIGKILL)


def build_dying() -> Annotator:
    """Make an annotator that kills its worker once, right after its first batch was committed."""
    return _DiesAfterCommit(StubDetector(), StubSegmenter(), ONTOLOGY, batch_size=4)


def build_for(config: AnnotateConfig, ontology: Ontology) -> Annotator:
    """Stand in for `pipeline.build.build_annotator`."""
    return Annotator(StubDetector(), StubSegmenter(), ontology, config.filters, config.images_at_once, config.pixels)


def build_failing() -> Annotator:
    """Fail as a model does whose weights are missing."""
    raise FileNotFoundError("weights of the model stub are not on this machine; put them into models/")


def build_deadly() -> Annotator:
    """Kill the worker while it loads."""
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


def save_image(path: Path, mark: int = 0, hw: tuple[int, int] = (12, 16), green: bool = False) -> Path:
    """Write a PNG with one red object, and a green one if asked; `mark` is the red value of its first pixel."""
    pixels = np.zeros((*hw, 3), np.uint8)
    pixels[2:6, 2:6, 0] = 250
    if green:
        pixels[2:6, -6:-2, 1] = 250
    pixels[0, 0, 0] = mark
    path.parent.mkdir(parents=True, exist_ok=True)
    PillowImage.fromarray(pixels).save(path, "PNG")
    return path
