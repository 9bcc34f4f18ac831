"""`groundlabel bench bookkeeping`: memory and speed of all that the driver does, for millions of images.

Listing, comparing with the run, scheduling and the manifest are the real ones. The annotator does nothing: it leaves an
empty file where a worker would have left a shard.
"""

import argparse
import os
import resource
import tempfile
import time
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pipeline.engine.report import Reporter
    from pipeline.listing import Listing
    from pipeline.sources import ImageRef
    from pipeline.store.manifest import ShardEntry
    from pipeline.store.writer import RunWriter

HELP = "Measure the driver's memory and speed for millions of images, with an annotator that does nothing."
EXAMPLE = """
groundlabel bench bookkeeping --images 1000000
groundlabel bench bookkeeping --images 10000000 --folder /scratch
"""
_MILESTONES = (1_000_000, 3_000_000, 10_000_000)
_WORKERS = 8


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this bench."""
    parser.add_argument("--images", type=int, default=1_000_000, metavar="N", help="how many (default: 1000000)")
    parser.add_argument("--shard-size", type=int, default=16, metavar="N", help="images in a shard (default: 16)")
    parser.add_argument("--folder", metavar="FOLDER", help="where to work (default: the system's temporary folder)")


def run(arguments: argparse.Namespace) -> int:
    """Print memory and time of a first run and of the same call once more; returns 0."""
    if arguments.images < 1 or arguments.shard_size < 1:
        raise UserError("--images and --shard-size must be at least 1")
    context = get_context("spawn")
    with tempfile.TemporaryDirectory(prefix="groundlabel-bench-", dir=arguments.folder) as folder:
        _write_list(Path(folder) / "images.txt", arguments.images)
        for title in ("first run", "the same call once more"):
            process = context.Process(target=_call, args=(folder, arguments.images, arguments.shard_size, title))
            process.start()
            process.join()
            if process.exitcode:
                raise UserError(f"the {title} ended with status {process.exitcode}; is there enough memory and disk?")
    return 0


def _write_list(path: Path, images: int) -> None:
    with path.open("w", encoding="ascii") as stream:
        for number in range(images):
            stream.write(f"camera{number % 97:02d}/2024-05-{number // 100_000:03d}/frame_{number:08d}.jpg\n")


def _memory() -> str:
    with open("/proc/self/statm", encoding="ascii") as stream:
        pages = int(stream.read().split()[1])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return f"{pages * os.sysconf('SC_PAGE_SIZE') / 1e6:.0f} MB now, {peak / 1e6:.0f} MB at most"


def _call(folder: str, images: int, shard_size: int, title: str) -> None:
    """Do what one call of annotate does in its driver, and print what it took; runs in a process of its own."""
    from models.ontology import Ontology
    from pipeline.config import AnnotateConfig
    from pipeline.engine.report import Reporter
    from pipeline.listing import Listing
    from pipeline.sources import open_images
    from pipeline.store.fingerprint import fingerprint_parts
    from pipeline.store.status import DONE
    from pipeline.store.writer import RunWriter

    base, config, ontology = _memory(), AnnotateConfig(), Ontology.from_names("car, person")
    output, start, cpu = Path(folder) / "run", time.monotonic(), time.process_time()
    source = open_images(Path(folder) / "images.txt")
    parts = fingerprint_parts(config, ontology, "", "")
    print(f"{title}: {base} before", flush=True)
    with RunWriter(output, parts, ontology, source.root, config) as writer:
        print(f"  run opened after {time.monotonic() - start:.1f} s", flush=True)
        with Listing(source, writer.index, output, config, spool_folder=output) as listing:
            reporter = Reporter(writer, listing, shown=False)
            if listing.wait(1):
                print(f"  first image given out after {time.monotonic() - start:.1f} s", flush=True)
                _feed(listing, writer, reporter, shard_size)
            done = writer.added
            writer.finish(time.monotonic() - start, writer.added)
            reporter.end(DONE)
            unchanged = listing.unchanged
    seconds, cpu = time.monotonic() - start, time.process_time() - cpu
    size = (output / "manifest.jsonl").stat().st_size / 1e6
    print(
        f"  {done} images added, {unchanged} unchanged, in {seconds:.1f} s ({images / seconds:.0f} rows/s; "
        f"{seconds / images * 1e6:.1f} s a million, {cpu / images * 1e6:.1f} s of it on the processor); "
        f"manifest {size:.0f} MB; {_memory()}",
        flush=True,
    )


def _feed(listing: "Listing", writer: "RunWriter", reporter: "Reporter", shard_size: int) -> None:
    """Give out all batches and add what would come back."""
    from pipeline.engine.schedule import Schedule

    schedule = Schedule(listing.batches(shard_size, writer))
    milestones = list(_MILESTONES)
    for worker in range(_WORKERS):
        schedule.add_worker(worker)
    while not schedule.finished:
        idle = True
        for worker in range(_WORKERS):
            batch = schedule.take(worker)
            if batch is None:
                continue
            idle = False
            entry = _no_label(batch.refs, writer.output)
            writer.add(entry)
            schedule.finish(worker, batch)
            reporter.progress.give(entry.rows)
            reporter.progress.advance(entry.rows)
        writer.tick()
        if milestones and writer.added >= milestones[0]:
            print(f"  at {milestones.pop(0)} images: {_memory()}", flush=True)
        if idle:
            time.sleep(0.01)


def _no_label(refs: "Sequence[ImageRef]", output: Path) -> "ShardEntry":
    """Return what a worker would for a batch, of the size of a real one; leaves an empty file."""
    from pipeline.file_state import ABSENT_STAMP
    from pipeline.store.manifest import ShardEntry
    from pipeline.store.run import SHARDS_FOLDER, TIMINGS_FOLDER
    from pipeline.store.shards import shard_name

    name = shard_name(ref.image_id for ref in refs)
    for folder in (SHARDS_FOLDER, TIMINGS_FOLDER):
        os.close(os.open(output / folder / name, os.O_WRONLY | os.O_CREAT, 0o644))
    return ShardEntry(
        shard=name,
        sha256="0" * 64,
        size_bytes=0,
        rows=len(refs),
        first_path=refs[0].path,
        ok="".join(ref.image_id for ref in refs),
        failed="",
        stamps=f"{ABSENT_STAMP:016x}" * len(refs),
        instances=5,
        per_class={"car": 3, "person": 2},
        drops={"overlap: car": 1},
        seconds={"decode": 0.1, "detect": 0.1, "segment": 0.1, "encode": 0.1},
        slowest=0.0,
        failures=(),
    )
