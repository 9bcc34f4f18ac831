"""From a run's labels to the files that trainers read: one module a format, one way into all of them.

A format is a module with `write(labels, folder, options) -> Written`; FORMATS names it. It streams over
`labels.records()` once and holds no list of annotations.
"""

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import cast

from pipeline.errors import UserError
from pipeline.export.folder import ExportOptions, Written, export_folder
from pipeline.export.labels import Labels, open_labels

__all__ = ["FORMATS", "ExportOptions", "Written", "export_run"]

FORMATS = {"coco": "pipeline.export.coco"}
"""Format name -> its module."""


def export_run(
    run: str | Path,
    output: str | Path,
    format_name: str = "coco",
    options: ExportOptions | None = None,
) -> Written:
    """Write the labels of a run in a format.

    Args:
        run: The folder of a run.
        output: The folder to write; empty, not there yet, or an earlier export with `options.overwrite`.
        format_name: One of FORMATS.
        options: None means the defaults.

    Returns:
        What was written and what was left out.

    Raises:
        UserError: No such run or format, the output is not free, or an image of the run is gone.
    """
    if format_name not in FORMATS:
        raise UserError(f"unknown format {format_name!r}; known are {', '.join(FORMATS)}")
    labels = open_labels(run)
    options = options or ExportOptions()
    write = cast(Callable[[Labels, Path, ExportOptions], Written], import_module(FORMATS[format_name]).write)
    return export_folder(
        Path(output), format_name, labels.fingerprint, options, lambda part: write(labels, part, options)
    )
