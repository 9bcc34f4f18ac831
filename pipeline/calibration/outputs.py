"""What a calibration leaves on the disk: figures, a plot, and calibrated scores beside the raw ones."""

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from models.ontology_edit import with_thresholds
from pipeline.calibration.calibrate import Calibration, ClassCalibration
from pipeline.calibration.plot import draw_calibration
from pipeline.calibration.prompt_wins import idle_prompts
from pipeline.errors import UserError
from pipeline.records import FailedImage
from pipeline.store.durable import TEMPORARY, write_file

CALIBRATION_FOLDER = "calibration"
FIGURES_FILE = "calibration.json"
PLOT_FILE = "calibration.png"
SCORES_FILE = "scores.parquet"
SCORES_SCHEMA = pa.schema(
    [
        pa.field("image_id", pa.string(), nullable=False),
        pa.field("instance_id", pa.string(), nullable=False),
        pa.field("class_name", pa.string(), nullable=False),
        pa.field("score", pa.float32(), nullable=False),
        pa.field("calibrated_score", pa.float32()),
    ]
)
"""One row a label of the run; `calibrated_score` is null for a class of which too little is known."""
_ROWS = 50_000


def write_calibration(calibration: Calibration, output: Path | None = None) -> Path:
    """Write figures, plot and calibrated scores; an earlier calibration there is replaced.

    Args:
        calibration: The calibration.
        output: A folder; None for `calibration/` in the run's.

    Returns:
        The folder.

    Raises:
        UserError: It cannot be written.
    """
    folder = calibration.run.folder / CALIBRATION_FOLDER if output is None else output
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _write_scores(calibration, folder / SCORES_FILE)
        write_file(folder / PLOT_FILE, draw_calibration(calibration))
        text = json.dumps(calibration_values(calibration), indent=2, ensure_ascii=False, allow_nan=False)
        write_file(folder / FIGURES_FILE, (text + "\n").encode())
    except OSError as error:
        raise UserError(
            f"{folder}: cannot be written ({error.strerror or error}); name another with --output"
        ) from error
    return folder


def write_thresholds(calibration: Calibration, file: Path) -> None:
    """Put the proposed thresholds into an ontology file; classes without one keep theirs.

    Raises:
        UserError: It is no ontology of the run's classes, or cannot be written.
    """
    try:
        write_file(file.resolve(), with_thresholds(file, calibration.thresholds).encode())
    except (ValueError, OSError) as error:
        raise UserError(f"--write: {error}") from error


def calibration_values(calibration: Calibration) -> dict[str, Any]:
    """Return all figures as JSON has them; what is not known is null."""
    truth = calibration.truth
    return {
        "run": str(calibration.run.folder),
        "fingerprint": calibration.run.fingerprint,
        "judged_by": str(truth) if truth is not None else "accepted images of the review",
        "precision": calibration.precision,
        "width": calibration.width,
        "images_judged": calibration.images,
        "images": calibration.all_images,
        "notes": list(calibration.notes),
        "classes": [_class_values(one) for one in calibration.classes],
        "prompts": [asdict(one) for one in calibration.prompts],
        "prompts_that_never_won": idle_prompts(calibration.prompts),
    }


def _class_values(one: ClassCalibration) -> dict[str, Any]:
    found = one.threshold
    curve = zip(one.curve.scores.tolist(), one.curve.kept.tolist(), one.curve.right.tolist(), strict=True)
    return {
        "name": one.name,
        "judged": len(one.boxes),
        "right": int(one.boxes.right.sum()),
        "missed": one.boxes.missed,
        "finding": str(found.finding),
        "threshold_now": one.now,
        "threshold": one.proposed,
        "threshold_interval": [found.low, found.high],
        "kept": found.kept,
        "precision": _known(found.precision.value),
        "precision_interval": [found.precision.low, found.precision.high],
        "recall": _known(found.recall),
        "more_boxes": found.more_boxes,
        "more_images": found.more_images,
        "score_map": one.chosen.score_map.to_dict() if one.chosen is not None else None,
        "held_out_log_loss": dict(one.chosen.losses) if one.chosen is not None else {},
        "curve": [{"score": score, "kept": int(kept), "right": int(right)} for score, kept, right in curve],
    }


def _known(value: float) -> float | None:
    return None if value != value else value


def _write_scores(calibration: Calibration, path: Path) -> None:
    """Write a row a label, in parts, so that memory does not grow with the run."""
    temporary = path.with_name(f"{TEMPORARY}{path.name}")
    try:
        with pq.ParquetWriter(temporary, SCORES_SCHEMA, compression="zstd") as writer:
            for table in _score_tables(calibration):
                writer.write_table(table)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _score_tables(calibration: Calibration) -> Iterator[pa.Table]:
    maps = {one.name: one.chosen.score_map for one in calibration.classes if one.chosen is not None}
    columns: dict[str, list[Any]] = {name: [] for name in SCORES_SCHEMA.names}
    for record in calibration.run.records():
        if isinstance(record, FailedImage):
            continue
        scores = record.instances.detections.scores
        calibrated: list[float | None] = [None] * len(scores)
        for name in set(record.class_names) & set(maps):
            rows = [row for row, label in enumerate(record.class_names) if label == name]
            for row, chance in zip(rows, maps[name](scores[rows].astype(np.float64)).tolist(), strict=True):
                calibrated[row] = chance
        columns["image_id"] += [record.image_id] * len(scores)
        columns["instance_id"] += record.instance_ids
        columns["class_name"] += record.class_names
        columns["score"] += scores.tolist()
        columns["calibrated_score"] += calibrated
        if len(columns["score"]) >= _ROWS:
            yield pa.table(columns, schema=SCORES_SCHEMA)
            columns = {name: [] for name in SCORES_SCHEMA.names}
    yield pa.table(columns, schema=SCORES_SCHEMA)
