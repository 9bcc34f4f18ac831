"""A run's labels with the corrections of its reviewed layer applied: what exports read where there is such a layer."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from models.class_spec import ClassSpec, normalise_prompt
from models.ontology import Ontology
from pipeline.box_source import BoxSource
from pipeline.errors import UserError
from pipeline.export.objects import LabelRecord, annotated_to_export
from pipeline.records import FailedImage
from pipeline.reviewed.changes import ReviewedImage
from pipeline.reviewed.convert import reviewed_to_export
from pipeline.reviewed.layer import ReviewedLayer
from pipeline.store.run import Run

ONLY = ("all", "accepted")
"""Which images of a reviewed run are read: all, or those that a person accepted."""


class ReviewedLabels:
    """A run with its corrections; images that nobody touched are the run's rows, or those with other boxes.

    Args:
        run: The run, opened.
        only: One of `ONLY`.
        boxes: Whose boxes objects with masks have, where no person touched them.

    Attributes:
        ontology: The run's classes, with those behind them that only a person used.
        fingerprint: The run's.
        settings: The run's.

    Raises:
        UserError: `only` is unknown, or a file of the layer cannot be read.
    """

    def __init__(self, run: Run, only: str = "all", boxes: BoxSource = "mask") -> None:
        if only not in ONLY:
            raise UserError(f"--only {only}: must be one of {', '.join(ONLY)}")
        self._run, self._only, self._boxes = run, only, boxes
        self._images = ReviewedLayer(run.folder).images
        self.folder: Path = run.folder
        self.ontology = reviewed_ontology(run.ontology, self._images.values())
        self.fingerprint = run.fingerprint
        self.settings: dict[str, Any] = run.settings

    def records(self) -> Iterator[LabelRecord]:
        """Yield the run's images in the order of their paths; those that a person deleted are left out."""
        for record in self._run.records():
            state = self._images.get(record.image_id)
            if state is not None and state.deleted:
                continue
            if self._only == "accepted" and not (state is not None and state.is_accepted):
                continue
            if isinstance(record, FailedImage):
                yield record
            elif state is not None and state.objects is not None:
                yield reviewed_to_export(state, self.ontology, self._boxes)
            else:
                yield record if self._boxes == "mask" else annotated_to_export(record, self._boxes)

    def image_path(self, record: Any) -> Path:
        """Return the absolute path of a record's image."""
        return self._run.image_path(record)


def reviewed_records(run: Run | str | Path, only: str = "all") -> Iterator[LabelRecord]:
    """Yield a run's records with the corrections of its reviewed layer applied.

    Args:
        run: A run or its folder.
        only: "all", or "accepted": only images that a person accepted.

    Raises:
        UserError: There is no such run, or a file of its layer cannot be read.
    """
    return ReviewedLabels(run if isinstance(run, Run) else Run.open(run), only).records()


def reviewed_ontology(ontology: Ontology, images: Iterable[ReviewedImage]) -> Ontology:
    """Return the classes of a run and behind them, by name, those that only reviewed objects have."""
    names = {" ".join(found.class_name.split()) for image in images for found in image.objects or ()}
    known = {normalise_prompt(spec.name) for spec in ontology.classes}
    taken = {prompt.text for prompt in ontology.prompts}
    specs = list(ontology.classes)
    for name in sorted(names):
        if normalise_prompt(name) in known:
            continue
        prompt = normalise_prompt(name.replace(".", " ").replace("?", " "))
        prompt = prompt if prompt and prompt not in taken else f"class {len(specs) + 1}"
        known.add(normalise_prompt(name))
        taken.add(prompt)
        specs.append(ClassSpec(len(specs) + 1, name, (prompt,)))
    return Ontology(tuple(specs), ontology.negatives) if len(specs) > len(ontology.classes) else ontology
