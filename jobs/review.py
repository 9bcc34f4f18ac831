"""`groundlabel review`: a run's labels in the FiftyOne App."""

import argparse
import signal
import sys
import time
from types import FrameType
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from pipeline.review.ingest import IngestResult

HELP = "Look through a run's labels in the FiftyOne App."
EXAMPLE = """
groundlabel review run/
groundlabel review run/ --no-app
groundlabel review run/ --port 5160
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    parser.add_argument("run", metavar="RUN", help="the folder of a run")
    parser.add_argument("--no-app", action="store_true", help="only bring the labels into FiftyOne's dataset")
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
    from pipeline.review.ingest import ingest
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
    _end_on_signals()
    print("Starting FiftyOne and its database …", file=sys.stderr, flush=True)
    with connected_fiftyone():
        if listener is None:
            _print_result(ingest(opened, _Progress(total)))
            return 0
        with AppServer(listener) as server:
            result = ingest(opened, _Progress(total))
            _print_result(result)
            server.wait_until_ready()
            print(f"FiftyOne App: {server.url(result.slug)}  (Ctrl-C ends it)")
            print(
                f"from another machine: ssh -N -L {server.port}:127.0.0.1:{server.port} USER@THIS-MACHINE", flush=True
            )
            try:
                server.wait()
            except KeyboardInterrupt:
                print("\nThe App is closed; the dataset is kept.", file=sys.stderr)
    return 0


def _end_on_signals() -> None:
    """Have Ctrl-C, `kill` and a closed terminal end the command, also where a script started it in the background."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, _end)
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # nohup asks for that
        signal.signal(signal.SIGHUP, _end)


def _end(number: int, frame: FrameType | None) -> NoReturn:
    """Leave through all `with` blocks, which stop what they started."""
    raise SystemExit(128 + number)


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
    unchanged = result.images - result.added - result.updated - result.kept
    print(
        f"dataset {result.dataset}: {result.images} images, {result.instances} objects, {result.failed} failed "
        f"({result.added} new, {result.updated} updated, {unchanged} unchanged)"
    )
    if result.kept:
        print(f"{result.kept} images have new labels in the run, but were edited or tagged 'reviewed': left alone")
    if result.gone:
        print(f"{result.gone} images are in the dataset but not in the run: tagged 'not_in_run', not deleted")
