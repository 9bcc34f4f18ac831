"""Label images with prompts that were typed in the App, by the run's own way from image to objects."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from models.ontology import Ontology
from pipeline.config import AnnotateConfig
from pipeline.errors import UserError
from pipeline.review.plugin import loaded
from pipeline.review.plugin.edits import Edit, apply_edits
from pipeline.review.plugin.proposing import find_boxes, propose, to_objects
from pipeline.review.plugin.targets import stored_samples
from pipeline.reviewed.layer import ReviewedLayer
from pipeline.store.run import Run


@dataclass(frozen=True)
class Labelled:
    """What a labelling brought.

    Attributes:
        images: Images that were looked at.
        found: Objects that the models found.
        proposed: Those that no label or proposal covers: they are proposals now.
        unreadable: Images that could not be read.
    """

    images: int
    found: int
    proposed: int
    unreadable: int


def parse_prompts(text: str) -> Ontology:
    """Return the classes of a text such as "red circle, blue star".

    Raises:
        UserError: There is no prompt in it, or one that cannot be asked.
    """
    if not text.strip():
        raise UserError('prompts: type what to look for, separated by commas, such as "red circle, blue star"')
    try:
        return Ontology.from_names(text)
    except ValueError as error:
        raise UserError(f"prompts: {error}") from error


def label_samples(
    dataset: Any, run: Run, sample_ids: Sequence[str], ontology: Ontology, config: AnnotateConfig
) -> Iterator[int | Labelled]:
    """Label images and put what they do not have yet into their proposals; one step that can be taken back.

    Args:
        dataset: A FiftyOne dataset of the run.
        run: The run.
        sample_ids: Which images; N may be 0.
        ontology: Classes and prompts.
        config: Models, thresholds and filters; those of the run (`config_of`), or others.

    Yields:
        How many images are done, after each, and at the end what it brought.

    Raises:
        UserError: A model, prompt or option does not fit, or weights are not here.
    """
    stages = loaded.stages_of(config, ontology)
    states = ReviewedLayer(run.folder).images
    asked = ", ".join(prompt.text for prompt in ontology.prompts)
    edits: list[Edit] = []
    images = found = unreadable = 0
    for sample in stored_samples(dataset, sample_ids):
        pixels = loaded.read_pixels(sample["filepath"], config)
        if pixels is None:
            unreadable += 1
        else:
            objects = to_objects(sample, stages.segment(pixels, find_boxes(stages, pixels)).instances, ontology)
            found += len(objects)
            edits += propose(sample, objects, states.get(sample["image_id"]), f"asked for {asked}")
        images += 1
        yield images
    apply_edits(dataset, f"Label {images} images with {asked}", edits)
    yield Labelled(images, found, len(edits), unreadable)
