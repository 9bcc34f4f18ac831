"""`groundlabel status`: how far a run is, from any terminal that sees its folder."""

import argparse
import json
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.store.status import RunStatus, WorkerStatus

HELP = "Show how far a run is: done, failed by reason, images/s, time left, use of GPUs, last error."
EXAMPLE = """
groundlabel status run/
groundlabel status run/ --watch
groundlabel status run/ --json
"""
_WATCH_SECONDS = 2.0
_REASONS = 8


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    parser.add_argument("run", metavar="RUN", help="the folder of a run")
    parser.add_argument("--watch", action="store_true", help="show it every two seconds until the call ends")
    parser.add_argument("--json", action="store_true", help="print one JSON object; with --watch one a line")


def run(arguments: argparse.Namespace) -> int:
    """Show the status; returns 0."""
    folder = Path(arguments.run)
    while True:
        state = _read(folder)
        print(json.dumps(_as_dict(state)) if arguments.json else _describe(state), flush=True)
        if not arguments.watch or not state.at_work:
            return 0
        time.sleep(_WATCH_SECONDS)


def _read(folder: Path) -> "RunStatus":
    from pipeline.store.run import RUN_FILE, Run
    from pipeline.store.status import RunStatus, read_status

    run = Run.open(folder)
    status = read_status(folder)
    if status is None:  # merged, or made by a version that did not write it
        count, changed = run.counts(), (folder / RUN_FILE).stat().st_mtime
        return RunStatus(
            "no call at work", "", 0, changed, changed, count.total, True, count.total, failed=count.failed
        )
    return status


def _as_dict(status: "RunStatus") -> dict[str, Any]:
    return asdict(status) | {"at_work": status.at_work}


def _describe_gpu(worker: "WorkerStatus") -> str:
    """Return how busy a worker's GPU is, empty where it has none."""
    if worker.gpu_used_bytes is None or worker.gpu_memory_bytes is None:
        return ""
    busy = "" if worker.gpu_percent is None else f"{worker.gpu_percent} % busy, "
    return f"; GPU {busy}{worker.gpu_used_bytes / 1e9:.1f} of {worker.gpu_memory_bytes / 1e9:.1f} GB used"


def _describe(status: "RunStatus") -> str:
    from pipeline.engine.progress import format_duration
    from pipeline.store.status import AT_WORK

    state = status.state
    if state in AT_WORK and not status.at_work:
        state = "not at work: its process is gone; run the same command again to go on"
    listed = f"{status.listed} images listed" + ("" if status.listing_done else " so far")
    taken = format_duration(status.updated - status.started)
    lines = [
        f"{state} (process {status.pid} on {status.host}, {taken})" if status.pid else state,
        f"{listed}: {status.present} were there before, {status.todo} to do, {status.done} of them done, "
        f"{status.failed} failed",
        f"{status.rate:.2f} images/s now, {status.rate_overall:.2f} overall"
        + (f", {format_duration(status.seconds_left)} left" if status.seconds_left is not None else ""),
    ]
    for worker in status.workers:
        doing = f"{worker.images} images in hand" if worker.images else "loading" if not worker.pid else "waiting"
        lines.append(
            f"  worker {worker.pid or '…'}: {doing} for {format_duration(worker.seconds)}{_describe_gpu(worker)}"
        )
    for reason, count in list(status.reasons.items())[:_REASONS]:
        lines.append(f"  failed {count} ×: {reason}")
    if status.deaths:
        lines.append(f"{status.deaths} worker(s) died and were replaced")
    if status.last_error:
        lines.append(f"last error: {status.last_error}")
    return "\n".join(lines)
