"""`groundlabel export`: labels in the format of a trainer or an annotation tool."""

import argparse
from typing import TYPE_CHECKING

from jobs.split_options import add_split_arguments, print_split, refuse_without_split, split_settings
from pipeline.box_source import BOX_SOURCES

if TYPE_CHECKING:
    from pipeline.export import Assign, Labels

HELP = "Write the labels of a run or a COCO file in another format."
EXAMPLE = """
groundlabel export run/ --format coco --output train.coco/
groundlabel export run/ --format yolo-seg --empty 10% --classes merged.yaml --output train.yolo/
groundlabel export instances.json --images-root photos/ --format voc --output train.voc/
groundlabel export run/ --format yolo --split 80/10/10 --seed 7 --output sets.yolo/
groundlabel export run/ --output train.coco/ --images copy --licence "CC BY 4.0" --overwrite
"""
FORMATS = (
    *("coco", "coco-polygons", "yolo", "yolo-seg", "yolo-obb", "dota", "voc", "cvat", "labelme", "createml"),
    *("label-studio", "mask-png", "hf-datasets", "webdataset", "fiftyone"),
)
"""As `pipeline.export.FORMATS`, which takes long to import."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    parser.add_argument("source", metavar="SOURCE", help="a run folder, a COCO file or the folder of a COCO export")
    parser.add_argument("--format", default="coco", choices=FORMATS, help="what to write (default: coco)")
    parser.add_argument("--output", required=True, metavar="FOLDER", help="where to; must be empty or not there yet")
    parser.add_argument(
        "--images",
        default="link",
        choices=("link", "copy", "none"),
        help="link to the image files, copy them, or leave them where they are (default: link)",
    )
    parser.add_argument(
        "--images-root", metavar="FOLDER", help="images of a COCO file (default: its folder, or images/ or data/ there)"
    )
    parser.add_argument(
        "--classes", metavar="FILE", help="YAML `new: [old, old]`: rename and merge classes; others are dropped"
    )
    parser.add_argument(
        "--only",
        default="all",
        choices=("all", "accepted"),
        help="all images, or those that a person accepted in the review (default: all)",
    )
    parser.add_argument(
        "--boxes",
        default="mask",
        choices=BOX_SOURCES,
        help="whose boxes a run's objects with masks have: bounds of the masks, the detector's, or the mean of both "
        "(default: mask)",
    )
    parser.add_argument(
        "--empty",
        default="keep",
        metavar="keep|drop|N%",
        help="images without objects: all, none, or a share that only their ids decide (default: keep)",
    )
    add_split_arguments(parser, None)
    parser.add_argument(
        "--ids",
        default="stable",
        choices=("stable", "count"),
        help="COCO ids: the source's own or from the image alone, the same when images are added; or 1, 2, 3 "
        "(default: stable)",
    )
    parser.add_argument(
        "--epsilon",
        type=float,
        default=0.0,
        metavar="X",
        help="most pixels to simplify polygons by (default: 0, exact)",
    )
    parser.add_argument(
        "--compression", default="none", choices=("none", "gzip"), help="of COCO's JSON (default: none)"
    )
    parser.add_argument(
        "--shard-size", type=int, default=0, metavar="N", help="most images in a tar (default: 1000) or COCO file (all)"
    )
    parser.add_argument("--licence", default="", metavar="NAME", help="the licence of the images, for COCO's licenses")
    parser.add_argument("--overwrite", action="store_true", help="replace an earlier export in the same folder")


def run(arguments: argparse.Namespace) -> int:
    """Export; returns 0."""
    from pipeline.export import ExportOptions, export_labels, load_format, open_labels
    from pipeline.export.summary import describe

    load_format(arguments.format)
    options = ExportOptions(
        images=arguments.images,
        overwrite=arguments.overwrite,
        licence=arguments.licence,
        empty=arguments.empty,
        classes=arguments.classes,
        compression=arguments.compression,
        ids=arguments.ids,
        epsilon=arguments.epsilon,
        shard_size=arguments.shard_size,
    )
    labels = open_labels(arguments.source, arguments.images_root, arguments.only, arguments.boxes)
    refuse_without_split(arguments)
    assign = _split(arguments, labels) if arguments.split is not None else None
    written = export_labels(labels, arguments.output, arguments.format, options, assign)
    print("\n".join(describe(written)))
    return 0


def _split(arguments: argparse.Namespace, labels: "Labels") -> "Assign":
    """Split the labels, print how, and return what puts an image on its side."""
    from pipeline.export.sides import split_labels

    settings = split_settings(arguments)
    split, images = split_labels(labels, settings, arguments.classes)
    print_split(split, images, settings)
    return lambda image: split.sides.get(image.image_id)
