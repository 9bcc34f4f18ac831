"""`groundlabel bench chaos`: runs that are killed again and again, against one that is not.

Small scenes are labelled by the bundled models: once in quiet, then with SIGKILL at random times for the driver, one
of its workers or Ray's own process, and the same command again, until it is done; then the next such run, until there
were as many kills as asked for. After each kill, every row that is there must equal the quiet run's.
"""

import argparse
import random
import sys
import tempfile
import time
from pathlib import Path

from pipeline.errors import UserError

HELP = "Kill runs at random times until they are done, and compare them with a quiet run."
EXAMPLE = """
groundlabel bench chaos --kills 5 --images 24
groundlabel bench chaos --kills 100 --images 400
"""
_CLASSES = "red circle, green square, blue triangle, yellow star"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this bench."""
    parser.add_argument("--kills", type=int, default=100, metavar="N", help="how often to kill (default: 100)")
    parser.add_argument("--images", type=int, default=400, metavar="N", help="images of a run (default: 400)")
    parser.add_argument("--size", type=int, default=128, metavar="PIXELS", help="side of an image (default: 128)")
    parser.add_argument("--workers", type=int, default=1, metavar="N", help="workers of a run (default: 1)")
    parser.add_argument("--seed", type=int, default=0, help="of who is killed when (default: 0)")


def run(arguments: argparse.Namespace) -> int:
    """Print each kill and the sums; 0 when nothing was lost, double or different, else 1."""
    if min(arguments.kills, arguments.images, arguments.workers) < 1:
        raise UserError("--kills, --images and --workers must be at least 1")
    from jobs.bench.engine import make_scenes
    from jobs.bench.killing import Chaos, run_quietly

    with tempfile.TemporaryDirectory(prefix="groundlabel-chaos-") as name:
        folder = Path(name)
        images = make_scenes(folder / "images", arguments.images, arguments.size)
        command = [sys.executable, "-m", "jobs", "annotate", str(images), "--classes", _CLASSES, "--device", "cpu"]
        command += ["--threads", "1", "--workers", str(arguments.workers), "--shard-size", "4", "--batch-size", "4"]
        start = time.monotonic()
        quiet, shards = run_quietly(command, folder / "quiet")
        print(f"quiet run: {len(quiet)} images in {time.monotonic() - start:.0f} s", flush=True)
        chaos = Chaos(command, folder, quiet, shards, random.Random(arguments.seed))
        chaos.go(arguments.kills)
    print(
        f"{chaos.identical} of {arguments.kills} identical to the quiet run, {chaos.lost} lost, {chaos.double} double, "
        f"recomputed {chaos.recomputed / chaos.computed * 100:.1f} % ({chaos.runs} runs of {arguments.images} images)"
    )
    return 0 if chaos.identical == arguments.kills and not (chaos.lost or chaos.double or chaos.broken) else 1
