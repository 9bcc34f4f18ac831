"""FiftyOne's own COCO export, timed, for a comparison with ours."""

import time
from pathlib import Path
from typing import Any

from pipeline.export.fiftyone_dataset import FIELD


def time_coco_export(fiftyone: Any, dataset_folder: Path, output: Path) -> float:
    """Load a FiftyOneDataset folder into the database and export it as COCO, labels only.

    Args:
        fiftyone: The module, connected (`pipeline.review.connection`).
        dataset_folder: As `groundlabel export --format fiftyone` writes it.
        output: The JSON file to write.

    Returns:
        Seconds of the export alone.
    """
    types = fiftyone.types
    dataset = fiftyone.Dataset.from_dir(dataset_dir=str(dataset_folder), dataset_type=types.FiftyOneDataset)
    try:
        start = time.perf_counter()
        dataset.export(
            labels_path=str(output), dataset_type=types.COCODetectionDataset, label_field=FIELD, export_media=False
        )
        return time.perf_counter() - start
    finally:
        dataset.delete()
