"""`annotate`: the whole job, from a folder of images to a run folder of labels."""

import os
import random
import resource
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from models.boxes_only import BoxesOnly
from models.interfaces import RankingDetector
from models.ontology import Ontology
from models.zoo import load_detector, model_fingerprint, resolve
from pipeline.addresses import parse_schemes, root_to_address
from pipeline.build import assemble, build_annotator, detector_options
from pipeline.config import AnnotateConfig
from pipeline.engine.signals import stop_on_signals
from pipeline.engine.worker import Task
from pipeline.errors import UserError
from pipeline.images import describe_error
from pipeline.listing import Listing
from pipeline.prefilter import Calibration, RankRecorder, choose_classes, settle_prefilter, write_calibration
from pipeline.prompt_notes import note_unread_prompts
from pipeline.records import FailedImage
from pipeline.sources import ImageRef, ImageSource, open_images
from pipeline.store.fingerprint import fingerprint_parts
from pipeline.store.index import IdIndex
from pipeline.store.manifest import read_manifest
from pipeline.store.output import check_output, settings_to_config
from pipeline.store.run import Run, is_run
from pipeline.store.status import DONE, ENDED, INTERRUPTED
from pipeline.store.writer import RunWriter, package_version

if TYPE_CHECKING:
    from pipeline.engine.progress import Progress
    from pipeline.store.mirror import Mirror

_SAMPLES = 3
_LARGE_BATCHES = 8
"""Batches of the full size that a run must have for them to be used."""


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
        changed: Images of the run whose files had changed, and that were to be labelled anew.
        vanished: Images of the run that are not among those asked for; their rows stay.
        profile: Where the workers' time went (`pipeline.engine.profile.Profile.to_dict`); None where there was none.
        prefilter: How the number of the prefilter's classes was found; None where no recall was asked for.
        fetched: Shards that came from the mirror.
        mirror_problem: Why the mirror is behind; empty where it holds the run, or none was asked for.
    """

    output: Path
    rows: int
    failed: tuple[FailedImage, ...]
    computed: int
    missing: int
    instances: int
    seconds: float
    interrupted: bool
    changed: int = 0
    vanished: int = 0
    profile: Mapping[str, Any] | None = None
    prefilter: Calibration | None = None
    fetched: int = 0
    mirror_problem: str = ""

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
class Job:
    """A checked request.

    Attributes:
        config: All options.
        ontology: Classes and prompts.
        source: The images.
        parts: What makes the rows (`fingerprint_parts`).
        output: Absolute path of the run folder.
        whole: Images of the run that the source does not have are gone.
        prefilter: How the number of the prefilter's classes was found, where a recall was asked for.
    """

    config: AnnotateConfig
    ontology: Ontology
    source: ImageSource
    parts: Mapping[str, Any]
    output: Path
    whole: bool = True
    prefilter: Calibration | None = None


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
    options = (config or AnnotateConfig()).merged(overrides)
    with open_mirror(options.mirror, Path(output).absolute()) as mirror:
        job = check_job(images, ontology, output, options, {}, mirror.glance if mirror else None)
        fetched = mirror.prepare(job.parts, job.source.root, options.overwrite) if mirror else 0
        with RunWriter(job.output, job.parts, job.ontology, job.source.root, job.config) as writer:
            if job.prefilter is not None:
                write_calibration(job.output, job.prefilter)
            if mirror is None:
                return label(job, writer, start, progress)
            mirror.begin(options.overwrite)
            result = label(job, writer, start, progress)
            return replace(result, fetched=fetched, mirror_problem=mirror.finish())


def open_mirror(address: str | None, output: Path) -> "AbstractContextManager[Mirror | None]":
    """Open the mirror of a run folder; None, which costs nothing, where none is asked for.

    Raises:
        UserError: As `Mirror`.
    """
    if not address:
        return nullcontext()
    from pipeline.store.mirror import Mirror

    return Mirror(address, output)


def label(job: Job, writer: RunWriter, start: float, shown: bool) -> AnnotateResult:
    """Compute what a job asks for and the run does not have, and sum up.

    Args:
        job: What to do.
        writer: Holds the run.
        start: When the call began, by the monotonic clock.
        shown: Show progress on stderr.

    Raises:
        UserError: As `annotate`.
    """
    from pipeline.engine.metrics import serve_metrics
    from pipeline.engine.profile import Profile
    from pipeline.engine.report import Reporter

    listing = Listing(job.source, writer.index, job.output, job.config, job.whole, job.output)
    with stop_on_signals() as stopping, listing:
        reporter = Reporter(writer, listing, shown)
        writer.record("start", images=job.source.name, healed=asdict(writer.healed), version=package_version())
        try:
            with serve_metrics(job.config.metrics_port, lambda: reporter.status):
                if listing.wait(1, stopping) and not stopping():
                    _compute(job, writer, listing, reporter.progress, stopping)
        except BaseException as error:
            reporter.end(ENDED, describe_error(error))
            raise
        missing = listing.todo - writer.added
        interrupted = stopping() and (missing > 0 or not listing.done)
    seconds = time.monotonic() - start
    profile = Profile.from_seconds(reporter.progress.seconds, writer.added)
    measured = None if profile is None else profile.to_dict()
    outcome = writer.finish(seconds, writer.added, measured)
    reporter.end(INTERRUPTED if interrupted else DONE)
    return AnnotateResult(
        job.output,
        outcome.counts.total,
        outcome.failed,
        writer.added,
        missing,
        outcome.counts.instances,
        seconds,
        interrupted,
        listing.changed,
        listing.vanished,
        measured,
        job.prefilter,
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

    job = check_job(images, ontology, output, config, overrides)
    run = check_output(job.output, job.parts, job.source.root, job.config.overwrite)
    index = IdIndex(read_manifest(job.output) if run else ())
    chosen = random.Random(0)
    samples: list[ImageRef] = []
    with Listing(job.source, index, job.output, job.config) as listing:
        for number, ref in enumerate(listing.all_todo()):
            if number < _SAMPLES:
                samples.append(ref)
            elif (place := chosen.randrange(number + 1)) < _SAMPLES:
                samples[place] = ref
    workers = job.config.workers or 1
    os.environ["OMP_NUM_THREADS"] = str(job.config.threads or default_threads(workers))
    start = time.monotonic()
    annotator = build_annotator(job.config, job.ontology)
    load_seconds = time.monotonic() - start
    seconds = []
    for ref in samples[:1] + samples:  # the first one twice: once to warm up
        start = time.monotonic()
        annotator([ref], str(job.source.root))
        seconds.append(time.monotonic() - start)
    annotator.close()
    return AnnotatePlan(
        job.source.root,
        listing.listed,
        listing.unchanged,
        listing.todo,
        workers,
        load_seconds,
        sum(seconds[1:]) / len(samples) if samples else None,
        resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    )


def check_job(
    images: str | Path | Sequence[str | Path],
    ontology: Ontology | str | Path,
    output: str | Path,
    config: AnnotateConfig | None,
    overrides: Mapping[str, Any],
    glance: Path | None = None,
) -> Job:
    """Check all that can be checked before images are listed and models loaded; arguments as of `annotate`.

    `glance` is a folder with the settings of the run that will be fetched into the output; None where none will.

    Raises:
        UserError: Something is wrong or missing.
    """
    from pipeline.engine.cluster import parse_resources

    config = (config or AnnotateConfig()).merged(overrides)
    folder = Path(output).absolute()
    known = glance or folder
    if config.continue_with_old and is_run(known):
        settings = Run.open(known).settings
        config, ontology = settings_to_config(settings, config), Ontology.from_dict(settings["ontology"])
    parse_resources(config.resources or "")
    classes, parts = make_parts(config, ontology)
    note_unread_prompts(config.detector, classes)
    source = open_images(images, config.root, parse_schemes(config.remote_schemes))
    calibrate = partial(_calibrate_prefilter, config, classes, source.root)
    config, prefilter = settle_prefilter(config, source, known, calibrate)
    if prefilter is not None:
        _, parts = make_parts(config, classes)
    return Job(config, classes, source, parts, folder, prefilter=prefilter)


def _calibrate_prefilter(
    config: AnnotateConfig, ontology: Ontology, root: Path, asked: float, refs: Sequence[ImageRef]
) -> Calibration:
    """Label images with all classes, and choose the fewest that keep a share of the boxes.

    Raises:
        UserError: The detector cannot be loaded, or has no first look.
    """
    count = len(ontology.classes)
    exact = config.merged({"prefilter": count, "mask": "none"})
    try:
        detector = load_detector(exact.detector, ontology, **detector_options(exact))
    except (ValueError, OSError) as error:
        raise UserError(str(error)) from error
    recorder = RankRecorder(cast(RankingDetector, detector), exact.filters)
    annotator = assemble(exact, ontology, recorder, BoxesOnly())
    annotator(refs, str(root))
    annotator.close()
    return choose_classes(recorder.ranks, asked, len(refs), count)


def make_parts(config: AnnotateConfig, ontology: Ontology | str | Path) -> tuple[Ontology, dict[str, Any]]:
    """Return the ontology, read where it is not yet, and what makes the rows.

    Raises:
        UserError: A model, a class or a file is wrong or missing.
    """
    try:
        resolve(config.detector, "detector")
        masks = "" if config.mask == "none" else model_fingerprint(str(resolve(config.segmenter, "segmenter")))
        classes = ontology if isinstance(ontology, Ontology) else Ontology.parse(os.fspath(ontology))
        return classes, fingerprint_parts(config, classes, model_fingerprint(config.detector), masks)
    except (ValueError, OSError) as error:
        raise UserError(str(error)) from error


def _compute(job: Job, writer: RunWriter, listing: Listing, progress: "Progress", stopping: Callable[[], bool]) -> None:
    """Label what is listed on workers, while the listing goes on."""
    from pipeline.engine.actors import Engine
    from pipeline.engine.cluster import Place, parse_resources

    config = job.config
    build = partial(build_annotator, config, job.ontology)
    task = Task(str(job.source.root), job.output, writer.fingerprint, config.image_timeout)
    place = Place(config.address or "", config.gpus_per_worker, parse_resources(config.resources or ""))
    use_gpu = config.device != "cpu"
    with progress, Engine(build, config.workers, config.threads, use_gpu, place) as engine:
        root = str(job.source.root)
        engine.check_folders(job.output, "" if root_to_address(root) else root)
        # In a small run, smaller batches, so that all workers have some. Neither what is done nor the number of workers
        # may count: images that share a batch share the last bits of their scores.
        large = _LARGE_BATCHES * config.shard_size
        is_large = listing.wait_listed(large, stopping) >= large
        size = config.shard_size if is_large else min(config.shard_size, config.images_at_once)
        engine.run(listing.batches(size, writer), task, writer, progress, stopping)
