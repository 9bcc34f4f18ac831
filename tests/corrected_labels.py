"""Labels that leave a run as COCO, and those of a run as people corrected them, for the tests of the sync."""

import json
from pathlib import Path
from typing import Any

from pipeline.export import export_run
from pipeline.export.labels import open_labels
from pipeline.export.objects import ExportImage, ExportObject


def exported(run: Path) -> dict[str, list[ExportObject]]:
    """Return the corrected labels of a run, by the image's path."""
    return {
        record.path: list(record.objects) for record in open_labels(run).records() if isinstance(record, ExportImage)
    }


def coco_of(run: Path, folder: Path) -> dict[str, Any]:
    """Export a run into a folder and return the content of its COCO file."""
    export_run(run, folder / "coco")
    content: dict[str, Any] = json.loads((folder / "coco" / "annotations.json").read_text())
    return content


def write_coco(path: Path, content: dict[str, Any]) -> Path:
    """Write an edited COCO file and return its path."""
    path.write_text(json.dumps(content))
    return path
