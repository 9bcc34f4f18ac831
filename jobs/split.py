"""`groundlabel split`: train, val and test that share nothing, and the search for what sets share."""

import argparse

from jobs.split_options import DEFAULT_SHARES, add_split_arguments, print_split, split_settings

HELP = "Split labels into train, val and test, or find what sets share."
EXAMPLE = """
groundlabel split run/ --split 80/10/10 --seed 7 --output sets/
groundlabel split photos.json --group-by video --output sets/
groundlabel split --check sets/train.json sets/val.json sets/test.json --images photos/
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    parser.add_argument("sources", metavar="SOURCE", nargs="+", help="a run, a COCO JSON file or a COCO export")
    parser.add_argument(
        "--check", action="store_true", help="find what two or more SOURCEs share, instead of splitting one"
    )
    add_split_arguments(parser, DEFAULT_SHARES)
    parser.add_argument(
        "--images", metavar="FOLDER", help="images of a COCO JSON (default: its folder, or images/ or data/ there)"
    )
    parser.add_argument("--output", metavar="FOLDER", help="where train.json, val.json and test.json go")
    parser.add_argument("--overwrite", action="store_true", help="replace the files of an earlier split")


def run(arguments: argparse.Namespace) -> int:
    """Split, or look for leaks; returns 0, or 1 where there are leaks."""
    return _check(arguments) if arguments.check else _split(arguments)


def _split(arguments: argparse.Namespace) -> int:
    from pathlib import Path

    from pipeline.errors import UserError
    from pipeline.image_features import alike_in_run
    from pipeline.splits import split_images
    from pipeline.splits.sets import check_output, read_set, write_sides

    if len(arguments.sources) != 1:
        raise UserError(f"one SOURCE is split at a time, not {len(arguments.sources)}; to compare them, add --check")
    if arguments.output is None:
        raise UserError("--output FOLDER is missing: where train.json and val.json go")
    settings = split_settings(arguments)
    output = Path(arguments.output)
    check_output(output, settings.names, arguments.overwrite)
    found = read_set(arguments.sources[0], arguments.images)
    alike = alike_in_run(found.path) if settings.near_duplicates is not None else []
    split = split_images(found.images, settings, alike)
    write_sides(found, split.sides, settings.names, output, arguments.overwrite)
    print_split(split, found.images, settings)
    print(f"{output}: {', '.join(f'{name}.json' for name in settings.names)}")
    return 0


def _check(arguments: argparse.Namespace) -> int:
    import sys

    from pipeline.errors import UserError
    from pipeline.splits.leaks import find_leaks
    from pipeline.splits.sets import read_set

    if arguments.output is not None:
        raise UserError("--check writes nothing; leave --output out")
    sets = [read_set(source, arguments.images) for source in arguments.sources]
    report = find_leaks(sets, arguments.group_by, arguments.near_duplicates)
    for path, reason in report.unread:
        print(f"{path}: not compared with others: {reason}", file=sys.stderr)
    for leak in report.leaks:
        print(leak)
    print(f"{len(report.leaks)} leaks between {len(sets)} sets", file=sys.stderr)
    return 1 if report.leaks else 0
