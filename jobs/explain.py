"""`groundlabel explain`: the boxes of one image before filters, and why each went."""

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipeline.explain import ExplainedBox, Explanation

HELP = "Say why a box is missing: each box of one image, and the filter that took it."
EXAMPLE = """
groundlabel explain run/ --image a.jpg
groundlabel explain run/ --image cars/0001.jpg
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    parser.add_argument("run", metavar="RUN", help="the folder of a run")
    parser.add_argument(
        "--image",
        required=True,
        metavar="PATH",
        help="an image of the run: its path below the image folder, or the end of it",
    )


def run(arguments: argparse.Namespace) -> int:
    """Label the image again and print a line a box; returns 0."""
    from pipeline.explain import explain

    print(describe(explain(arguments.run, arguments.image)))
    return 0


def describe(explanation: "Explanation") -> str:
    """Return an explanation as text: a headline, a table, and what the table cannot show."""
    height, width = explanation.image_hw
    where = f" in {explanation.tiles} tiles, the whole image among them" if explanation.tiles else ""
    lines = [
        f"{explanation.path} ({width} × {height}): {len(explanation.boxes)} boxes from the detector{where}, "
        f"{explanation.kept} kept"
    ]
    if explanation.boxes:
        head = ("#", "class", "prompt", "score", "mask score", "x1 y1 x2 y2", "")
        rows = [head, *(_row(place, box) for place, box in enumerate(explanation.boxes, start=1))]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines += ["  ".join(cell.ljust(size) for cell, size in zip(row, widths, strict=True)).rstrip() for row in rows]
    config = explanation.config
    lines.append(
        f"Not listed: what scored below --box-threshold {config.box_threshold:g} or --text-threshold "
        f"{config.text_threshold:g} (or a class's own)."
    )
    if explanation.recorded is None:
        lines.append("The run has this image as failed; it can be read now. Annotate again to put it right.")
    elif explanation.recorded != explanation.kept:
        lines.append(f"The run has {explanation.recorded} objects of this image: its file or the device is another.")
    return "\n".join(lines)


def _row(number: int, box: "ExplainedBox") -> tuple[str, ...]:
    from pipeline.filters import REASONS

    what = f"dropped, {REASONS[box.reason]}" if box.reason else "kept"
    if box.rival is not None:
        what += f" (#{box.rival + 1})"
    mask_score = "" if box.mask_score is None else f"{box.mask_score:.2f}"
    corners = " ".join(f"{side:.0f}" for side in box.box_xyxy)
    return str(number), box.class_name, box.prompt, f"{box.score:.2f}", mask_score, corners, what
