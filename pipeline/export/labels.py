"""Where an export or a preview reads its labels: one stream of records, whatever they are stored in."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

from models.ontology import Ontology
from pipeline.records import Record
from pipeline.store.run import Run


class Labels(Protocol):
    """Labelled images in a stable order, each id once."""

    @property
    def folder(self) -> Path:
        """The folder that was opened."""

    @property
    def ontology(self) -> Ontology:
        """The classes, in the order of their ids."""

    @property
    def fingerprint(self) -> str:
        """What the labels depend on: models, prompts, thresholds, version."""

    @property
    def settings(self) -> dict[str, Any]:
        """How the labels were made; JSON-able."""

    def records(self) -> Iterator[Record]:
        """Yield every image, labelled or failed."""

    def image_path(self, record: Record) -> Path:
        """Return where the image file is."""


def open_labels(folder: str | Path) -> Labels:
    """Open the labels in a folder.

    Raises:
        UserError: There is no run.
    """
    return Run.open(folder)
