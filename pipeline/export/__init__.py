"""From labels to the files that trainers and tools read: one module a format, one way into all of them.

A format is a `pipeline.export.writer.Writer`; FORMATS names it. Each image goes through it once, and no list of
annotations is held. `export_run` is the one place where a split and what comes after an export plug in.
"""

from importlib import import_module
from pathlib import Path
from typing import cast

from pipeline.errors import UserError
from pipeline.export.folder import ExportOptions, Finish, Written, export_folder
from pipeline.export.labels import Labels, open_labels
from pipeline.export.writer import OPTIONS_OF_SOME, SIDES, Assign, Writer, write_images
from pipeline.proof.datasheet import write_datasheet

__all__ = [
    "FORMATS",
    "SIDES",
    "Assign",
    "ExportOptions",
    "Finish",
    "Labels",
    "Written",
    "export_labels",
    "export_run",
    "open_labels",
]

FORMATS = {
    "coco": "coco.CocoWriter",
    "coco-polygons": "coco_polygons.CocoPolygonsWriter",
    "yolo": "yolo.YoloWriter",
    "yolo-seg": "yolo_seg.YoloSegWriter",
    "yolo-obb": "yolo_obb.YoloObbWriter",
    "dota": "dota.DotaWriter",
    "voc": "voc.VocWriter",
    "cvat": "cvat.CvatWriter",
    "labelme": "labelme.LabelmeWriter",
    "createml": "createml.CreatemlWriter",
    "label-studio": "label_studio.LabelStudioWriter",
    "mask-png": "mask_png.MaskPngWriter",
    "hf-datasets": "hf_datasets.HfDatasetsWriter",
    "webdataset": "webdataset.WebdatasetWriter",
    "fiftyone": "fiftyone_dataset.FiftyoneWriter",
}
"""Format name -> module below pipeline.export, and its writer."""


def load_format(name: str) -> type[Writer]:
    """Import the writer of a format.

    Raises:
        UserError: There is no such format.
    """
    if name not in FORMATS:
        raise UserError(f"unknown format {name!r}; known are {', '.join(FORMATS)}")
    module, writer = FORMATS[name].split(".")
    return cast(type[Writer], getattr(import_module(f"pipeline.export.{module}"), writer))


def export_labels(
    labels: Labels,
    output: str | Path,
    format_name: str = "coco",
    options: ExportOptions | None = None,
    assign: Assign | None = None,
    finish: Finish | None = None,
) -> Written:
    """Write opened labels in a format.

    Args:
        labels: Read once.
        output: The folder to write; empty, not there yet, or an earlier export with `options.overwrite`.
        format_name: One of FORMATS.
        options: None means the defaults.
        assign: Puts each image on one of SIDES, or, by None, leaves it out; without it there is no split.
        finish: Called after the datasheet with the folder (not yet in its place) and what was written, to add files.

    Returns:
        What was written and what was left out.

    Raises:
        UserError: No such format, the output is not free, an image is gone, or the format cannot hold the labels.
    """
    writer = load_format(format_name)
    chosen = options or ExportOptions()
    for name in OPTIONS_OF_SOME:
        if getattr(chosen, name) != getattr(ExportOptions(), name) and name not in writer.uses:
            raise UserError(f"--{name.replace('_', '-')} has no meaning for the format {format_name}; leave it out")

    def complete(part: Path, written: Written) -> None:
        write_datasheet(part, labels, written, format_name, chosen.licence)
        if finish is not None:
            finish(part, written)

    return export_folder(
        Path(output),
        format_name,
        labels.fingerprint,
        chosen,
        lambda part: write_images(labels, part, chosen, writer, assign),
        complete,
    )


def export_run(
    run: str | Path,
    output: str | Path,
    format_name: str = "coco",
    options: ExportOptions | None = None,
    assign: Assign | None = None,
    finish: Finish | None = None,
    images_root: str | Path | None = None,
) -> Written:
    """Open a run, a COCO file or the folder of a COCO export, and write it in a format.

    Args:
        run: The folder or file.
        images_root: Folder that the paths of a COCO file start from; None looks beside it.
        output: And the others as in `export_labels`.
        format_name: Likewise.
        options: Likewise.
        assign: Likewise.
        finish: Likewise.

    Raises:
        UserError: As `export_labels`, or there are no such labels.
    """
    load_format(format_name)
    return export_labels(open_labels(run, images_root), output, format_name, options, assign, finish)
