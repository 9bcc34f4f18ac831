"""`groundlabel annotate`: label images and keep the labels in a run folder."""

import argparse
import sys
from collections.abc import Iterable
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from pipeline.config import AnnotateConfig, option_type
from pipeline.errors import UserError

if TYPE_CHECKING:
    from pipeline.run import AnnotatePlan, AnnotateResult

HELP = "Label images from class prompts: boxes and masks, kept in a run folder."
EXAMPLE = """
groundlabel annotate photos/ --classes "person, car, traffic light" --output run/
groundlabel annotate photos/ --classes classes.yaml --output run/ --limit 100 --workers 2
groundlabel annotate --config annotate.toml --dry-run
groundlabel annotate --print-config > annotate.toml
"""
GROUPS = {
    "Input": ("images", "root", "limit", "shard", "pixel_limit", "remote_schemes", "allow_private_addresses"),
    "Prompts": ("classes", "prompts_per_pass", "prefilter"),
    "Detection": ("detector", "box_threshold", "text_threshold", "size"),
    "Tiles": ("tile", "tile_overlap", "tile_object"),
    "Filters": (
        *("nms_iou", "agnostic_nms_iou", "max_contained", "min_box_area", "max_box_area", "min_box_share"),
        *("max_box_share", "max_aspect", "border_margin", "top_k"),
    ),
    "Masks": (
        *("mask", "segmenter", "multimask", "mask_cleanup", "largest_part", "min_mask_fill", "max_mask_fill"),
        "min_mask_score",
    ),
    "Run": ("output", "mirror", "continue_with_old", "overwrite", "verify_content"),
    "Workers": (
        *("device", "precision", "compile", "workers", "threads", "batch_size", "shard_size", "image_timeout"),
        *("address", "gpus_per_worker", "resources", "profile", "metrics_port"),
    ),
}
"""The options of `AnnotateConfig` as `--help` shows them; the table in the README has the same groups."""
STATUS_FAILED_IMAGES = 3
STATUS_MIRROR_BEHIND = 4
STATUS_INTERRUPTED = 130
_SHOWN_FAILURES = 5


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add an option for each field of `AnnotateConfig`, and those of the command itself."""
    parser.usage = "%(prog)s IMAGES --classes NAMES|FILE --output FOLDER [option …]"
    groups = {title: parser.add_argument_group(title) for title in GROUPS}
    for title, names in GROUPS.items():
        add_options(groups[title], names)
    run_group = groups["Run"]
    run_group.add_argument("--config", metavar="FILE", help="TOML file of options; the command line wins over it")
    run_group.add_argument("--print-config", action="store_true", help="print all options as TOML and end")
    run_group.add_argument(
        "--dry-run", action="store_true", help="say what would be done, with time and memory from three of the images"
    )


def add_options(parser: argparse._ActionsContainer, names: Iterable[str]) -> None:
    """Add options of `AnnotateConfig` by name; what is not given is None."""
    for option in (AnnotateConfig.__dataclass_fields__[name] for name in names):
        kind, _ = option_type(option.name)
        text = option.metadata["help"].replace("%", "%%")
        if option.name == "images":
            parser.add_argument("images", nargs="?", default=None, help=text, metavar="IMAGES")
            continue
        flag = f"--{option.name.replace('_', '-')}"
        if kind is bool:
            parser.add_argument(flag, action=argparse.BooleanOptionalAction, default=None, help=text)
            continue
        if option.default not in (None, ""):
            text += f" (default: {option.default})"
        metavar = option.metadata.get("metavar", {int: "N", float: "X", str: "TEXT"}[kind])
        parser.add_argument(flag, type=kind, default=None, help=text, metavar=metavar)


def run(arguments: argparse.Namespace) -> int:
    """Run the command; 0 done, 3 done but images failed, 4 done but the mirror is behind, 130 interrupted."""
    config = config_from_arguments(arguments)
    if arguments.print_config:
        sys.stdout.write(config.to_toml())
        return 0
    for name, example in (("images", "photos/"), ("classes", '--classes "person, car"'), ("output", "--output run/")):
        if not getattr(config, name):
            raise UserError(f"{name} is missing: give {example}, or {name} in a --config file")
    from pipeline.run import annotate, plan_annotate

    if arguments.dry_run:
        print(_describe_plan(plan_annotate(config.images, config.classes, config.output, config), config.output))
        return 0
    result = annotate(config.images, config.classes, config.output, config)
    if config.profile and result.profile is not None:
        from pipeline.engine.profile import describe_profile

        print("\n".join(describe_profile(result.profile)))
    return report(result, config.output)


def config_from_arguments(arguments: argparse.Namespace) -> AnnotateConfig:
    """Return the options of the config file, if one is given, overlaid with those of the command line.

    Raises:
        UserError: The file or a value is wrong.
    """
    given: dict[str, Any] = {option.name: getattr(arguments, option.name) for option in fields(AnnotateConfig)}
    base = AnnotateConfig.from_toml(arguments.config) if arguments.config else AnnotateConfig()
    return base.merged({name: value for name, value in given.items() if value is not None})


def report(result: "AnnotateResult", output: str) -> int:
    """Print what a call did to the run in `output`; returns the exit status."""
    from pipeline.drops import describe_drops, sum_drops
    from pipeline.engine.progress import format_duration
    from pipeline.store.manifest import read_manifest

    if result.fetched:
        print(f"{result.fetched} shards came from the mirror.")
    if result.mirror_problem:
        print(
            f"The mirror is behind: {result.mirror_problem}. All that is done is in {output}; "
            "run the same command again to bring the mirror into line.",
            file=sys.stderr,
        )
    if result.interrupted:
        print(
            f"Stopped: {result.computed} images labelled, {result.missing} left. "
            f"What is done is kept in {output}; run the same command again to go on.",
            file=sys.stderr,
        )
        return STATUS_INTERRUPTED
    if result.computed:
        speed = result.computed / result.seconds if result.seconds > 0 else 0.0
        print(
            f"{result.computed} images labelled in {format_duration(result.seconds)} ({speed:.2f} images/s); "
            f"{output} has {result.rows} images with {result.instances} instances."
        )
    else:
        print(f"Nothing to do: {output} has all {result.rows} images, with {result.instances} instances.")
    if dropped := describe_drops(sum_drops(read_manifest(result.output))):
        print(f"Boxes {dropped}; `groundlabel explain {output} --image PATH` says which and why.")
    if result.prefilter is not None:
        print(result.prefilter)
    if result.changed:
        print(f"{result.changed} images had changed since they were labelled, and were labelled anew.")
    if result.vanished:
        print(f"{result.vanished} images of the run are not among those asked for; their rows stay.")
    if result.failed:
        for row in result.failed[:_SHOWN_FAILURES]:
            print(f"  {row.path!r}: {row.reason}", file=sys.stderr)
        rest = len(result.failed) - _SHOWN_FAILURES
        more = f"  … and {rest} more\n" if rest > 0 else ""
        where = f"{output.rstrip('/')}/failed.csv"
        print(f"{more}{len(result.failed)} of {result.rows} images failed; why is in {where}", file=sys.stderr)
    print(f"Next: `groundlabel review {output}` or `groundlabel export {output} --format coco --output FOLDER`")
    if result.mirror_problem:
        return STATUS_MIRROR_BEHIND
    return STATUS_FAILED_IMAGES if result.failed else 0


def _describe_plan(plan: "AnnotatePlan", output: str) -> str:
    from pipeline.engine.progress import format_duration

    lines = [
        f"{plan.images} images in {plan.images_root}: {plan.done} are in {output} already, "
        f"{plan.todo} would be labelled.",
    ]
    if plan.seconds_per_image is not None:
        total = plan.load_seconds + plan.todo * plan.seconds_per_image / plan.workers
        lines.append(
            f"About {format_duration(total)} with {plan.workers} worker(s): {plan.seconds_per_image:.2f} s an image, "
            f"measured on up to three of them, and {format_duration(plan.load_seconds)} to load the models."
        )
    lines.append(f"About {plan.peak_bytes / 1024**3:.1f} GiB of memory a worker.")
    lines.append("Nothing was written.")
    return "\n".join(lines)
