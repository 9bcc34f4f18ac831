"""One batch from paths to records: decode → detect → filter → segment → encode. What a worker holds.

Decoding runs in threads ahead of the models. The models run in one thread of their own, so that two batches may be
given at once: while one is in the models, the next decodes and the last is encoded and written.
"""

import os
import socket
import threading
import time
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

from models.detections import Detections, Instances
from models.interfaces import Detector, Image, Segmenter
from models.ontology import Ontology
from pipeline.config import FilterSettings
from pipeline.errors import UserError
from pipeline.filters import filter_detections
from pipeline.images import DEFAULT_PIXEL_LIMIT, UnreadableImageError, describe_error, prepare_decoding, read_image
from pipeline.records import AnnotatedImage, FailedImage, ImageTiming, Record
from pipeline.sources import ImageRef

STAGES = ("decode", "detect", "segment", "encode")

HELD_BYTES = 512 * 1024**2
"""Decoded images that may wait for others of their resized size before a smaller batch goes to the detector."""


class ModelsFailedError(UserError):
    """The models failed on every readable image of a batch: the fault is not in the images."""


@dataclass
class Annotated:
    """What became of a batch.

    Attributes:
        records: One an image that was reached, in the order given; all of them unless `stop` was called.
        timings: One a record.
        drops: Boxes that the filters took away, by reason.
    """

    records: list[Record] = field(default_factory=list)
    timings: list[ImageTiming] = field(default_factory=list)
    drops: Counter[str] = field(default_factory=Counter)


@dataclass
class _Job:
    """One image on its way; `failure` and `instances` are both None until it was reached."""

    ref: ImageRef
    instances: Instances | None = None
    failure: str | None = None
    model_failed: bool = False
    drops: Counter[str] = field(default_factory=Counter)
    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(STAGES, 0.0))


class Annotator:
    """Labels batches of images with one detector and one segmenter.

    Args:
        detector: Made for `ontology`.
        segmenter: Any.
        ontology: Classes and prompts.
        filters: Which boxes stay.
        batch_size: Most images in one call of the detector.
        pixel_limit: Most pixels of an image.
        decode_threads: Threads that read images; twice as many images are decoded ahead.
    """

    def __init__(
        self,
        detector: Detector,
        segmenter: Segmenter,
        ontology: Ontology,
        filters: FilterSettings | None = None,
        batch_size: int = 8,
        pixel_limit: int = DEFAULT_PIXEL_LIMIT,
        decode_threads: int = 2,
    ) -> None:
        self.ontology = ontology
        self._detector = detector
        self._segmenter = segmenter
        self._filters = filters or FilterSettings()
        self._batch_size = batch_size
        self._pixel_limit = pixel_limit
        self._ahead = 2 * decode_threads
        self._decoders = ThreadPoolExecutor(decode_threads, thread_name_prefix="decode")
        self._models = ThreadPoolExecutor(1, thread_name_prefix="models")
        self._stopping = threading.Event()
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
        decoded = self._decode_ahead(jobs, root)
        self._models.submit(self._run_models, decoded).result()
        readable = [job for job in jobs if job.instances is not None or job.model_failed]
        if len(readable) > 1 and all(job.model_failed for job in readable):
            raise ModelsFailedError(f"the models failed on each of {len(readable)} images: {readable[0].failure}")
        return self._encode([job for job in jobs if job.instances is not None or job.failure is not None])

    def close(self) -> None:
        """Wait for the threads and end them."""
        self._decoders.shutdown(cancel_futures=True)
        self._models.shutdown(cancel_futures=True)

    def _decode_ahead(self, jobs: list[_Job], root: str) -> Iterator[tuple[_Job, Image | None]]:
        """Start decoding the first images now; return an iterator that starts one more for each that it gives."""
        waiting: deque[tuple[_Job, Future[Image | None]]] = deque()
        remaining = iter(jobs)

        def start(count: int) -> None:
            for _, job in zip(range(count), remaining, strict=False):
                waiting.append((job, self._decoders.submit(self._decode, job, root)))

        def give() -> Iterator[tuple[_Job, Image | None]]:
            while waiting:
                job, future = waiting.popleft()
                image = future.result()
                start(1)
                yield job, image

        start(self._ahead)
        return give()

    def _decode(self, job: _Job, root: str) -> Image | None:
        start = time.perf_counter()
        image = None
        try:
            image = read_image(job.ref.locate(root), self._pixel_limit)
        except UnreadableImageError as error:
            job.failure = str(error)
        job.seconds["decode"] = time.perf_counter() - start
        return image

    def _run_models(self, decoded: Iterator[tuple[_Job, Image | None]]) -> None:
        """Group images by resized size and label each group when it is full, or too many bytes wait."""
        groups: dict[tuple[int, int], list[tuple[_Job, Image]]] = {}
        held = 0
        for job, image in decoded:
            if self._stopping.is_set():
                return
            if image is None:
                continue
            try:
                shape = self._detector.resized_hw((image.shape[0], image.shape[1]))
            except Exception as error:  # a model may raise anything; it becomes the reason of a row
                self._fail(job, "detector", error)
                continue
            groups.setdefault(shape, []).append((job, image))
            held += image.nbytes
            if len(groups[shape]) >= self._batch_size:
                held -= self._label(groups.pop(shape))
            while held > HELD_BYTES:
                held -= self._label(groups.pop(max(groups, key=lambda key: len(groups[key]))))
        for group in groups.values():
            if not self._stopping.is_set():
                self._label(group)

    def _label(self, group: list[tuple[_Job, Image]]) -> int:
        """Detect and segment images of one resized size; returns the bytes that they held."""
        for (job, image), found in zip(group, self._detect(group), strict=True):
            if found is not None:
                self._segment(job, image, found)
        return sum(image.nbytes for _, image in group)

    def _detect(self, group: list[tuple[_Job, Image]]) -> list[Detections | None]:
        """Detect in a group; when that fails, in each image alone, so that one image fails no other."""
        start = time.perf_counter()
        found: list[Detections | None]
        try:
            found = [*self._detector([image for _, image in group])]
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
        try:
            kept, job.drops = filter_detections(found, self._filters)
            job.instances = self._segmenter(image, kept)
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
            done.drops.update(job.drops)
            seconds = {f"seconds_{stage}": job.seconds[stage] for stage in STAGES}
            done.timings.append(ImageTiming(image_id, **seconds, host=host, worker=worker))
        return done
