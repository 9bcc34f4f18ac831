"""`groundlabel train`: fine-tune a detector on labelled images."""

import argparse
from dataclasses import MISSING, fields
from typing import TYPE_CHECKING, Any

from models.training.finetune_config import DENOISING_KINDS, TEXT_LEVELS, FinetuneConfig

if TYPE_CHECKING:
    from models.training.finetune_plan import FinetuneResult

HELP = "Fine-tune a detector on labelled images: a run, an export or any COCO JSON."
EXAMPLE = """
groundlabel train run/ --output tuned/ --minutes 30
groundlabel train train.coco/ --val val.coco/ --detector tiny --output tuned/ --epochs 40 --vertical-flip
groundlabel train labels.json --images photos/ --detector grounding-dino-tiny --output tuned/ --freeze backbone,text
groundlabel train run/ --output tuned/ --minutes 30 --resume
"""
_CHOICES = {"text_level": TEXT_LEVELS, "denoising": DENOISING_KINDS}
_TYPES: dict[str, Any] = {"epochs": float, "minutes": float, "learning_rate": float, "whole_from": float}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command and one for each field of `FinetuneConfig`."""
    parser.add_argument("data", metavar="DATA", help="a run folder, the folder of a COCO export, or a COCO JSON file")
    parser.add_argument("--detector", default="tiny", metavar="NAME", help="what to start from (default: tiny)")
    parser.add_argument("--output", required=True, metavar="FOLDER", help="where checkpoints and the model go")
    parser.add_argument(
        "--images", metavar="FOLDER", help="images of a COCO JSON (default: its folder, or images/ or data/ there)"
    )
    parser.add_argument("--val", metavar="DATA", help="labels to judge by (default: a fifth of the images kept back)")
    for option in fields(FinetuneConfig):
        _add_option(parser, option.name, option.default, option.metadata["help"])
    parser.add_argument("--workers", type=int, default=1, metavar="N", help="training processes (default: 1)")
    parser.add_argument("--device", default="auto", metavar="NAME", help="auto, cpu, cuda, cuda:1, mps (default: auto)")
    parser.add_argument("--resume", action="store_true", help="go on with the training in --output")
    parser.add_argument("--overwrite", action="store_true", help="replace the training in --output")
    parser.add_argument("--skip-bad", action="store_true", help="leave out what is wrong in the data")


def _add_option(parser: argparse.ArgumentParser, name: str, default: Any, text: str) -> None:
    flag = f"--{name.replace('_', '-')}"
    if isinstance(default, bool):
        kind: Any = argparse.BooleanOptionalAction if default else "store_true"
        parser.add_argument(flag, action=kind, default=default, help=text)
        return
    if default not in (None, (), MISSING):
        text += f" (default: {default})"
    if name in _CHOICES:
        parser.add_argument(flag, choices=_CHOICES[name], default=default, help=text)
    elif name == "freeze":
        parser.add_argument(flag, type=_parts, default=default, metavar="PARTS", help=text)
    else:
        kind = _TYPES.get(name, int)
        parser.add_argument(flag, type=kind, default=default, metavar="X" if kind is float else "N", help=text)


def _parts(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def run(arguments: argparse.Namespace) -> int:
    """Train and print what it brought; returns 0."""
    config = FinetuneConfig(**{option.name: getattr(arguments, option.name) for option in fields(FinetuneConfig)})
    from pipeline.training import train

    result = train(
        arguments.data,
        arguments.detector,
        arguments.output,
        config,
        images=arguments.images,
        val=arguments.val,
        workers=arguments.workers,
        device=arguments.device,
        resume=arguments.resume,
        overwrite=arguments.overwrite,
        skip_bad=arguments.skip_bad,
    )
    print(describe(result))
    return 0


def describe(result: "FinetuneResult") -> str:
    """Return the table before and after, and what to do next."""
    rows = [
        (name, str(count), *(_figure(values.get(name)) for values in _by_class(result)))
        for name, count in result.objects.items()
    ]
    totals = (result.before.ap50, result.after.ap50, result.before.ap, result.after.ap)
    rows.append(("all", str(sum(result.objects.values())), *(_figure(value) for value in totals)))
    head = ("class", "boxes", "AP50 before", "after", "AP before", "after")
    widths = [max(len(row[column]) for row in (head, *rows)) for column in range(len(head))]
    lines = [f"{result.steps} steps; on the {result.validation_images} validation images:"]
    for row in (head, *rows):
        cells = [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        lines.append("  ".join([row[0].ljust(widths[0]), *cells]))
    if result.after.ap < result.before.ap:
        lines.append("It is no better than before: train longer, or with a lower --learning-rate, or add images.")
    lines.append(f"The model is in {result.model}, the curves in {result.model.parent / 'curves.png'}.")
    classes = ", ".join(list(result.objects)[:3])
    lines.append(f'Next: `groundlabel annotate IMAGES --classes "{classes}" --detector {result.model} --output run/`')
    return "\n".join(lines)


def _by_class(result: "FinetuneResult") -> tuple[dict[str, float], ...]:
    before, after = result.before, result.after
    return before.by_class_50, after.by_class_50, before.by_class, after.by_class


def _figure(value: float | None) -> str:
    return "–" if value is None or value != value else f"{value:.3f}"
