"""Labelling the same images with several ontologies and one model."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from models.ontology import Ontology
from pipeline.build import build_annotators
from pipeline.config import AnnotateConfig
from pipeline.errors import UserError
from pipeline.paths import stored_to_path
from pipeline.records import AnnotatedImage, Record
from pipeline.sources import ImageRef


@dataclass
class Arm:
    """One ontology with what it found; satisfies `pipeline.export.labels.Labels`.

    Attributes:
        name: What tells it from the others: the text that `--classes` was given.
        ontology: Its classes and prompts.
        root: Folder that the images' paths start from.
        rows: A record an image, in the order of the sample.
        seconds: That detector and segmenter took.
    """

    name: str
    ontology: Ontology
    root: Path
    rows: list[Record] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def folder(self) -> Path:
        """The name, as messages show it."""
        return Path(self.name)

    @property
    def fingerprint(self) -> str:
        """Nothing: what is tried is not kept."""
        return ""

    @property
    def settings(self) -> dict[str, Any]:
        """Nothing, likewise."""
        return {}

    def records(self) -> Iterator[Record]:
        """Yield all images."""
        return iter(self.rows)

    def image_path(self, record: Any) -> Path:
        """Return where an image is."""
        return self.root / stored_to_path(record.path)

    def images(self) -> dict[str, AnnotatedImage]:
        """Return the labelled images by id, without those that failed."""
        return {row.image_id: row for row in self.rows if isinstance(row, AnnotatedImage)}


def run_arms(
    config: AnnotateConfig,
    names: Sequence[str],
    ontologies: Sequence[Ontology],
    refs: Sequence[ImageRef],
    root: Path,
    progress: Callable[[int, int], None],
) -> list[Arm]:
    """Label images with each ontology, in one process and with one loaded model.

    The ontologies take turns batch by batch, and another one begins each time, so that their seconds can be compared.

    Args:
        config: Models and options.
        names: One an ontology.
        ontologies: At least one.
        refs: The images; may be empty.
        root: Folder that their paths start from.
        progress: Called with the number of images that are done, and of all.

    Raises:
        UserError: A model, prompt or option does not fit, or the models fail on every image.
    """
    try:
        annotators = build_annotators(config, ontologies)
    except (ValueError, OSError) as error:
        raise UserError(str(error)) from error
    arms = [Arm(name, ontology, root) for name, ontology in zip(names, ontologies, strict=True)]
    try:
        for number, start in enumerate(range(0, len(refs), config.images_at_once)):
            batch = refs[start : start + config.images_at_once]
            for turn in range(len(arms)):
                place = (number + turn) % len(arms)
                done = annotators[place](batch, str(root))
                arms[place].rows += done.records
                arms[place].seconds += sum(one.seconds_detect + one.seconds_segment for one in done.timings)
            progress(min(start + config.images_at_once, len(refs)), len(refs))
    finally:
        for annotator in annotators:
            annotator.close()
    return arms
