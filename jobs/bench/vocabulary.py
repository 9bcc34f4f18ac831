"""`groundlabel bench vocabulary`: what many classes cost, and what it does to their scores to be asked together."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.config import AnnotateConfig
from pipeline.errors import UserError

if TYPE_CHECKING:
    from models.bench.vocabulary_scores import Labeller

HELP = "Measure what a large vocabulary costs, what it does to scores, and what the prefilter loses."
EXAMPLE = """
groundlabel bench vocabulary --measure cost --classes 1,40,80
groundlabel bench vocabulary --measure scores --detector tuned/model --n 100
groundlabel bench vocabulary --measure prefilter --prefilter 0.98
"""
MEASURES = ("cost", "scores", "prefilter")
_LADDER = (4, 8, 12, 16, 24, 32, 48, 64)
"""Classes left, of 80, that are tried for a recall."""
_COST_PREFILTER = 40


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this bench."""
    parser.add_argument("--measure", choices=MEASURES, help="only one of them (default: all three)")
    parser.add_argument(
        "--detector",
        default="tiny",
        metavar="NAME",
        help="zoo name or model folder for scores and prefilter (default: tiny); a config.json instead: cost of that "
        "architecture with random weights (default: that of grounding-dino-tiny)",
    )
    parser.add_argument(
        "--classes", default="1,40,80,365,1203", metavar="N,N", help="cost: (default: 1,40,80,365,1203)"
    )
    parser.add_argument("--rounds", type=int, default=1, metavar="N", help="cost: rounds (default: 1)")
    parser.add_argument("--n", type=int, default=60, metavar="N", help="scenes for scores and prefilter (default: 60)")
    parser.add_argument(
        "--prefilter", default="0.98", metavar="K|RECALL", help="classes left, or the recall to reach (default: 0.98)"
    )
    parser.add_argument("--prompts-per-pass", type=int, metavar="N", help="scores: instead of the model's own")
    parser.add_argument("--threads", type=int, default=1, metavar="N", help="CPU threads (default: 1)")


def run(arguments: argparse.Namespace) -> int:
    """Print each measurement as it is made; returns 0, or 1 when no prefilter reaches the recall."""
    measures = [arguments.measure] if arguments.measure else list(MEASURES)
    config_file = Path(arguments.detector) if arguments.detector.endswith(".json") else None
    if config_file is not None:
        if arguments.measure not in (None, "cost"):
            raise UserError(f"--detector {config_file}: random weights have no {arguments.measure} worth measuring")
        measures = ["cost"]
    counts = _counts(arguments.classes)
    kept, recall = _prefilter(arguments.prefilter)
    if arguments.n < 1 or arguments.rounds < 1:
        raise UserError("--n and --rounds must be at least 1")
    from models.devices import use_threads

    use_threads(arguments.threads)
    if "cost" in measures:
        from models.bench.vocabulary_cost import measure_costs

        print("cost of an image of 480 x 640, processor time:", flush=True)
        for cost in measure_costs(
            counts, rounds=arguments.rounds, prefilter=kept or _COST_PREFILTER, config_file=config_file
        ):
            print(cost, flush=True)
    if "scores" in measures or "prefilter" in measures:
        from models.bench.vocabulary_scores import Labeller
        from models.zoo import resolve

        labeller = Labeller(resolve(arguments.detector, "detector"), arguments.n, arguments.prompts_per_pass)
        if "scores" in measures:
            print(labeller.scores(), flush=True)
        if "prefilter" in measures:
            return 0 if _print_recalls(labeller, kept, recall) else 1
    return 0


def _print_recalls(labeller: "Labeller", kept: int | None, wanted: float) -> bool:
    """Print the recall of one prefilter, or of wider and wider ones until it is reached; tells whether it was."""
    shares = labeller.shares_left(_LADDER)
    print("boxes whose class is left, by classes: " + ", ".join(f"{n} {share:.3f}" for n, share in shares.items()))
    every, clear = labeller.agreement()
    print(f"boxes that an exact run with the names in another order finds: {every:.3f}, of the clear ones {clear:.3f}")
    for count in (kept,) if kept is not None else [n for n, share in shares.items() if share >= wanted]:
        found = labeller.recall(count)
        print(found, flush=True)
        if kept is None and found.recall >= wanted:
            print(f"prefilter: {count} classes reach a recall of {wanted:g}: groundlabel annotate --prefilter {count}")
            return True
    if kept is None:
        print(f"prefilter: none reaches a recall of {wanted:g}")
    return kept is not None


def _counts(text: str) -> list[int]:
    """Return the numbers of `--classes`.

    Raises:
        UserError: It is no list of positive numbers.
    """
    parts = text.split(",")
    if not all(part.strip().isdecimal() and int(part) > 0 for part in parts):
        raise UserError(f"--classes {text}: give numbers of classes, as 1,40,80")
    return [int(part) for part in parts]


def _prefilter(text: str) -> tuple[int | None, float]:
    """Return the classes that the prefilter leaves, or None and the recall to reach.

    Raises:
        UserError: It is neither a positive whole number nor one between 0 and 1.
    """
    config = AnnotateConfig(prefilter=text)
    return config.prefilter_classes, config.prefilter_recall or 0.0
