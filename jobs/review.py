"""`groundlabel review`: a run's labels in the FiftyOne App."""

import argparse
import sys
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING

from jobs.serving import end_on_signals, print_address
from pipeline.review.orders import DEFAULT_ORDER, ORDERS

if TYPE_CHECKING:
    from pipeline.review.app import AppServer
    from pipeline.review.ingest import IngestResult, Syncing

HELP = "Look through a run's labels in the FiftyOne App, and correct them."
EXAMPLE = """
groundlabel review run/
groundlabel review run/ --no-app
groundlabel review run/ --order uncertain
groundlabel review run/ --port 5160
"""


_SYNC_SECONDS = 60


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    parser.add_argument("run", metavar="RUN", help="the folder of a run")
    parser.add_argument("--no-app", action="store_true", help="only bring the labels into FiftyOne's dataset")
    parser.add_argument(
        "--order",
        choices=ORDERS,
        default=DEFAULT_ORDER,
        help="queue with which the App opens: gain (where a click mends most), doubt, uncertain, conflicts, shapes, "
        f"missed, different, proposals, or path for all images (default: {DEFAULT_ORDER})",
    )
    parser.add_argument(
        "--look",
        type=int,
        default=2000,
        metavar="N",
        help="look at N images to find labels that do not fit what is there, some 20 ms each (default: 2000)",
    )
    parser.add_argument("--port", type=int, help="port of the App (default: 5151, or a free one where it is taken)")
    parser.add_argument(
        "--address",
        default="127.0.0.1",
        help="where the App listens (default: 127.0.0.1, this machine only); the App has no password",
    )


def run(arguments: argparse.Namespace) -> int:
    """Bring the run into its dataset and serve the App until Ctrl-C; returns 0."""
    from pipeline.errors import UserError
    from pipeline.review.app import AppServer, is_loopback, open_listener
    from pipeline.review.connection import connected_fiftyone
    from pipeline.review.ingest import Syncing, ingest
    from pipeline.review.views import opening_view
    from pipeline.store.run import Run

    opened = Run.open(arguments.run)
    total = opened.counts().total
    if not total:
        raise UserError(f"{arguments.run}: the run has no images yet; `groundlabel annotate` adds them")
    listener = None if arguments.no_app else open_listener(arguments.port, arguments.address)
    if not arguments.no_app and not is_loopback(arguments.address):
        print(
            f"warning: --address {arguments.address} lets other machines open the App, which has no password and can "
            "read any file that you can; safer is the tunnel shown below with the default address",
            file=sys.stderr,
        )
    if arguments.look < 0:
        raise UserError(f"--look {arguments.look}: must be 0 or more")
    end_on_signals()
    print("Starting FiftyOne and its database …", file=sys.stderr, flush=True)
    with connected_fiftyone() as fo:
        if listener is None:
            _print_result(ingest(opened, _Progress(total), arguments.look))
            return 0
        with AppServer(listener) as server:
            result = ingest(opened, _Progress(total), arguments.look)
            _print_result(result)
            server.wait_until_ready()
            view = opening_view(fo.load_dataset(result.dataset), arguments.order)
            if ORDERS[arguments.order] and not view:
                print(f"{ORDERS[arguments.order]} has nothing in it: the App opens with all images")
            print_address(server.url(result.slug, view), server.port)
            _sync_until_closed(server, Syncing(opened))
    return 0


def _sync_until_closed(server: "AppServer", sync: "Syncing") -> None:
    """Write corrections into the run's reviewed layer while the App is open and once more when it is closed.

    Raises:
        UserError: The App's server or the database ended by itself; the corrections up to the last sync are kept.
        SystemExit: A signal other than Ctrl-C asked us to end.
    """
    try:
        while True:
            server.wait(_SYNC_SECONDS)
            sync()
    except KeyboardInterrupt:
        print("\nThe App is closed; the dataset is kept.", file=sys.stderr)
    finally:
        if sync.can_reach_database():
            sync(everything=True)
            _print_changes(sync.changes)


class _Progress:
    """Prints how many rows are done: in place on a terminal, else a line every 30 s."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._last = time.monotonic()

    def __call__(self, done: int) -> None:
        terminal, now = sys.stderr.isatty(), time.monotonic()
        if now - self._last < (0.2 if terminal else 30) and done < self._total:
            return
        self._last = now
        text = f"{done} of {self._total} images"
        if terminal:
            print(f"\r{text}", end="\n" if done >= self._total else "", file=sys.stderr, flush=True)
        elif done < self._total:
            print(text, file=sys.stderr, flush=True)


def _print_result(result: "IngestResult") -> None:
    unchanged = result.images - result.added - result.updated - result.kept - result.deleted
    print(
        f"dataset {result.dataset}: {result.images} images, {result.instances} objects, {result.failed} failed "
        f"({result.added} new, {result.updated} updated, {unchanged} unchanged)"
    )
    _print_changes(result.changes)
    if result.kept:
        print(f"{result.kept} reviewed images have new labels in the run: the reviewed ones were left alone")
    if result.proposals:
        print(f"{result.proposals} objects of the run are proposed in reviewed images (saved view 'Proposals')")
    if result.deleted:
        print(f"{result.deleted} images of the run were deleted in the review, and stay so")
    if result.gone:
        print(f"{result.gone} images are in the dataset but not in the run: tagged 'not_in_run', not deleted")


def _print_changes(changes: Mapping[str, int]) -> None:
    from pipeline.reviewed.changes import describe_counts

    if text := describe_counts(changes):
        print(f"corrections written to the run: {text}")
