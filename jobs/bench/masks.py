"""`groundlabel bench masks`: logits to run-length masks, beside segment-anything's own way and pycocotools."""

import argparse

from pipeline.errors import UserError

HELP = "Measure time and memory of drawing masks on a large image against segment-anything's own way."
EXAMPLE = """
groundlabel bench masks
groundlabel bench masks --n 20 --rounds 1
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this bench."""
    parser.add_argument("--n", type=int, default=100, metavar="N", help="boxes (default: 100)")
    parser.add_argument("--width", type=int, default=4000, metavar="N", help="of the image, pixels (default: 4000)")
    parser.add_argument("--height", type=int, default=3000, metavar="N", help="of the image, pixels (default: 3000)")
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="rounds, each both ways (default: 3)")
    parser.add_argument("--threads", type=int, default=1, metavar="N", help="CPU threads (default: 1)")


def run(arguments: argparse.Namespace) -> int:
    """Print time and memory of both ways and whether their masks are the same; returns 0."""
    for name in ("n", "width", "height", "rounds", "threads"):
        if getattr(arguments, name) < 1:
            raise UserError(f"--{name} must be at least 1")
    from models.devices import use_threads
    from models.sam.upsample_bench import compare_ways

    use_threads(arguments.threads)
    image_hw = (arguments.height, arguments.width)
    found = compare_ways(arguments.n, image_hw, arguments.rounds)
    print(f"{arguments.n} boxes of 5 to 25 % of the sides on {arguments.width} × {arguments.height}")
    print(f"groundlabel: {found.seconds:.2f} s, {found.extra_bytes / 1e6:.0f} MB beside what was there (bar 300)")
    print(f"segment-anything and pycocotools: {found.other_seconds:.2f} s, {found.other_extra_bytes / 1e6:.0f} MB")
    print(f"time over theirs, median of {arguments.rounds}: {found.ratio:.3f} (bar 0.2)")
    print(f"pixels that differ: {found.different_share:.1e} of all, none where |logit| is over 1e-4: {found.same}")
    return 0
