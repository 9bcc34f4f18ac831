"""The report of an evaluation: one HTML file that opens offline, and the same figures as JSON."""

import dataclasses
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.errors import UserError
from pipeline.proof.clicks import RULES
from pipeline.proof.confusion import BACKGROUND
from pipeline.proof.evaluate import PREFIXES, Comparison, Evaluation
from pipeline.proof.intervals import RESAMPLES
from pipeline.proof.pictures import draw_worst
from pipeline.proof.report_page import render_html
from pipeline.store.durable import write_file

HTML_NAME, JSON_NAME = "report.html", "report.json"


def write_report(evaluation: Evaluation, folder: str | Path) -> Path:
    """Write report.html and report.json into a folder; earlier ones there are replaced, other files stay.

    Args:
        evaluation: What was found out.
        folder: Made where it does not exist.

    Returns:
        The HTML file.

    Raises:
        UserError: The folder is a file.
    """
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file; --output must be a folder")
    folder.mkdir(parents=True, exist_ok=True)
    pictures = draw_worst(evaluation)
    values = json.dumps(report_values(evaluation), indent=1, allow_nan=False) + "\n"
    write_file(folder / JSON_NAME, values.encode(), durable=False)
    write_file(folder / HTML_NAME, render_html(evaluation, pictures).encode(), durable=False)
    return folder / HTML_NAME


def report_values(evaluation: Evaluation) -> dict[str, Any]:
    """Return everything that the report says as JSON-able values; a figure that cannot be computed is null."""
    pair = evaluation.pair
    classes = []
    for row, name in enumerate(pair.names):
        first = evaluation.scores["boxes"].by_class[row]
        figures = {
            PREFIXES[kind] + key: value
            for kind, one in evaluation.scores.items()
            for key, value in one.by_class[row].figures.items()
        }
        classes.append({"name": name, "objects": first.objects, "labels": first.labels, "figures": figures})
    clicks = evaluation.clicks
    mistakes = {}
    for kind, one in evaluation.mistakes.items():
        costs = dict(one.costs) | {"false positives": one.false_positives, "false negatives": one.false_negatives}
        mistakes[kind] = {"ap50": one.ap50, "counts": one.counts, "ap50_cost": costs}
    values = {
        "truth": str(evaluation.truth),
        "predictions": str(evaluation.predictions),
        "images": len(pair.images),
        "objects": int((~pair.truth.crowd).sum()),
        "labels": len(pair.found),
        "min_score": evaluation.min_score,
        "figures": evaluation.figures,
        "intervals_95": {name: [one.low, one.high] for name, one in evaluation.intervals.items()},
        "classes": classes,
        "mistakes": mistakes,
        "confusion": {"names": [*pair.names, BACKGROUND], "matrix": evaluation.confusion.tolist()},
        "calibration": evaluation.calibration and dataclasses.asdict(evaluation.calibration),
        "outlines": evaluation.outlines and dataclasses.asdict(evaluation.outlines),
        "clicks": {
            "by_masks": clicks.by_masks,
            "saved": clicks.saved,
            **{name: getattr(clicks, name) for name in ("from_nothing", "from_labels", "deleted", "reclassed")},
            **{name: getattr(clicks, name) for name in ("mended", "drawn", "untouched")},
            "by_min_score": [dataclasses.asdict(choice) for choice in clicks.choices],
            "rules": RULES,
        },
        "comparison": evaluation.comparison and _comparison_values(evaluation.comparison),
        "images_with_most_clicks": [
            {"path": pair.images[row].path, "clicks": int(clicks.labels_by_image[row])}
            for row in np.argsort(-clicks.labels_by_image, kind="stable")[:100]
            if clicks.labels_by_image[row]
        ],
        "notes": pair.notes,
    }
    cleaned: dict[str, Any] = _without_nan(values)
    return cleaned


def _comparison_values(comparison: Comparison) -> dict[str, Any]:
    figures = {
        name: {
            "here": one.here,
            "there": one.there,
            "change": one.change.value,
            "interval_95": [one.change.low, one.change.high],
            "share_of_resamples_higher": one.share_higher,
            "verdict": one.verdict,
        }
        for name, one in comparison.figures.items()
    }
    return {"against": str(comparison.origin), "resamples": RESAMPLES, "figures": figures, "notes": comparison.notes}


def _without_nan(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _without_nan(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
