"""The options of a split, and what is printed of one: the same wherever labels are put on sides."""

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipeline.splits import Split, SplitImage, SplitSettings

DEFAULT_SHARES = "80/10/10"
_OFF = "off"
_DEFAULTS: dict[str, int | str] = {"seed": 0, "group_by": "", "near_duplicates": 10}


def add_split_arguments(parser: argparse.ArgumentParser, shares: str | None) -> None:
    """Add the options of a split.

    Args:
        parser: Of the command.
        shares: Default of `--split`; None makes no split unless it is given.
    """
    parser.add_argument(
        "--split",
        default=shares,
        metavar="SHARES",
        help=f"shares of train, val and, where there are three, test (default: {shares or 'no split'})",
    )
    parser.add_argument(
        "--seed",
        type=_seed,
        default=_DEFAULTS["seed"],
        metavar="N",
        help="another seed, another split; auto takes the one of 256 that spreads the classes best (default: 0)",
    )
    parser.add_argument(
        "--group-by",
        default=_DEFAULTS["group_by"],
        metavar="RULE",
        help="keep images together: folder, video, or regex:PATTERN on the path",
    )
    parser.add_argument(
        "--near-duplicates",
        type=_distance,
        default=_DEFAULTS["near_duplicates"],
        metavar="BITS",
        help="bits of 128 in which near-duplicates may differ; off looks at no image file (default: 10)",
    )


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


def refuse_without_split(arguments: argparse.Namespace) -> None:
    """Refuse the options of a split where none is made.

    Raises:
        UserError: `--split` was not given, another of them was.
    """
    from pipeline.errors import UserError

    if arguments.split is None:
        for name, default in _DEFAULTS.items():
            if getattr(arguments, name) != default:
                raise UserError(f"--{name.replace('_', '-')} says how to split; add --split, such as --split 80/10/10")


def split_settings(arguments: argparse.Namespace) -> "SplitSettings":
    """Return the settings that the options say.

    Raises:
        UserError: A value makes no sense.
    """
    from pipeline.splits import SplitSettings, parse_shares

    return SplitSettings(parse_shares(arguments.split), arguments.seed, arguments.group_by, arguments.near_duplicates)


def print_split(split: "Split", images: "Sequence[SplitImage]", settings: "SplitSettings") -> None:
    """Print the images of each class by side, what was kept together, and what could not be compared."""
    import sys

    from pipeline.splits.balance import count_classes, format_table

    rows = count_classes([(image.image_id, image.classes) for image in images], split.sides, settings.names)
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
