"""`groundlabel sync`: what people changed, from FiftyOne's database or a file, into the run's own folder."""

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

HELP = "Write people's corrections into the run's folder, from FiftyOne or from a file that was edited elsewhere."
EXAMPLE = """
groundlabel sync run/
groundlabel sync run/ --from edited.json
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    parser.add_argument("run", metavar="RUN", help="the folder of a run")
    parser.add_argument(
        "--from",
        dest="file",
        metavar="FILE",
        help="a COCO, CVAT or Label Studio file that a person edited, in place of FiftyOne's dataset; images that it "
        "does not name stay",
    )


def run(arguments: argparse.Namespace) -> int:
    """Sync and print what was found; returns 0."""
    from pipeline.reviewed.layer import ReviewedLayer
    from pipeline.store.run import Run

    opened = Run.open(arguments.run)
    if arguments.file is None:
        from pipeline.review.connection import connected_fiftyone
        from pipeline.review.ingest import Syncing

        with connected_fiftyone():
            sync = Syncing(opened)
            images, changes = sync(everything=True), sync.changes
    else:
        from pipeline.reviewed.from_file import sync_file

        layer = ReviewedLayer(opened.folder)
        found = sync_file(opened, arguments.file, layer)
        images, changes = found.edited, layer.counts
        print(f"{arguments.file}: {found.images} images of the run, {found.edited} of them changed")
        if found.unknown:
            print(f"{len(found.unknown)} images are not in the run: {', '.join(found.unknown[:3])} …")
    _print_state(opened.folder, images, changes)
    return 0


def _print_state(folder: "Path", images: int, changes: "Mapping[str, int]") -> None:
    from pipeline.reviewed.changes import describe_counts
    from pipeline.reviewed.layer import ReviewedLayer
    from pipeline.store.run import REVIEWED_FOLDER

    states = ReviewedLayer(folder).images.values()
    accepted = sum(state.is_accepted for state in states)
    print(f"{images} images with new corrections: {describe_counts(changes) or 'nothing new'}")
    print(
        f"{folder / REVIEWED_FOLDER}: {len(states)} reviewed images, {accepted} accepted, "
        f"{sum(state.deleted for state in states)} deleted"
    )
