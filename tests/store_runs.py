"""Runs with real rows, made in this process by the stub models."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from pipeline.config import AnnotateConfig
from pipeline.engine.worker import Task, Worker
from pipeline.listing import Listing
from pipeline.records import records_to_table
from pipeline.sources import open_images
from pipeline.store.fingerprint import fingerprint_parts
from pipeline.store.run import Run
from pipeline.store.writer import RunWriter
from tests.stub_models import ONTOLOGY, build_stub, save_image

CONFIG = AnnotateConfig()
PARTS = fingerprint_parts(CONFIG, ONTOLOGY, "d" * 64, "s" * 64)


def save_images(folder: Path, count: int, bad: Sequence[int] = ()) -> Path:
    """Write small images with objects; those of the bad numbers are no images."""
    for row in range(count):
        save_image(folder / f"{row:03}.png", green=row % 3 == 0, hw=(12 + row % 2, 16))
    for row in bad:
        (folder / f"{row:03}.png").write_text("no image")
    return folder


def open_writer(images: Path, output: Path, config: AnnotateConfig = CONFIG) -> RunWriter:
    """Open a run of the stub models for writing."""
    return RunWriter(output, PARTS, ONTOLOGY, images, config)


def label_batches(images: Path, output: Path, writer: RunWriter, listing: Listing, size: int) -> Iterator[None]:
    """Label what is listed; yields after each shard."""
    worker = Worker(build_stub, 1)
    worker.prepare()
    task = Task(str(images), output, writer.fingerprint)
    for batch in listing.batches(size, writer):
        if batch is not None and (entry := worker.annotate(batch.refs, task)) is not None:
            writer.add(entry)
            yield


def label(
    images: Path,
    output: Path,
    size: int = 4,
    config: AnnotateConfig = CONFIG,
    look: Callable[[Listing], None] = lambda listing: None,
) -> Run:
    """Label what the run does not have, as `annotate` does but without Ray."""
    with (
        open_writer(images, output, config) as writer,
        Listing(open_images(images), writer.index, output, config, spool_folder=output) as listing,
    ):
        for _ in label_batches(images, output, writer, listing, size):
            pass
        look(listing)
        writer.finish(1.0, writer.added)
    return Run.open(output)


def rows(run: Run) -> list[str]:
    """All label rows of a run as text, whatever shards they are in."""
    return [repr(row) for row in records_to_table(list(run.records()), run.fingerprint).to_pylist()]
