"""One batch from paths to records: decode → detect → filter → segment → encode. What a worker holds.

Decoding runs in threads ahead of the models. The models run in one thread of their own, so that two batches may be
given at once: while one is in the models, the next decodes and the last is encoded and written.
"""

import os
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import BinaryIO

from models.batch_sizes import FIRST, Batches
from models.boxes import FloatArray
from models.detections import Detections, Instances
from models.interfaces import Detector, Image, Segmenter
from models.ontology import Ontology
from pipeline.addresses import is_address
from pipeline.config import FilterSettings, TileSettings
from pipeline.decoding import DecodeAhead, Room
from pipeline.drops import name_drops
from pipeline.errors import UserError
from pipeline.fetching import Fetcher, FetchSettings
from pipeline.file_state import FileState, read_state
from pipeline.filters import DropCounts
from pipeline.images import (
    DEFAULT_PIXEL_LIMIT,
    UnreadableImageError,
    describe_error,
    measure_image,
    prepare_decoding,
    read_image,
)
from pipeline.mask_cleanup import MaskCleanup
from pipeline.records import AnnotatedImage, FailedImage, ImageTiming, Record
from pipeline.sources import ImageRef
from pipeline.stages import Stages, count_merged
from pipeline.tiles import Window

STAGES = ("decode", "detect", "segment", "encode")

HELD_BYTES = 512 * 1024**2
"""Decoded images that may wait for others of their resized size before a smaller batch goes to the detector."""
DECODED_BYTES = 256 * 1024**2
"""Images of a batch that are decoded ahead of the models; one may be larger."""
FETCH_THREADS = 8
"""Images that are fetched at once, where they are not on this machine."""
ALONE_BYTES = 96 * 1024**2
"""An image of more bytes is decoded and labelled alone: it waits for no others of its resized size."""


class ModelsFailedError(UserError):
    """The models failed on every readable image of a batch: the fault is not in the images."""


@dataclass
class Annotated:
    """What became of a batch.

    Attributes:
        records: One an image that was reached, in the order given; all of them unless `stop` was called.
        timings: One a record.
        drops: Boxes that went, by "reason: class name" (`pipeline.drops`).
        waited: Seconds for which the models waited for decoded images.
    """

    records: list[Record] = field(default_factory=list)
    timings: list[ImageTiming] = field(default_factory=list)
    drops: Counter[str] = field(default_factory=Counter)
    waited: float = 0.0


@dataclass
class _Job:
    """One image on its way; `failure` and `instances` are both None until it was reached."""

    ref: ImageRef
    fetched: BinaryIO | None = None
    instances: Instances | None = None
    failure: str | None = None
    model_failed: bool = False
    file: FileState = field(default_factory=lambda: FileState(0, 0, ""))
    drops: DropCounts = field(default_factory=Counter)
    feature: FloatArray | None = None
    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(STAGES, 0.0))


class Annotator:
    """Labels batches of images with one detector and one segmenter.

    Args:
        detector: Made for `ontology`.
        segmenter: Any.
        ontology: Classes and prompts.
        filters: Which boxes and masks stay.
        batch_size: Most images or tiles in one call of the detector, or what decides it.
        pixel_limit: Most pixels of an image.
        decode_threads: Threads that read images; twice as many images are decoded ahead.
        tiles: How large images are cut; None for not at all.
        cleanup: Of masks; None for none.
        fetching: What may be fetched from elsewhere; None means the defaults.

    Attributes:
        watch: Called before each step in the models' thread with the number of images that the step is for.
        stages: The models and settings.
    """

    def __init__(
        self,
        detector: Detector,
        segmenter: Segmenter,
        ontology: Ontology,
        filters: FilterSettings | None = None,
        batch_size: Batches | int = FIRST,
        pixel_limit: int = DEFAULT_PIXEL_LIMIT,
        decode_threads: int = 2,
        tiles: TileSettings | None = None,
        cleanup: MaskCleanup | None = None,
        fetching: FetchSettings | None = None,
    ) -> None:
        self.ontology = ontology
        batches = Batches(batch_size) if isinstance(batch_size, int) else batch_size
        self.stages = Stages(detector, segmenter, filters or FilterSettings(), tiles, cleanup or MaskCleanup(), batches)
        self._pixel_limit = pixel_limit
        self._room = Room(2 * decode_threads, DECODED_BYTES, ALONE_BYTES)
        self._decoders = ThreadPoolExecutor(decode_threads, thread_name_prefix="decode")
        self._fetcher = Fetcher(fetching or FetchSettings())
        self._fetchers = ThreadPoolExecutor(FETCH_THREADS, thread_name_prefix="fetch")
        self._models = ThreadPoolExecutor(1, thread_name_prefix="models")
        self._stopping = threading.Event()
        self.watch: Callable[[int], None] = lambda images: None
        prepare_decoding(pixel_limit)

    def stop(self) -> None:
        """Let running and later calls return what they have; images not reached are left out."""
        self._stopping.set()

    def __call__(self, refs: Sequence[ImageRef], root: str) -> Annotated:
        """Label a batch.

        Args:
            refs: Images of the batch; may be empty. Sizes and shapes may differ.
            root: Folder that the paths start from.

        Returns:
            A record an image; one that could not be read, or that the models failed on, is a `FailedImage`.

        Raises:
            ModelsFailedError: The models failed on all of at least two readable images.
        """
        jobs = [_Job(ref) for ref in refs]
        measurers = self._fetchers if any(is_address(ref.locate(root)) for ref in refs) else None
        ways = (partial(self._measure, root), partial(self._decode, root))
        decoded = DecodeAhead(jobs, *ways, self._decoders, self._room, measurers)
        waited = self._models.submit(self._run_models, decoded).result()
        readable = [job for job in jobs if job.instances is not None or job.model_failed]
        if len(readable) > 1 and all(job.model_failed for job in readable):
            raise ModelsFailedError(f"the models failed on each of {len(readable)} images: {readable[0].failure}")
        done = self._encode([job for job in jobs if job.instances is not None or job.failure is not None])
        done.waited = waited
        return done

    def close(self) -> None:
        """Wait for the threads and end them."""
        self._fetchers.shutdown(cancel_futures=True)
        self._decoders.shutdown(cancel_futures=True)
        self._models.shutdown(cancel_futures=True)

    def _measure(self, root: str, job: _Job) -> int:
        """Return the bytes that an image will have; one that is elsewhere is fetched for that, and kept."""
        start = time.perf_counter()
        path = job.ref.locate(root)
        if is_address(path):
            try:
                job.fetched = self._fetcher.fetch(path)
            except UnreadableImageError as error:
                job.failure = str(error)
                return 0
            finally:
                job.seconds["decode"] += time.perf_counter() - start
            path = _path_of(job.fetched)
        return measure_image(path)

    def _decode(self, root: str, job: _Job) -> Image | None:
        if job.failure is not None:
            return None
        start = time.perf_counter()
        image = None
        path = job.ref.locate(root) if job.fetched is None else _path_of(job.fetched)
        # Before it is read: a file that changes meanwhile is then found changed by the next call.
        job.file = read_state(path)
        try:
            image = read_image(path, self._pixel_limit)
        except UnreadableImageError as error:
            job.failure = str(error)
        if job.fetched is not None:
            job.file = FileState(job.file.size, 0, job.file.content)  # the time is that of the copy
            job.fetched.close()
            job.fetched = None
        job.seconds["decode"] += time.perf_counter() - start
        return image

    def _run_models(self, decoded: DecodeAhead[_Job]) -> float:
        """Label what is decoded; returns the seconds for which there was nothing yet."""
        try:
            self._group(decoded)
            return decoded.waited
        finally:
            decoded.close()

    def _group(self, decoded: DecodeAhead[_Job]) -> None:
        """Group images by resized size and label each group when it is full, or too many bytes wait."""
        groups: dict[tuple[int, int], list[tuple[_Job, Image]]] = {}
        held = 0
        for job, image in decoded:
            if self._stopping.is_set():
                return
            self.watch(1)
            if image is None:
                continue
            try:
                windows = self.stages.windows((image.shape[0], image.shape[1]))
                shape = self.stages.resized_hw((image.shape[0], image.shape[1]))
            except Exception as error:  # a model may raise anything; it becomes the reason of a row
                self._fail(job, "detector", error)
                continue
            if windows or image.nbytes > ALONE_BYTES:
                self._label_alone(job, image, windows)
                del image  # before the next one is decoded
                continue
            groups.setdefault(shape, []).append((job, image))
            held += image.nbytes
            if len(groups[shape]) >= self.stages.at_once(shape, [waiting for _, waiting in groups[shape]]):
                held -= self._label(groups.pop(shape))
            while held > HELD_BYTES:
                held -= self._label(groups.pop(max(groups, key=lambda key: len(groups[key]))))
        for group in groups.values():
            if not self._stopping.is_set():
                self._label(group)

    def _label_alone(self, job: _Job, image: Image, windows: Sequence[Window]) -> None:
        if not windows:
            self._label([(job, image)])
            return
        start = time.perf_counter()
        try:
            merged = self.stages.detect_in_tiles(image, windows, self.watch)
        except Exception as error:  # a model may raise anything; it becomes the reason of a row
            self._fail(job, "detector", error)
            return
        job.seconds["detect"] = time.perf_counter() - start
        job.drops.update(count_merged(merged))
        self.watch(1)
        self._segment(job, image, merged.objects)

    def _label(self, group: list[tuple[_Job, Image]]) -> int:
        """Detect and segment images of one resized size; returns the bytes that they held."""
        self.watch(len(group))
        for (job, image), found in zip(group, self._detect(group), strict=True):
            if found is not None:
                self.watch(1)
                self._segment(job, image, found)
        return sum(image.nbytes for _, image in group)

    def _detect(self, group: list[tuple[_Job, Image]]) -> list[Detections | None]:
        """Detect in a group; when that fails, in each image alone, so that one image fails no other."""
        start = time.perf_counter()
        found: list[Detections | None]
        try:
            found = [*self.stages.detect([image for _, image in group])]
        except Exception as error:  # a model may raise anything; it becomes the reason of a row
            if len(group) > 1:
                return [self._detect([pair])[0] for pair in group]
            self._fail(group[0][0], "detector", error)
            found = [None]
        for job, _ in group:
            job.seconds["detect"] = (time.perf_counter() - start) / len(group)
        return found

    def _segment(self, job: _Job, image: Image, found: Detections) -> None:
        start = time.perf_counter()
        job.feature = found.image_feature
        try:
            segmented = self.stages.segment(image, found)
            job.instances = segmented.instances
            job.drops.update(segmented.drops)
        except Exception as error:  # a model may raise anything; it becomes the reason of a row
            self._fail(job, "segmenter", error)
        job.seconds["segment"] = time.perf_counter() - start

    @staticmethod
    def _fail(job: _Job, stage: str, error: Exception) -> None:
        job.failure = f"{stage}: {describe_error(error)}"
        job.model_failed = True
        job.drops.clear()

    def _encode(self, jobs: list[_Job]) -> Annotated:
        done = Annotated()
        host, worker = socket.gethostname(), str(os.getpid())
        for job in jobs:
            start = time.perf_counter()
            image_id, path = job.ref
            if job.instances is None:
                done.records.append(FailedImage(image_id, path, job.failure or "not reached"))
            else:
                record = AnnotatedImage.from_instances(image_id, path, job.instances, self.ontology)
                done.records.append(record)
            job.seconds["encode"] = time.perf_counter() - start
            done.drops.update(name_drops(job.drops, self.ontology))
            decode, detect, segment, encode = (job.seconds[stage] for stage in STAGES)
            file = (job.file.size, job.file.mtime_ns, job.file.content)
            times = (decode, detect, segment, encode)
            done.timings.append(ImageTiming(image_id, *times, host, worker, *file, job.feature))
        return done


def _path_of(file: BinaryIO) -> str:
    return f"/proc/self/fd/{file.fileno()}"
