"""What a large image takes: time and memory of a worker that labels one, read from a file."""

import multiprocessing
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from math import sqrt
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from pipeline.config import AnnotateConfig

FORMATS: dict[str, dict[str, Any]] = {
    "jpg": {"quality": 90},
    "png": {"compress_level": 1},
    "tif": {"compression": "tiff_lzw"},
}
"""File formats that are measured, with Pillow's options of saving."""
_CELL = 400
_SCENES = 12
_FIRST_SEED = 960_000


@dataclass(frozen=True)
class Taken:
    """What one image took, in a process of its own.

    Attributes:
        loaded: Memory of the process with libraries and models, before the image, bytes.
        peak: Most memory of the process, bytes.
        objects: How many were found.
        seconds: Of labelling, by the processor's clock.
    """

    loaded: int
    peak: int
    objects: int
    seconds: float

    def __str__(self) -> str:
        mib = 1024**2
        return (
            f"peak {self.peak / mib:.0f} MiB, {(self.peak - self.loaded) / mib:.0f} MiB over libraries and models; "
            f"{self.objects} objects, {self.seconds:.1f} s"
        )


def write_large_images(folder: Path, megapixels: float, classes: tuple[str, ...]) -> list[Path]:
    """Write one image of many scenes in each of `FORMATS`; 4 : 3, of about that many megapixels."""
    from models.training.scenes import SceneConfig, render_scene

    height = round(sqrt(megapixels * 1e6 * 3 / 4))
    width = int(megapixels * 1e6) // height
    config = SceneConfig(size=_CELL, max_objects=3, pairs=classes)
    scenes = [render_scene(_FIRST_SEED + row, config).image for row in range(_SCENES)]
    pixels = np.empty((height, width, 3), np.uint8)
    chosen = np.random.default_rng(0)
    for y in range(0, height, _CELL):
        for x in range(0, width, _CELL):
            part = pixels[y : y + _CELL, x : x + _CELL]
            part[:] = scenes[chosen.integers(_SCENES)][: part.shape[0], : part.shape[1]]
    paths = [folder / f"large.{ending}" for ending in FORMATS]
    for path, options in zip(paths, FORMATS.values(), strict=True):
        Image.fromarray(pixels).save(path, **options)
    return paths


def measure_large_image(path: Path, config: AnnotateConfig, classes: tuple[str, ...]) -> Taken:
    """Label an image in a fresh process.

    Raises:
        RuntimeError: It fails.
    """
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as process:
        return process.submit(_label, path, config, classes).result()


def _label(path: Path, config: AnnotateConfig, classes: tuple[str, ...]) -> Taken:
    from models.devices import use_threads
    from models.ontology import Ontology
    from pipeline.build import build_annotator
    from pipeline.records import AnnotatedImage
    from pipeline.sources import find_images

    use_threads(config.threads or 1)
    found = find_images(path)
    annotator = build_annotator(config, Ontology.from_names(classes))
    loaded = _memory("VmRSS")
    start = time.process_time()
    (record,) = annotator(found.refs, str(found.root)).records
    seconds = time.process_time() - start
    annotator.close()
    if not isinstance(record, AnnotatedImage):
        raise RuntimeError(f"{path.name}: {record.reason}")
    return Taken(loaded, _memory("VmHWM"), len(record.instances), seconds)


def _memory(name: str) -> int:
    """Return a figure of this process in bytes; unlike `getrusage` it does not count the process that started it."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))
