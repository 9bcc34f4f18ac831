"""`groundlabel preview`: a contact sheet of labelled images."""

import argparse

HELP = "Draw a contact sheet of labelled images."
EXAMPLE = """
groundlabel preview run/
groundlabel preview run/ --class car --n 12 --output cars.jpg
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    parser.add_argument("run", metavar="RUN", help="the folder of a run")
    parser.add_argument("--class", dest="class_name", metavar="NAME", help="only images and objects of this class")
    parser.add_argument("--n", type=int, default=24, metavar="N", help="how many images at most (default: 24)")
    parser.add_argument(
        "--output", default="preview.jpg", metavar="FILE", help="a .jpg or .png file (default: preview.jpg)"
    )


def run(arguments: argparse.Namespace) -> int:
    """Draw the sheet; returns 0."""
    from pipeline.preview import make_preview
    from pipeline.store.run import Run

    result = make_preview(Run.open(arguments.run), arguments.output, arguments.n, arguments.class_name)
    print(f"{result.output}: {result.images} images, {result.objects} objects")
    return 0
