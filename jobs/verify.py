"""`groundlabel verify`: whether a run keeps its promises."""

import argparse
import sys

HELP = "Check a run: every checksum, every id once, every mask inside its image."
EXAMPLE = """
groundlabel verify run/
groundlabel verify run/ --repair
"""
STATUS_BROKEN = 1
_SHOWN = 20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    parser.add_argument("run", metavar="RUN", help="the folder of a run")
    parser.add_argument(
        "--repair", action="store_true", help="take out what is broken, so that the next annotate computes it again"
    )


def run(arguments: argparse.Namespace) -> int:
    """Check the run; 0 it holds, or was repaired, 1 it does not."""
    from pipeline.store.verify import verify_run

    found = verify_run(arguments.run, arguments.repair)
    for note in found.notes:
        print(f"note: {note}")
    for problem in found.problems[:_SHOWN]:
        print(f"{problem.shard}: {problem.what}" if problem.shard else problem.what, file=sys.stderr)
    if len(found.problems) > _SHOWN:
        print(f"… and {len(found.problems) - _SHOWN} more", file=sys.stderr)
    print(f"{found.images} images in {found.shards} shards, {found.masks} masks: {len(found.problems)} problem(s)")
    if found.problems and arguments.repair:
        print(f"{found.repaired} shard(s) taken out; annotate again to compute their images anew")
        return 0
    if found.problems:
        print(f"`groundlabel verify {arguments.run} --repair` takes out what is broken", file=sys.stderr)
        return STATUS_BROKEN
    return 0
