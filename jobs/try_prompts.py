"""`groundlabel try`: several ontologies on the same images."""

import argparse
import contextlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from jobs.annotate import add_options
from jobs.serving import end_on_signals, print_address
from pipeline.config import AnnotateConfig

if TYPE_CHECKING:
    from pipeline.trial.arms import Arm
    from pipeline.trial.judge import Judgement
    from pipeline.trial.trial import Trial

HELP = "Compare prompts: label a sample of images with two or more ontologies, side by side."
EXAMPLE = """
groundlabel try photos/ --classes a.yaml --classes b.yaml --sample 50
groundlabel try photos/ --classes "car, person" --classes "vehicle, human" --output compared/
groundlabel try photos/ --classes a.yaml --classes b.yaml --truth truth.json
groundlabel try photos/ --classes a.yaml --classes b.yaml --app
"""
_OPTIONS = (
    "detector",
    "segmenter",
    "box_threshold",
    "text_threshold",
    "nms_iou",
    "agnostic_nms_iou",
    "mask",
    "device",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    parser.add_argument("images", metavar="IMAGES", help="folder, image, glob, .txt list or .parquet table of paths")
    parser.add_argument(
        "--classes",
        action="append",
        default=[],
        metavar="NAMES|FILE",
        help='class names "a, b, c", or an ontology file; give it once for each that is compared',
    )
    parser.add_argument("--sample", type=int, default=50, metavar="N", help="how many images (default: 50)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="another seed, other images (default: 0)")
    parser.add_argument(
        "--truth", metavar="PATH", help="a COCO file or export, or a reviewed run: prints the AP of each ontology"
    )
    parser.add_argument(
        "--output", default="try", metavar="FOLDER", help="where try.json and sheet.jpg go (default: try)"
    )
    parser.add_argument("--app", action="store_true", help="then show them side by side in the FiftyOne App")
    add_options(parser, _OPTIONS)


def run(arguments: argparse.Namespace) -> int:
    """Label, compare, write and print; returns 0."""
    from pipeline.trial.trial import SHEET_FILE, VALUES_FILE, try_prompts, write_trial

    given = {name: getattr(arguments, name) for name in _OPTIONS}
    config = AnnotateConfig().merged({name: value for name, value in given.items() if value is not None})
    trial = try_prompts(
        arguments.images,
        arguments.classes,
        sample=arguments.sample,
        seed=arguments.seed,
        truth=arguments.truth,
        config=config,
        progress=_show_progress if sys.stderr.isatty() else lambda done, total: None,
    )
    write_trial(trial, Path(arguments.output))
    print(describe(trial))
    print(
        f"All figures are in {Path(arguments.output) / VALUES_FILE}, pictures in {Path(arguments.output) / SHEET_FILE}"
    )
    if arguments.app:
        _serve(trial, Path(arguments.output))
    return 0


def _serve(trial: "Trial", output: Path) -> None:
    """Show the labels side by side in the App until Ctrl-C."""
    from pipeline.review.app import AppServer, open_listener
    from pipeline.review.connection import connected_fiftyone
    from pipeline.review.keeper import LOOPBACK
    from pipeline.review.side_by_side import trial_dataset

    end_on_signals()
    print("Starting FiftyOne and its database …", file=sys.stderr, flush=True)
    listener = open_listener(None, LOOPBACK)
    with (
        contextlib.suppress(KeyboardInterrupt),
        connected_fiftyone(),
        trial_dataset(trial, output) as dataset,
        AppServer(listener) as server,
    ):
        server.wait_until_ready()
        print_address(server.url(dataset.slug), server.port)
        while True:
            server.wait(60)


def _show_progress(done: int, total: int) -> None:
    print(f"\r{done} of {total} images", end="\n" if done == total else "", file=sys.stderr, flush=True)


def describe(trial: "Trial") -> str:
    """Return a trial as text: counts and seconds, agreement by class, prompts, and which to keep."""
    from pipeline.calibration.prompt_wins import describe_prompts

    done = trial.sample - len(trial.failed)
    lines = [f"{trial.sample} of {trial.of_images} images, each with {len(trial.arms)} ontologies and the same models"]
    lines += [f"failed: {path}: {reason}" for path, reason in trial.failed.items()]
    for place, arm in enumerate(trial.arms):
        counts = trial.counts(place)
        speed = arm.seconds / max(done, 1)
        lines.append(f"{arm.name}: {sum(counts.values())} labels, {arm.seconds:.1f} s ({speed:.2f} s an image)")
        lines += [f"  {line}" for line in describe_prompts(trial.prompts[place], done)]
    for (first, second), agreement in trial.agreements.items():
        names = trial.arms[first].name, trial.arms[second].name
        share = "no labels on either side" if agreement.share != agreement.share else f"{agreement.share:.0%} agree"
        lines.append(f"{names[0]} and {names[1]}: {share}; same box, another class: {agreement.renamed}")
        rows = [("class", "both", f"only {names[0]}", f"only {names[1]}")]
        rows += [(one.name, str(one.both), str(one.only_first), str(one.only_second)) for one in agreement.by_class]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines += ["  " + "  ".join(cell.ljust(n) for cell, n in zip(row, widths, strict=True)).rstrip() for row in rows]
    if trial.judgement is None:
        lines.append("No truth was given: this says where they differ, not which is better. Look at the pictures, or")
        lines.append("accept some images in `groundlabel review` and give that run with --truth.")
        return "\n".join(lines)
    return "\n".join([*lines, *_describe_judgement(trial.judgement, trial.arms)])


def _describe_judgement(judgement: "Judgement", arms: Sequence["Arm"]) -> list[str]:
    from models.class_spec import normalise_prompt

    names = [arm.name for arm in arms]
    lines = [f"by the truth ({judgement.objects} objects of {len(judgement.classes)} classes):"]
    for name, one in zip(names, judgement.precisions, strict=True):
        lines.append(f"  AP {100 * one.value:5.1f} (95 % interval {100 * one.low:.1f} to {100 * one.high:.1f})  {name}")
    asked = dict.fromkeys(normalise_prompt(spec.name) for arm in arms for spec in arm.ontology.classes)
    if unknown := [name for name in asked if name not in judgement.classes]:
        lines.append(f"  the truth does not have, and so nobody judged: {', '.join(unknown)}")
    best = names[judgement.best]
    apart = True
    for name, lead in zip(names, judgement.leads, strict=True):
        if lead is not None:
            apart = apart and lead.told_apart
            change = lead.change
            lines.append(
                f"  {best} against {name}: {100 * change.value:+.1f} ({100 * change.low:.1f} to "
                f"{100 * change.high:.1f}), {lead.verdict}"
            )
    if apart:
        lines.append(f"Keep {best}.")
    else:
        lines.append(
            f"{best} is ahead, but not told apart from all others on these images: a larger --sample would tell."
        )
    return lines
