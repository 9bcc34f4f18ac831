"""`groundlabel evaluate`: how good labels are, by the side of a truth."""

import argparse
from typing import TYPE_CHECKING

from pipeline.box_source import BOX_SOURCES

if TYPE_CHECKING:
    from pipeline.proof.evaluate import Evaluation

HELP = "Judge labels by a truth: precision, kinds of mistakes and what they cost, clicks saved."
EXAMPLE = """
groundlabel evaluate truth.json run/ --output report/
groundlabel evaluate truth.coco/ run/ --against older-run/ --output report/
groundlabel evaluate truth.json run/ --classes "person, car" --fail-under AP50=.9 --fail-under clicks_saved=.5
"""
STATUS_BELOW_LIMIT = 1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    parser.add_argument("truth", metavar="TRUTH", help="a run folder, the folder of a COCO export, or a COCO JSON")
    parser.add_argument(
        "predictions", metavar="PREDICTIONS", help="the labels to judge: likewise, or a COCO result list"
    )
    parser.add_argument("--against", metavar="OTHER", help="other labels of the same images, to compare with")
    parser.add_argument("--output", metavar="FOLDER", help="where report.html and report.json go (default: no report)")
    parser.add_argument("--classes", metavar="NAMES", help='judge only these, "a, b, c" (default: all of both sides)')
    parser.add_argument(
        "--images", metavar="FOLDER", help="images of TRUTH, to draw them (default: where runs and exports have them)"
    )
    parser.add_argument(
        "--boxes",
        default="mask",
        choices=BOX_SOURCES,
        help="judge PREDICTIONS, a run, as `export --boxes` would write it (default: mask)",
    )
    parser.add_argument(
        "--min-score",
        type=float,
        default=0.0,
        metavar="X",
        help="labels below it do not count for confusion, pictures and clicks (default: 0.0)",
    )
    parser.add_argument(
        "--fail-under",
        action="append",
        default=[],
        metavar="FIGURE=X",
        help="end with status 1 where a figure of report.json is lower; may be given several times",
    )


def run(arguments: argparse.Namespace) -> int:
    """Judge and print; returns 1 where a figure is below its limit, else 0."""
    from pipeline.proof.evaluate import below_limits, evaluate, parse_limits
    from pipeline.proof.report import write_report

    limits = parse_limits(arguments.fail_under)
    evaluation = evaluate(
        arguments.truth,
        arguments.predictions,
        arguments.against,
        classes=arguments.classes.split(",") if arguments.classes is not None else None,
        images=arguments.images,
        min_score=arguments.min_score,
        boxes=arguments.boxes,
    )
    print(describe(evaluation))
    if arguments.output is not None:
        print(f"The report is {write_report(evaluation, arguments.output)}")
    too_low = below_limits(evaluation.figures, limits)
    for line in too_low:
        print(f"too low: {line}")
    return STATUS_BELOW_LIMIT if too_low else 0


def describe(evaluation: "Evaluation") -> str:
    """Return the main figures as text."""
    pair = evaluation.pair
    objects = int((~pair.truth.crowd).sum())
    lines = [f"{len(pair.images)} images, {objects} objects of {len(pair.names)} classes, {len(pair.found)} labels"]
    lines += [f"note: {note}" for note in pair.notes]
    for name, one in evaluation.intervals.items():
        lines.append(f"{name:<16}{_points(one.value)}   (95 % interval {_points(one.low)} to {_points(one.high)})")
    for kind, mistakes in evaluation.mistakes.items():
        costs = ", ".join(
            f"{name} {_points(cost).strip()} ({mistakes.counts[name]})" for name, cost in mistakes.costs.items()
        )
        lines.append(f"AP50 lost by mistakes of {kind} (how many): {costs}")
    clicks = evaluation.clicks
    lines.append(f"clicks: {clicks.from_labels} from these labels, {clicks.from_nothing} from nothing")
    if evaluation.comparison is not None:
        lines.append(f"against {evaluation.comparison.origin}:")
        for name, difference in evaluation.comparison.figures.items():
            change = difference.change
            interval = f"{_points(change.low)} to {_points(change.high)}"
            lines.append(f"{name:<16}{100 * change.value:+6.1f}   ({interval})  {difference.verdict}")
    return "\n".join(lines)


def _points(value: float) -> str:
    return "    –" if value != value else f"{100 * value:5.1f}"
