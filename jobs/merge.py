"""`groundlabel merge`: runs of parts of the images into one."""

import argparse

HELP = "Put runs of parts of the images together into one run."
EXAMPLE = """
groundlabel merge part1/ part2/ --output run/
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    parser.add_argument("runs", nargs="+", metavar="RUN", help="folders of runs made with the same settings")
    parser.add_argument("--output", required=True, metavar="FOLDER", help="the run to make, or to go on with")


def run(arguments: argparse.Namespace) -> int:
    """Merge; returns 0."""
    from pipeline.store.merge import merge_runs

    merged = merge_runs(arguments.runs, arguments.output)
    counts = merged.outcome.counts
    twice = f"; {merged.twice} were in more than one of them" if merged.twice else ""
    print(f"{arguments.output}: {merged.added} images brought in, {counts.total} in all, {counts.failed} failed{twice}")
    if merged.corrected:
        print(f"corrections by people came along for {merged.corrected} images")
    return 0
