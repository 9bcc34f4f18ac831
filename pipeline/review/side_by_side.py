"""Several ontologies' labels of the same images side by side in the App: a dataset with a field for each."""

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pipeline.errors import UserError
from pipeline.records import AnnotatedImage
from pipeline.review.documents import object_to_document
from pipeline.review.schema import dataset_name
from pipeline.reviewed.convert import record_to_objects
from pipeline.trial.trial import Trial

_INFO_KEY = "groundlabel"


@contextlib.contextmanager
def trial_dataset(trial: Trial, output: Path) -> Iterator[Any]:
    """Have a FiftyOne dataset of a trial for as long as the block runs; one that was left behind is replaced.

    Each image has the labels of every ontology in a field of its own, and in `disputed` how many of them only one side
    of a pair of ontologies has. The images that are disputed most come first.

    Args:
        trial: What was tried; FiftyOne must be connected.
        output: The trial's folder, from which the dataset has its name.

    Yields:
        The dataset.

    Raises:
        UserError: A dataset of this name is there and of no trial.
    """
    import fiftyone as fo

    name = f"try-{dataset_name(output)}"
    if fo.dataset_exists(name):
        if "trial" not in (fo.load_dataset(name).info.get(_INFO_KEY) or {}):
            raise UserError(f"the dataset {name} is there and of no trial; name another --output")
        fo.delete_dataset(name)
    dataset = fo.Dataset(name, persistent=True)
    try:
        dataset.info = {_INFO_KEY: {"trial": str(output)}}
        dataset.save()
        _fill(dataset, trial)
        yield dataset
    finally:
        dataset.delete()


def field_names(trial: Trial) -> list[str]:
    """Return a field for each ontology: its number, and what a name may have of the text that `--classes` was given."""
    plain = (re.sub(r"\W+", "_", Path(arm.name).stem.lower()).strip("_")[:30] for arm in trial.arms)
    return [f"ontology_{place}_{text}".rstrip("_") for place, text in enumerate(plain, start=1)]


def _fill(dataset: Any, trial: Trial) -> None:
    import fiftyone as fo

    fields = field_names(trial)
    for field, arm in zip(fields, trial.arms, strict=True):
        dataset.add_sample_field(field, fo.EmbeddedDocumentField, embedded_doc_type=fo.Detections, description=arm.name)
    disputed = trial.disputed()
    rows = sorted(zip(*(arm.rows for arm in trial.arms), strict=True), key=lambda row: -disputed[row[0].image_id])
    samples = []
    for row in rows:
        labels = {field: _detections(record) for field, record in zip(fields, row, strict=True)}
        place = trial.arms[0].image_path(row[0]).absolute()
        samples.append(fo.Sample(str(place), path=row[0].path, disputed=disputed[row[0].image_id], **labels))
    dataset.add_samples(samples, progress=False)


def _detections(record: Any) -> Any:
    """Return a record's objects as FiftyOne has them; None for an image that failed."""
    import fiftyone as fo
    from bson import ObjectId

    if not isinstance(record, AnnotatedImage):
        return None
    documents = [object_to_document(found, record.image_hw, None, ObjectId()) for found in record_to_objects(record)]
    return fo.Detections(detections=[fo.Detection.from_dict(document) for document in documents])
