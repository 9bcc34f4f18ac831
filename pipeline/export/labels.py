"""Where an export or a preview reads its labels: one stream of records, whatever they are stored in."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

from models.ontology import Ontology
from pipeline.box_source import BoxSource, refuse_boxes_without_run
from pipeline.coco_file import find_annotations
from pipeline.errors import UserError
from pipeline.export.coco_labels import CocoLabels
from pipeline.export.objects import LabelRecord
from pipeline.store.run import Run, is_run


class Labels(Protocol):
    """Labelled images in a stable order, each id once."""

    @property
    def folder(self) -> Path:
        """The folder or file that was opened."""

    @property
    def ontology(self) -> Ontology:
        """The classes, in the order of their ids."""

    @property
    def fingerprint(self) -> str:
        """What the labels depend on: models, prompts, thresholds, version."""

    @property
    def settings(self) -> dict[str, Any]:
        """How the labels were made; JSON-able."""

    def records(self) -> Iterator[LabelRecord]:
        """Yield every image, labelled or failed, in the order of the paths; may be called again."""

    def image_path(self, record: Any) -> Path:
        """Return where the image file of a record is; only its `path` is used."""


def open_labels(
    source: str | Path, images_root: str | Path | None = None, only: str = "all", boxes: BoxSource = "mask"
) -> Labels:
    """Open labels: a run folder, a COCO file (.json, .json.gz), or the folder of a COCO export.

    A run that people corrected gives the corrected labels.

    Args:
        source: The folder or file.
        images_root: Folder that the paths of a COCO file start from; None looks beside the file, and in images/ and
            data/ there. A run knows its own.
        only: "all", or "accepted" for the images of a run that a person accepted.
        boxes: Whose boxes objects of a run with masks have, where no person touched them.

    Raises:
        UserError: There is no such thing, it is damaged, a run was given a folder of images, a COCO file is asked for
            other boxes than its own, or nobody reviewed what only accepted images are asked of.
    """
    from pipeline.reviewed.labels import ReviewedLabels  # it needs this package's types
    from pipeline.reviewed.layer import has_layer

    path = Path(source)
    coco = path.is_file() or (path.is_dir() and not is_run(path) and bool(find_annotations(path)))
    if only != "all" and (coco or not has_layer(path)):
        raise UserError(
            f"--only {only}: {path} is no run that was reviewed; `groundlabel review` keeps what is accepted"
        )
    if coco:
        refuse_boxes_without_run(path, boxes)
        return CocoLabels.open(path, images_root)
    run = Run.open(path)
    if images_root is not None:
        raise UserError(f"{path} is a run, which knows where its images are; leave --images-root out")
    return ReviewedLabels(run, only, boxes) if has_layer(path) or boxes != "mask" else run
