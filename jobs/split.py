"""`groundlabel split`: train, val and test that share nothing, and the search for what sets share."""

import argparse

HELP = "Split labels into train, val and test, or find what sets share."
EXAMPLE = """
groundlabel split run/ --split 80/10/10 --seed 7 --output sets/
groundlabel split photos.json --group-by 'regex:^(video\\d+)_' --output sets/
groundlabel split --check sets/train.json sets/val.json sets/test.json --images photos/
"""

_OFF = "off"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    parser.add_argument("sources", metavar="SOURCE", nargs="+", help="a run, a COCO JSON file or a COCO export")
    parser.add_argument(
        "--check", action="store_true", help="find what two or more SOURCEs share, instead of splitting one"
    )
    parser.add_argument(
        "--split",
        default="80/10/10",
        metavar="SHARES",
        help="shares of train, val and, where there are three, test (default: 80/10/10)",
    )
    parser.add_argument(
        "--seed",
        type=_seed,
        default=0,
        metavar="N",
        help="another seed, another split; auto takes the one of 256 that spreads the classes best (default: 0)",
    )
    parser.add_argument(
        "--group-by", default="", metavar="RULE", help="keep images together: folder, or regex:PATTERN on the path"
    )
    parser.add_argument(
        "--near-duplicates",
        type=_distance,
        default=10,
        metavar="BITS",
        help="bits of 128 in which near-duplicates may differ; off looks at no image file (default: 10)",
    )
    parser.add_argument(
        "--images", metavar="FOLDER", help="images of a COCO JSON (default: its folder, or images/ or data/ there)"
    )
    parser.add_argument("--output", metavar="FOLDER", help="where train.json, val.json and test.json go")
    parser.add_argument("--overwrite", action="store_true", help="replace the files of an earlier split")


def _seed(text: str) -> int | None:
    if text == "auto":
        return None
    try:
        return int(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is neither a whole number nor auto") from error


def _distance(text: str) -> int | None:
    if text == _OFF:
        return None
    try:
        return int(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is neither a whole number nor {_OFF}") from error


def run(arguments: argparse.Namespace) -> int:
    """Split, or look for leaks; returns 0, or 1 where there are leaks."""
    return _check(arguments) if arguments.check else _split(arguments)


def _split(arguments: argparse.Namespace) -> int:
    import sys
    from pathlib import Path

    from pipeline.errors import UserError
    from pipeline.splits import SplitSettings, parse_shares, split_images
    from pipeline.splits.balance import count_classes, format_table
    from pipeline.splits.sets import check_output, read_set, write_sides

    if len(arguments.sources) != 1:
        raise UserError(f"one SOURCE is split at a time, not {len(arguments.sources)}; to compare them, add --check")
    if arguments.output is None:
        raise UserError("--output FOLDER is missing: where train.json and val.json go")
    settings = SplitSettings(
        parse_shares(arguments.split), arguments.seed, arguments.group_by, arguments.near_duplicates
    )
    output = Path(arguments.output)
    check_output(output, settings.names, arguments.overwrite)
    found = read_set(arguments.sources[0], arguments.images)
    split = split_images(found.images, settings)
    write_sides(found, split.sides, settings.names, output, arguments.overwrite)
    rows = count_classes([(image.image_id, image.classes) for image in found.images], split.sides, settings.names)
    print(f"images of each class (seed {split.seed}):")
    print(format_table(rows, settings.names))
    if split.similar or split.largest > 1:
        print(f"kept together: {split.groups} groups, {split.largest} images in the largest; ", end="")
        print(f"{split.similar} images have a near-duplicate")
    for path, reason in split.unread:
        print(f"{path}: not compared with others: {reason}", file=sys.stderr)
    if split.ungrouped:
        print(
            f"{len(split.ungrouped)} images fit no group, such as {split.ungrouped[0]}; each stands for itself",
            file=sys.stderr,
        )
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
