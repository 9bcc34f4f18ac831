"""`annotate`: the whole job, from a folder of images to a run folder of labels."""

import os
import resource
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

from models.ontology import Ontology
from pipeline.annotator import Annotator
from pipeline.config import AnnotateConfig
from pipeline.errors import UserError
from pipeline.records import FailedImage
from pipeline.sources import ImageRef, ImageSet, find_images
from pipeline.store.fingerprint import fingerprint_parts
from pipeline.store.run import Run
from pipeline.store.writer import RunWriter, check_output

_SAMPLES = 3


@dataclass(frozen=True)
class AnnotateResult:
    """What an annotate call left.

    Attributes:
        output: The run folder.
        rows: Images with a row in the run, failed ones included.
        failed: All failed images of the run, in the order of their paths.
        computed: Images that this call labelled or found to be failed; the others were there.
        missing: Images that were asked for and have no row, because the call was interrupted.
        instances: Objects in the run.
        seconds: Wall-clock time of this call.
        interrupted: It was stopped by Ctrl-C or SIGTERM; the same call goes on.
    """

    output: Path
    rows: int
    failed: tuple[FailedImage, ...]
    computed: int
    missing: int
    instances: int
    seconds: float
    interrupted: bool

    @property
    def run(self) -> Run:
        """The run, opened for reading."""
        return Run.open(self.output)


@dataclass(frozen=True)
class AnnotatePlan:
    """What an annotate call would do (`--dry-run`).

    Attributes:
        images_root: Folder that the paths start from.
        images: Images that were asked for.
        done: How many have a row already.
        todo: How many would be labelled.
        workers: Processes that would do it.
        load_seconds: Time to load the models, once a worker.
        seconds_per_image: Measured on up to three of the images to do, one worker; None when there is none.
        peak_bytes: Most memory that one worker used for them.
    """

    images_root: Path
    images: int
    done: int
    todo: int
    workers: int
    load_seconds: float
    seconds_per_image: float | None
    peak_bytes: int


@dataclass(frozen=True)
class _Job:
    """A checked request."""

    config: AnnotateConfig
    ontology: Ontology
    found: ImageSet
    refs: tuple[ImageRef, ...]
    parts: dict[str, Any]
    output: Path


def build_annotator(config: AnnotateConfig, ontology: Ontology) -> Annotator:
    """Load the models of a config; a worker calls this in its own process.

    Raises:
        ValueError: A model, prompt or option does not fit.
        FileNotFoundError: Weights are not on this machine.
    """
    from models.zoo import load_detector, load_segmenter

    detector = load_detector(
        config.detector,
        ontology,
        box_threshold=config.box_threshold,
        text_threshold=config.text_threshold,
        size=config.size,
        prompts_per_pass=config.prompts_per_pass,
        device=config.device,
    )
    segmenter = load_segmenter(config.segmenter, device=config.device)
    return Annotator(detector, segmenter, ontology, config.filters, config.batch_size, config.pixels)


def annotate(
    images: str | Path | Sequence[str | Path],
    ontology: Ontology | str | Path,
    output: str | Path,
    config: AnnotateConfig | None = None,
    *,
    progress: bool = True,
    **overrides: Any,
) -> AnnotateResult:
    """Label images and keep the labels in a run folder; a run that is there is continued.

    Args:
        images: Folder, file, glob, .txt list or .parquet table of paths; or paths one by one.
        ontology: Classes and prompts, or what `Ontology.parse` takes.
        output: Run folder.
        config: Options; None means the defaults.
        progress: Show progress on stderr.
        **overrides: Options by name, over those of the config.

    Returns:
        Counts, failed images and the run.

    Raises:
        UserError: Something that was asked for is wrong or missing, or the output cannot be written.
    """
    start = time.monotonic()
    job = _check(images, ontology, output, config, overrides)
    with RunWriter(job.output, job.parts, job.ontology, job.found.root, job.config) as writer:
        done = writer.done_ids()
        todo = [ref for ref in job.refs if ref.image_id not in done]
        interrupted = bool(todo) and _compute(todo, job, writer, progress)
        missing = len({ref.image_id for ref in todo} - writer.done_ids())
        computed = len(todo) - missing
        failed = writer.write_summary(time.monotonic() - start, computed)
        counts = Run.open(job.output).counts()
    seconds = time.monotonic() - start
    return AnnotateResult(
        job.output, counts.total, failed, computed, missing, counts.instances, seconds, interrupted and missing > 0
    )


def plan_annotate(
    images: str | Path | Sequence[str | Path],
    ontology: Ontology | str | Path,
    output: str | Path,
    config: AnnotateConfig | None = None,
    **overrides: Any,
) -> AnnotatePlan:
    """Say what `annotate` would do, without writing anything; labels three real images to estimate time and memory.

    Raises:
        UserError: As `annotate`.
    """
    from pipeline.engine.actors import default_threads

    job = _check(images, ontology, output, config, overrides)
    run = check_output(job.output, job.parts, job.found.root, job.config.overwrite)
    done = {image_id for entry in run.entries for image_id in entry.ids} if run else set()
    todo = [ref for ref in job.refs if ref.image_id not in done]
    workers = job.config.workers or 1
    os.environ["OMP_NUM_THREADS"] = str(job.config.threads or default_threads(workers))
    start = time.monotonic()
    annotator = build_annotator(job.config, job.ontology)
    load_seconds = time.monotonic() - start
    samples = [todo[len(todo) * part // _SAMPLES] for part in range(min(_SAMPLES, len(todo)))]
    seconds = []
    for ref in samples[:1] + samples:  # the first one twice: once to warm up
        start = time.monotonic()
        annotator([ref], str(job.found.root))
        seconds.append(time.monotonic() - start)
    annotator.close()
    return AnnotatePlan(
        job.found.root,
        len(job.refs),
        len(job.refs) - len(todo),
        len(todo),
        workers,
        load_seconds,
        sum(seconds[1:]) / len(samples) if samples else None,
        resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    )


def _check(
    images: str | Path | Sequence[str | Path],
    ontology: Ontology | str | Path,
    output: str | Path,
    config: AnnotateConfig | None,
    overrides: dict[str, Any],
) -> _Job:
    """Check all that can be checked before a model is loaded.

    Raises:
        UserError: Something is wrong or missing.
    """
    from models.zoo import model_fingerprint, resolve

    config = (config or AnnotateConfig()).merged(overrides)
    try:
        resolve(config.detector, "detector")
        resolve(config.segmenter, "segmenter")
        classes = ontology if isinstance(ontology, Ontology) else Ontology.parse(os.fspath(ontology))
        parts = fingerprint_parts(
            config, classes, model_fingerprint(config.detector), model_fingerprint(config.segmenter)
        )
    except (ValueError, OSError) as error:
        raise UserError(str(error)) from error
    found = find_images(images, config.root)
    return _Job(config, classes, found, found.refs[: config.limit], parts, Path(output).absolute())


def _compute(todo: list[ImageRef], job: _Job, writer: RunWriter, progress: bool) -> bool:
    """Label images on workers; returns whether a signal stopped it."""
    from pipeline.engine.actors import Engine
    from pipeline.engine.progress import Progress
    from pipeline.engine.schedule import split_batches
    from pipeline.engine.worker import Task

    config = job.config
    build = partial(build_annotator, config, job.ontology)
    task = Task(str(job.found.root), job.output, writer.fingerprint)
    with (
        _stop_on_signals() as stopping,
        Progress(len(todo), shown=progress) as shown,
        Engine(build, config.workers, config.threads, use_gpu=config.device != "cpu") as engine,
    ):
        # In a small run, several batches a worker, so that all have work to the end.
        share = -(-len(todo) // engine.workers)
        size = min(config.shard_size, max(share // 4, min(share, config.batch_size)))
        engine.run(split_batches(todo, size), task, writer, shown, stopping)
        return stopping()


@contextmanager
def _stop_on_signals() -> Iterator[Callable[[], bool]]:
    """Turn the first Ctrl-C or SIGTERM into a request to stop, and the second into KeyboardInterrupt.

    Outside of the main thread, where Python allows no handlers, nothing is changed.
    """
    received: list[int] = []

    def handle(number: int, _: FrameType | None) -> None:
        received.append(number)
        if len(received) > 1:
            raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: bool(received)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
