"""`groundlabel calibrate`: thresholds for an asked precision, from what was reviewed."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipeline.calibration.calibrate import Calibration

HELP = "Find each class's threshold for an asked precision, from what people accepted or a truth says."
EXAMPLE = """
groundlabel calibrate run/
groundlabel calibrate run/ --precision .98 --write classes.yaml
groundlabel calibrate run/ --truth truth.json --width .04 --output calibration/
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    parser.add_argument("run", metavar="RUN", help="the folder of a run")
    parser.add_argument(
        "--precision",
        type=float,
        default=0.95,
        metavar="X",
        help="share of a class's labels that should be right (default: 0.95)",
    )
    parser.add_argument(
        "--truth", metavar="FILE", help="judge by a COCO file (default: by the images that are accepted)"
    )
    parser.add_argument(
        "--width",
        type=float,
        default=0.05,
        metavar="X",
        help="width of the precision's interval that more reviews should reach (default: 0.05)",
    )
    parser.add_argument("--write", metavar="FILE", help="put the thresholds into this ontology file")
    parser.add_argument(
        "--output", metavar="FOLDER", help="where figures, plot and calibrated scores go (default: RUN/calibration)"
    )


def run(arguments: argparse.Namespace) -> int:
    """Calibrate, write and print; returns 0."""
    from pipeline.calibration.calibrate import calibrate
    from pipeline.calibration.outputs import write_calibration, write_thresholds

    calibration = calibrate(arguments.run, arguments.precision, arguments.width, arguments.truth)
    if arguments.write is not None and calibration.thresholds:
        write_thresholds(calibration, Path(arguments.write))
    folder = write_calibration(calibration, Path(arguments.output) if arguments.output is not None else None)
    print(describe(calibration))
    if arguments.write is not None:
        count = len(calibration.thresholds)
        print(f"{count} thresholds written into {arguments.write}" if count else f"{arguments.write} is as it was")
    print(f"Figures, plot and calibrated scores are in {folder}")
    return 0


def describe(calibration: "Calibration") -> str:
    """Return a calibration as text: a headline, a table, what is missing, and the prompts."""
    from pipeline.calibration.prompt_wins import describe_prompts
    from pipeline.calibration.table import HEAD, advice, class_cells

    source = "the images that are accepted" if calibration.truth is None else str(calibration.truth)
    lines = [
        f"{calibration.images} of {calibration.all_images} images judged, by {source}; "
        f"asked is a precision of {calibration.precision:g}"
    ]
    lines += [f"note: {note}" for note in calibration.notes]
    rows = [HEAD, *(class_cells(one) for one in calibration.classes)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines += ["  ".join(cell.ljust(size) for cell, size in zip(row, widths, strict=True)).rstrip() for row in rows]
    lines += filter(None, (advice(one, calibration.width) for one in calibration.classes))
    return "\n".join([*lines, *describe_prompts(calibration.prompts, calibration.all_images)])
