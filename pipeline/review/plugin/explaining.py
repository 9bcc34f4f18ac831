"""Why a box is there: what found it, with which scores, and what it took away; told again by the run's own models."""

from functools import lru_cache
from typing import Any

import numpy as np

from models.boxes import pairwise_iou
from models.class_spec import normalise_prompt
from pipeline.errors import UserError
from pipeline.explain import ExplainedBox, Explanation, explain
from pipeline.filters import REASONS
from pipeline.paths import stored_to_path
from pipeline.review.documents import document_key, rel_to_box
from pipeline.review.plugin import loaded
from pipeline.review.plugin.edits import Document
from pipeline.review.plugin.targets import image_hw_of
from pipeline.review.schema import FOUND_BY
from pipeline.reviewed.layer import ReviewedLayer
from pipeline.store.run import Run

_SAME = 0.9
_MOST_TOLD = 12


def explain_label(run: Run, sample: Document, label: Document) -> str:
    """Return a short text in Markdown: prompt, scores, detector, what the box beat, and what people did to it.

    The image is labelled once more with the run's models, as a run keeps no box that its filters took.

    Args:
        run: The run.
        sample: As MongoDB has it.
        label: One of its labels.

    Raises:
        UserError: The image or the models of the run are gone, or are others by now.
    """
    lines = [f"### {label.get('label')} in {sample['path']}", ""]
    lines += _own_words(label)
    lines += _history(run, sample, label)
    if label.get("confidence") is None:
        return "\n".join([*lines, "", "A person drew it: no model has a word on it."])
    if label.get(FOUND_BY):
        return "\n".join([*lines, "", f"The App asked for it: {label[FOUND_BY]}. The run itself does not have it."])
    found = _explanation(str(run.folder), run.fingerprint, sample["path"])
    return "\n".join([*lines, "", *_told(found, label, image_hw_of(sample))])


@lru_cache(maxsize=64)
def _explanation(folder: str, fingerprint: str, path: str) -> Explanation:
    """Label an image again; the fingerprint is in the key so that a replaced run is not told from the old one."""
    return explain(folder, stored_to_path(path), loaded.stages_of)


def _own_words(label: Document) -> list[str]:
    rows = [("prompt", label.get("prompt"))]
    rows += [(name, _number(label.get(key))) for name, key in (("score", "confidence"), ("mask score", "mask_score"))]
    rows.append(("doubt", _number(label.get("doubt"))))
    rows.append(("tags", ", ".join(label.get("tags") or ()) or None))
    return ["| | |", "| --- | --- |", *(f"| {name} | {value} |" for name, value in rows if value is not None)]


def _number(value: Any) -> str | None:
    return None if value is None else f"{float(value):.2f}"


def _history(run: Run, sample: Document, label: Document) -> list[str]:
    state = ReviewedLayer(run.folder).images.get(sample["image_id"])
    known = {found.object_id: found for found in (state.objects or () if state is not None else ())}
    found = known.get(document_key(label))
    if found is None or found.origin == "model":
        return []
    who = "A person drew it." if found.origin == "human" else "A model made it and a person corrected it."
    return ["", who]


def _told(found: Explanation, label: Document, image_hw: tuple[int, int]) -> list[str]:
    row = _match(found, label, image_hw)
    config = found.config
    tiles = f", in {found.tiles} tiles" if found.tiles else ""
    lines = [
        f"Detector `{config.detector}`, segmenter `{config.segmenter}`{tiles}; box threshold {config.box_threshold:g}."
    ]
    if row is None:
        return [*lines, "", "The run's models do not find this box again: it was moved, or the run is of another time."]
    box = found.boxes[row]
    x1, y1, x2, y2 = box.box_xyxy
    lines += [
        "",
        f"The detector's box: {x1:.0f}, {y1:.0f} to {x2:.0f}, {y2:.0f}; asked for “{box.prompt}”, {box.score:.3f}.",
    ]
    beaten = [other for other in found.boxes if other.rival == row]
    if not beaten:
        return [*lines, "", "It took no other box away."]
    lines += [
        "",
        f"It took {len(beaten)} away:",
        "",
        "| class | prompt | score | overlap | why |",
        "| --- | --- | --- | --- | --- |",
    ]
    lines += [_beaten_line(box, other) for other in beaten[:_MOST_TOLD]]
    rest = len(beaten) - _MOST_TOLD
    return [*lines, *([f"| … | and {rest} more | | | |"] if rest > 0 else [])]


def _beaten_line(box: ExplainedBox, other: ExplainedBox) -> str:
    overlap = pairwise_iou(np.array([box.box_xyxy], np.float32), np.array([other.box_xyxy], np.float32))[0, 0]
    return f"| {other.class_name} | {other.prompt} | {other.score:.3f} | {overlap:.2f} | {REASONS[other.reason]} |"


def _match(found: Explanation, label: Document, image_hw: tuple[int, int]) -> int | None:
    """Return the row of a label's box: of its class where the label still has that of the run, nearest by overlap."""
    rows = [row for row, box in enumerate(found.boxes) if not box.reason]
    if not rows:
        return None
    box = label.get("detector_box") or rel_to_box(label["bounding_box"], image_hw)
    overlaps = pairwise_iou(
        np.array([found.boxes[row].box_xyxy for row in rows], np.float32), np.array([box], np.float32)
    )
    own = [
        normalise_prompt(found.boxes[row].prompt)
        == normalise_prompt(str(label.get("prompt") or found.boxes[row].prompt))
        for row in rows
    ]
    ranked = np.where(own, overlaps[:, 0], 0.0)
    best = int(ranked.argmax())
    return rows[best] if ranked[best] >= _SAME else None


def explain_one(run: Run, labels: list[tuple[Document, str, Document]]) -> str:
    """Explain the only label of a selection.

    Raises:
        UserError: There is none or more than one, or as `explain_label`.
    """
    if len(labels) != 1:
        raise UserError(f"select one label, not {len(labels)}: click an object in an open image, or one patch")
    sample, _, label = labels[0]
    return explain_label(run, sample, label)
