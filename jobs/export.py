"""`groundlabel export`: the labels of a run in the format of a trainer."""

import argparse

HELP = "Write the labels of a run in another format."
EXAMPLE = """
groundlabel export run/ --format coco --output train.coco/
groundlabel export run/ --output train.coco/ --images copy --licence "CC BY 4.0" --overwrite
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    parser.add_argument("run", metavar="RUN", help="the folder of a run")
    parser.add_argument("--format", default="coco", choices=("coco",), help="what to write (default: coco)")
    parser.add_argument("--output", required=True, metavar="FOLDER", help="where to; must be empty or not there yet")
    parser.add_argument(
        "--images",
        default="link",
        choices=("link", "copy", "none"),
        help="link to the image files, copy them, or leave them where they are (default: link)",
    )
    parser.add_argument("--licence", default="", metavar="NAME", help="the licence of the images, for COCO's licenses")
    parser.add_argument("--overwrite", action="store_true", help="replace an earlier export in the same folder")


def run(arguments: argparse.Namespace) -> int:
    """Export; returns 0."""
    from pipeline.export import ExportOptions, export_run

    options = ExportOptions(arguments.images, arguments.overwrite, arguments.licence)
    written = export_run(arguments.run, arguments.output, arguments.format, options)
    print(f"{written.output}: {written.images} images, {written.annotations} annotations")
    if written.failed:
        print(f"left out: {len(written.failed)} images that failed in the run (listed in {written.output}/export.json)")
    if written.empty_masks:
        print(f"left out: {len(written.empty_masks)} objects without a mask (listed in {written.output}/export.json)")
    return 0
