"""How far a review is: images done, how often people left a model's label as it was, and the time that is left."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from typing import Any

from pipeline.reviewed.changes import ACCEPTED_TAG, ReviewedImage
from pipeline.reviewed.layer import ReviewedLayer
from pipeline.store.run import Run

_LONGEST_PAUSE = 300.0
"""Seconds between two images after which a person had been away."""
_FEWEST_TIMED = 5


@dataclass(frozen=True)
class ClassAgreement:
    """What people did to a model's labels of one class, in the images that are done.

    Attributes:
        name: The class, as it is now.
        left: Labels that stand as they were.
        wrong: Labels that were deleted or rejected.
        corrected: Labels whose class, box or mask was corrected.
        added: Objects of this class that a person drew.
    """

    name: str
    left: int
    wrong: int
    corrected: int
    added: int

    @property
    def agreement(self) -> float | None:
        """Share of the model's labels that stand as they were; None where there is none."""
        total = self.left + self.wrong + self.corrected
        return self.left / total if total else None


@dataclass(frozen=True)
class ReviewProgress:
    """How far a review is.

    Attributes:
        images: Images of the dataset that are not failed.
        accepted: Those tagged `accepted`.
        touched: Others in which a label was changed.
        seconds_an_image: Mean time between two images, without pauses; None while too few are done.
        classes: By name.
    """

    images: int
    accepted: int
    touched: int
    seconds_an_image: float | None
    classes: tuple[ClassAgreement, ...]

    @property
    def seconds_left(self) -> float | None:
        """Time for the images that are not accepted; None while it is not known."""
        return None if self.seconds_an_image is None else self.seconds_an_image * (self.images - self.accepted)


def review_progress(dataset: Any, run: Run) -> ReviewProgress:
    """Say how far the review of a run is; the last minute's corrections may not be in the classes yet.

    Args:
        dataset: Its FiftyOne dataset.
        run: The run.

    Raises:
        UserError: A file of the reviewed layer cannot be read.
    """
    states = ReviewedLayer(run.folder).images
    keys = {"tags": 1, "last_modified_at": 1, "image_id": 1, "metadata": 1}
    images = 0
    accepted: dict[str, datetime] = {}
    for sample in dataset._sample_collection.find({"image_id": {"$ne": None}}, keys):
        if not sample.get("metadata"):
            continue
        images += 1
        if ACCEPTED_TAG in (sample.get("tags") or ()):
            accepted[sample["image_id"]] = sample["last_modified_at"]
    done = [state for key, state in states.items() if key in accepted or state.is_accepted]
    touched = sum(state.objects is not None and key not in accepted for key, state in states.items())
    return ReviewProgress(images, len(accepted), touched, _pace(accepted.values()), _agreement(done))


def _pace(times: Iterable[datetime]) -> float | None:
    """Return the mean seconds between two images, without pauses."""
    ordered = sorted(times)
    gaps = [(later - earlier).total_seconds() for earlier, later in pairwise(ordered)]
    worked = [gap for gap in gaps if gap <= _LONGEST_PAUSE]
    return sum(worked) / len(worked) if len(worked) >= _FEWEST_TIMED - 1 else None


def _agreement(done: Iterable[ReviewedImage]) -> tuple[ClassAgreement, ...]:
    counts: dict[str, Counter[str]] = {}
    for state in done:
        for found in state.removed:
            if found.score is not None:
                counts.setdefault(found.class_name, Counter())["wrong"] += 1
        for found in state.objects or ():
            if found.origin == "human":
                kind = "added"
            elif found.is_rejected:
                kind = "wrong"
            else:
                kind = "left" if found.origin == "model" else "corrected"
            counts.setdefault(found.class_name, Counter())[kind] += 1
    return tuple(
        ClassAgreement(name, *(found[kind] for kind in ("left", "wrong", "corrected", "added")))
        for name, found in sorted(counts.items())
    )


def describe_progress(progress: ReviewProgress) -> str:
    """Return it as Markdown."""
    share = progress.accepted / progress.images if progress.images else 0.0
    left = progress.seconds_left
    lines = [
        f"**{progress.accepted} of {progress.images} images accepted** ({share:.0%}), "
        f"{progress.touched} more with corrections.",
        "",
        "Time left: not known before five images are accepted."
        if left is None
        else f"Time left: about {_describe_seconds(left)}, at {progress.seconds_an_image:.0f} s an image.",
    ]
    if progress.classes:
        lines += [
            "",
            "| class | model right | left as is | wrong | corrected | drawn |",
            "| --- | --- | --- | --- | --- | --- |",
        ]
        lines += [_class_line(found) for found in progress.classes]
    return "\n".join(lines)


def _class_line(found: ClassAgreement) -> str:
    share = "–" if found.agreement is None else f"{found.agreement:.0%}"
    return f"| {found.name} | {share} | {found.left} | {found.wrong} | {found.corrected} | {found.added} |"


def _describe_seconds(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
