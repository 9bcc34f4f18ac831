"""`groundlabel bench tiny`: what the bundled models reach, against the bars they should."""

import argparse
from pathlib import Path

HELP = "Measure the bundled detector and segmenter on fresh scenes, blood cells and photos."
EXAMPLE = """
groundlabel bench tiny --data ../shared/data
groundlabel bench tiny --data ../shared/data --detector runs/tiny/model --n 100
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this bench."""
    parser.add_argument("--data", default="../shared/data", metavar="FOLDER", help="holds bccd/ and coco_photos/")
    parser.add_argument("--detector", default="tiny", metavar="NAME", help="zoo name or model folder (default: tiny)")
    parser.add_argument("--segmenter", default="tiny-sam", metavar="NAME", help="likewise (default: tiny-sam)")
    parser.add_argument("--n", type=int, default=300, metavar="N", help="scenes a row (default: 300)")
    parser.add_argument("--threads", type=int, default=1, metavar="N", help="CPU threads (default: 1)")


def run(arguments: argparse.Namespace) -> int:
    """Print a row a setting; returns 0."""
    from models.devices import use_threads
    from models.training.tiny_report import report
    from models.zoo import load_segmenter, resolve

    use_threads(arguments.threads)
    segmenter = load_segmenter(arguments.segmenter, device="cpu")
    for row in report(resolve(arguments.detector, "detector"), segmenter, Path(arguments.data), arguments.n):
        print(row, flush=True)
    return 0
