"""`groundlabel calibrate`: thresholds for an asked precision, from what was reviewed."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipeline.calibration.calibrate import Calibration, ClassCalibration

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

    source = "the images that are accepted" if calibration.truth is None else str(calibration.truth)
    lines = [
        f"{calibration.images} of {calibration.all_images} images judged, by {source}; "
        f"asked is a precision of {calibration.precision:g}"
    ]
    lines += [f"note: {note}" for note in calibration.notes]
    head = ("class", "judged", "right", "missed", "now", "threshold", "(interval)", "precision", "recall", "")
    rows = [head, *(_row(one) for one in calibration.classes)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines += ["  ".join(cell.ljust(size) for cell, size in zip(row, widths, strict=True)).rstrip() for row in rows]
    lines += [_advice(one, calibration.width) for one in calibration.classes if one.threshold.more_boxes]
    return "\n".join([*lines, *describe_prompts(calibration.prompts, calibration.all_images)])


def _row(one: "ClassCalibration") -> tuple[str, ...]:
    from pipeline.calibration.thresholds import Finding

    found = one.threshold
    words = {
        Finding.SHOWN: "lowest of the run" if found.is_lowest else "",
        Finding.LIKELY: "likely, not sure yet",
        Finding.OUT_OF_REACH: "no threshold reaches it",
        Finding.TOO_FEW: "too few reviews; left as it is",
    }
    counts = (one.name, str(len(one.boxes)), str(int(one.boxes.right.sum())), str(one.boxes.missed), f"{one.now:.3f}")
    share, interval = found.precision, "–"
    if found.low is not None and found.high is not None:
        interval = f"{found.low:.3f} to {found.high:.3f}"
    precision = "–" if share.value != share.value else f"{share.value:.3f} ({share.low:.3f} to {share.high:.3f})"
    recall = "–" if found.recall != found.recall else f"{found.recall:.3f}"
    threshold = "–" if one.proposed is None else f"{one.proposed:.3f}"
    return (*counts, threshold, interval, precision, recall, words[found.finding])


def _advice(one: "ClassCalibration", width: float) -> str:
    from pipeline.calibration.thresholds import Finding

    more = one.threshold
    images = f", some {more.more_images} images" if more.more_images is not None else ""
    if more.finding == Finding.TOO_FEW:
        return f"{one.name}: {more.more_boxes} more reviewed labels are needed{images}"
    return f"{one.name}: {more.more_boxes} more reviewed labels would narrow its precision to {width:g}{images}"
