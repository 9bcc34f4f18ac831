"""`groundlabel compact`: many small shards into few."""

import argparse

from pipeline.errors import UserError

HELP = "Join the small shards of a run into few large ones."
EXAMPLE = """
groundlabel compact run/
groundlabel compact run/ --rows 10000
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    parser.add_argument("run", metavar="RUN", help="the folder of a run")
    parser.add_argument("--rows", type=int, default=2000, metavar="N", help="most rows of a shard (default: 2000)")


def run(arguments: argparse.Namespace) -> int:
    """Join shards; returns 0."""
    from pipeline.store.writer import RunWriter

    if arguments.rows < 2:
        raise UserError(f"--rows {arguments.rows}: must be at least 2")
    with RunWriter.reopen(arguments.run) as writer:
        before, after = writer.compact(arguments.rows)
        writer.record("compacted", before=before, after=after)
    print(f"{arguments.run}: {before} shards are {after} now")
    return 0
