"""`groundlabel bench engine`: the engine's images/s over those of a plain loop of the same models, in one run.

With several workers the engine is measured against itself with one, on the processor. Loading the models is left out.
"""

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.config import AnnotateConfig
from pipeline.errors import UserError

if TYPE_CHECKING:
    from models.interfaces import Detector, Segmenter
    from models.ontology import Ontology
    from pipeline.engine.actors import Engine
    from pipeline.records import AnnotatedImage
    from pipeline.sources import ImageSet

HELP = "Measure the engine against a plain loop of the same models, or several workers against one."
EXAMPLE = """
groundlabel bench engine --n 64 --rounds 5
groundlabel bench engine --n 64 --rounds 5 --workers 2
groundlabel bench engine --images photos/ --classes "person, car" --threads 1
"""
_SCENE_CLASSES = "red circle, green square, blue triangle, yellow star"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this bench."""
    parser.add_argument("--images", metavar="FOLDER", help="images to label (default: scenes made for this)")
    parser.add_argument("--classes", default=_SCENE_CLASSES, metavar="NAMES|FILE", help="what to look for")
    parser.add_argument("--detector", default="tiny", metavar="NAME", help="zoo name or model folder (default: tiny)")
    parser.add_argument("--segmenter", default="tiny-sam", metavar="NAME", help="likewise (default: tiny-sam)")
    parser.add_argument("--n", type=int, default=64, metavar="N", help="images a round (default: 64)")
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="rounds, each both ways (default: 5)")
    parser.add_argument(
        "--workers",
        type=int,
        default=1,
        metavar="N",
        help="workers of the engine (default: 1); several are measured against one, on the CPU",
    )
    parser.add_argument("--threads", type=int, default=1, metavar="N", help="CPU threads a worker (default: 1)")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda (default: auto)")


def run(arguments: argparse.Namespace) -> int:
    """Print images/s and CPU time of both in each round, and the medians of their ratios; returns 0."""
    if min(arguments.n, arguments.rounds, arguments.workers) < 1:
        raise UserError("--n, --rounds and --workers must be at least 1")
    if arguments.workers > 1 and arguments.device == "cuda":
        raise UserError("--workers above 1 measures the processor's cores; leave --device out, or give --device cpu")
    # Read by OpenMP and MKL when torch is first imported, which is after this: both ways have the same threads.
    os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = str(arguments.threads)
    config = AnnotateConfig(
        detector=arguments.detector,
        segmenter=arguments.segmenter,
        workers=arguments.workers,
        threads=arguments.threads,
        device=arguments.device if arguments.workers == 1 else "cpu",
    )
    name = "plain loop" if config.workers == 1 else "one worker"
    with tempfile.TemporaryDirectory(prefix="groundlabel-bench-") as folder:
        rounds = []
        for engine, other in _rounds(arguments, config, Path(folder)):
            rounds.append((engine.rate / other.rate, engine.cpu_an_image / other.cpu_an_image))
            print(f"round {len(rounds)}: engine {engine}; {name} {other}; ratio {rounds[-1][0]:.3f}", flush=True)
    speed, cpu = (statistics.median(values) for values in zip(*rounds, strict=True))
    engine_name = "engine" if config.workers == 1 else f"engine with {config.workers} workers"
    print(f"{engine_name} over {name}, median of {len(rounds)}: {speed:.3f} of the images/s, {cpu:.3f} of the CPU time")
    return 0


@dataclass(frozen=True)
class _Timing:
    """How long one way took for its images."""

    images: int
    seconds: float
    cpu_seconds: float

    @property
    def rate(self) -> float:
        return self.images / self.seconds

    @property
    def cpu_an_image(self) -> float:
        return self.cpu_seconds / self.images

    def __str__(self) -> str:
        return f"{self.rate:.2f} images/s ({self.cpu_an_image:.3f} CPU s an image)"


def _rounds(arguments: argparse.Namespace, config: AnnotateConfig, folder: Path) -> Iterator[tuple[_Timing, _Timing]]:
    """Yield the timings of the engine and of the other way, a round at a time; who goes first changes."""
    from models.ontology import Ontology
    from pipeline.build import build_annotator
    from pipeline.engine.actors import Engine
    from pipeline.engine.ray_start import own_ray
    from pipeline.sources import find_images

    ontology = Ontology.parse(arguments.classes)
    found = find_images(arguments.images or make_scenes(folder / "scenes", arguments.n))
    start = partial(Engine, partial(build_annotator, config, ontology), threads=config.threads)
    images, use_gpu = min(arguments.n, len(found.refs)), config.device != "cpu"
    with ExitStack() as stack:
        other_engine: Engine | None = None
        if config.workers == 1:
            other = _plain_way(config, ontology, found, images)
        else:
            stack.enter_context(own_ray((config.workers or 1) + 1))
            other_engine = stack.enter_context(start(workers=1, use_gpu=False))
            other_engine.wait_until_ready()
            other = partial(_run_engine, other_engine, found, images, ontology, folder)
        engine = stack.enter_context(start(workers=config.workers, use_gpu=use_gpu))
        engine.wait_until_ready()
        with_engine = partial(_run_engine, engine, found, images, ontology, folder)
        for number in range(arguments.rounds + 1):
            first = _time(other, images, other_engine) if number % 2 else None
            engine_timing = _time(with_engine, images, engine)
            timing = first or _time(other, images, other_engine)
            if number:  # the first round warms up
                yield engine_timing, timing


def _plain_way(config: AnnotateConfig, ontology: "Ontology", found: "ImageSet", images: int) -> Callable[[], object]:
    """Load the models here, and return what labels the images with them."""
    from models.zoo import load_detector
    from pipeline.build import detector_options, load_segmenter_of

    detector = load_detector(config.detector, ontology, **detector_options(config))
    segmenter = load_segmenter_of(config)
    # In a thread of its own, as in the engine: the main thread's malloc gives memory back and faults it in again.
    thread = ThreadPoolExecutor(1)
    return lambda: thread.submit(_plain_loop, detector, segmenter, ontology, config, found, images).result()


def _time(way: Callable[[], object], images: int, engine: "Engine | None") -> _Timing:
    """Time a way; its CPU time is that of this process and of its engine's workers."""

    def cpu() -> float:
        return time.process_time() + (engine.cpu_seconds() if engine else 0.0)

    before, start = cpu(), time.perf_counter()
    way()
    seconds = time.perf_counter() - start
    return _Timing(images, seconds, cpu() - before)


def make_scenes(folder: Path, count: int, size: int = 320) -> Path:
    """Write scenes into a new folder; returns it."""
    from PIL import Image

    from models.training.scenes import SceneConfig, render_scene

    folder.mkdir()
    for seed in range(count):
        Image.fromarray(render_scene(seed, SceneConfig(size=size)).image).save(folder / f"{seed:05}.jpg", quality=92)
    return folder


def _run_engine(engine: "Engine", found: "ImageSet", images: int, ontology: "Ontology", folder: Path) -> None:
    """Label images with the engine into a new folder, from the first path to the last shard in the manifest."""
    from pipeline.engine.progress import Progress
    from pipeline.engine.schedule import split_batches
    from pipeline.engine.worker import Task
    from pipeline.store.fingerprint import fingerprint_parts
    from pipeline.store.writer import RunWriter

    config = AnnotateConfig()
    output = Path(tempfile.mkdtemp(dir=folder))
    with RunWriter(output, fingerprint_parts(config, ontology, "", ""), ontology, found.root, config) as writer:
        task = Task(str(found.root), output, writer.fingerprint)
        batches = split_batches(found.refs[:images], config.shard_size)
        engine.run(batches, task, writer, Progress(images, shown=False))


def _plain_loop(
    detector: "Detector",
    segmenter: "Segmenter",
    ontology: "Ontology",
    config: AnnotateConfig,
    found: "ImageSet",
    images: int,
) -> "list[AnnotatedImage]":
    """Label images the simplest way: read some, group by size, detect, filter, segment; nothing is written."""
    from pipeline.filters import filter_detections
    from pipeline.images import read_image
    from pipeline.records import AnnotatedImage

    records = []
    refs = found.refs[:images]
    for start in range(0, len(refs), config.shard_size):
        groups: dict[tuple[int, int], list[int]] = {}
        part = refs[start : start + config.shard_size]
        pixels = [read_image(ref.locate(str(found.root))) for ref in part]
        for row, image in enumerate(pixels):
            groups.setdefault(detector.resized_hw((image.shape[0], image.shape[1])), []).append(row)
        for rows in groups.values():
            for begin in range(0, len(rows), config.images_at_once):
                chosen = rows[begin : begin + config.images_at_once]
                for row, detections in zip(chosen, detector([pixels[row] for row in chosen]), strict=True):
                    kept, _ = filter_detections(detections, config.filters)
                    instances = segmenter(pixels[row], kept)
                    records.append(AnnotatedImage.from_instances(*part[row], instances, ontology))
    return records
