"""Thresholds for an asked precision, from the review so far, as a text for the App."""

from collections.abc import Sequence
from pathlib import Path

from pipeline.calibration.calibrate import Calibration, calibrate
from pipeline.calibration.outputs import write_calibration, write_thresholds
from pipeline.calibration.table import HEAD, UNKNOWN, advice, class_cells
from pipeline.review.ingest import Syncing
from pipeline.store.run import Run


def fit_thresholds(run: Run, precision: float, file: str) -> tuple[str, str]:
    """Write what people changed into the run, and find each class's threshold.

    Args:
        run: The run, which has a dataset; FiftyOne must be connected.
        precision: Share of a class's labels that should be right, above 0 and below 1.
        file: Ontology file that gets the thresholds; the figures then go into the run's folder, as with `groundlabel
            calibrate`. Empty to write nothing.

    Returns:
        One sentence, and the table in Markdown.

    Raises:
        UserError: No image is accepted, or the file is no ontology of the run's classes or cannot be written.
    """
    Syncing(run)(everything=True)
    found = calibrate(run.folder, precision)
    images = f"{found.images} accepted image{'' if found.images == 1 else 's'}"
    said = f"Thresholds for a precision of {precision:g} rest on {images}; "
    if not file.strip():
        return f"{said}nothing was written.", _table(found)
    if not found.thresholds:
        return f"{said}no class has one, and nothing was written.", _table(found)
    path = Path(file.strip()).expanduser()
    write_thresholds(found, path)
    folder = write_calibration(found)
    return f"{said}{len(found.thresholds)} are written into {path}, the figures into {folder}.", _table(found)


def _table(found: Calibration) -> str:
    """Return the table that the command prints, narrow enough for a window of the App: remarks stand below it."""
    rows = [class_cells(one) for one in found.classes]
    lines = [
        f"{found.images} of {found.all_images} images are accepted; asked is a precision of {found.precision:g}.",
        "",
        _line(_narrow(HEAD)),
        _line(["---"] * len(_narrow(HEAD))),
        *(_line(_narrow(cells)) for cells in rows),
        "",
    ]
    remarks = list(found.notes)
    for one, cells in zip(found.classes, rows, strict=True):
        remark, more = cells[-1], advice(one, found.width)
        remarks += [f"{one.name}: {remark}"] if remark else []
        remarks += [more] if more else []
    return "\n".join([*lines, *(f"- {line}" for line in remarks)])


def _narrow(cells: Sequence[str]) -> list[str]:
    """Return a row with a threshold's interval beside it and without the remark at its end."""
    *counts, threshold, interval, precision, recall, _ = cells
    shown = f"{threshold} ({interval.strip('()')})" if interval != UNKNOWN else threshold
    return [*counts, shown, precision, recall]


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |"
