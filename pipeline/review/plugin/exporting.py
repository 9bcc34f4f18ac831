"""Export some images of a run, with what people corrected, in any of the project's formats."""

from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from pipeline.export import ExportOptions, Written, export_labels
from pipeline.export.objects import LabelRecord
from pipeline.review.ingest import Syncing
from pipeline.reviewed.labels import ReviewedLabels
from pipeline.store.run import Run


class LabelsOfImages:
    """The labels of a run, corrections included, of some images alone.

    Args:
        run: The run.
        image_ids: Which images.

    Raises:
        UserError: A file of the reviewed layer cannot be read.
    """

    def __init__(self, run: Run, image_ids: Collection[str]) -> None:
        self._labels = ReviewedLabels(run)
        self._image_ids = frozenset(image_ids)
        self.folder: Path = self._labels.folder
        self.ontology = self._labels.ontology
        self.fingerprint: str = self._labels.fingerprint
        self.settings: dict[str, Any] = self._labels.settings

    def records(self) -> Iterator[LabelRecord]:
        """Yield the images in the order of their paths."""
        return (record for record in self._labels.records() if record.image_id in self._image_ids)

    def image_path(self, record: Any) -> Path:
        """Return the absolute path of a record's image."""
        return self._labels.image_path(record)


def export_images(
    run: Run, image_ids: Collection[str], output: str, format_name: str, images: str = "link", overwrite: bool = False
) -> Written:
    """Write what people changed into the run, and export some of its images.

    Args:
        run: The run, which has a dataset; FiftyOne must be connected.
        image_ids: Which images.
        output: Folder to write; must be empty or not there yet.
        format_name: One of `pipeline.export.FORMATS`.
        images: "link", "copy" or "none".
        overwrite: Replace an earlier export in the same folder.

    Raises:
        UserError: The format is unknown, the folder is in use or cannot be written, or the run cannot be read.
    """
    Syncing(run)(everything=True)
    labels = LabelsOfImages(run, image_ids)
    return export_labels(labels, output, format_name, ExportOptions(images=images, overwrite=overwrite))
