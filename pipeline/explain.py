"""Why a box is missing: one image of a run, labelled again with each box and the reason that it went."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.compute as pc

from models.detections import Detections
from models.interfaces import Image
from models.ontology import Ontology
from pipeline.build import build_annotator
from pipeline.config import AnnotateConfig
from pipeline.drops import NEGATIVE
from pipeline.errors import UserError
from pipeline.images import UnreadableImageError, read_image
from pipeline.paths import path_to_image_id, path_to_stored, stored_to_path
from pipeline.run import make_parts
from pipeline.run_options import config_of
from pipeline.sources import ImageRef
from pipeline.stages import Segmented, Stages
from pipeline.store.fingerprint import describe_differences
from pipeline.store.run import Run
from pipeline.store.shards import read_shard

_MOST_NAMED = 5


@dataclass(frozen=True)
class ExplainedBox:
    """One box and what became of it.

    Attributes:
        class_name: Its class.
        prompt: What found it.
        score: The detector's.
        mask_score: The segmenter's; None where it drew no mask.
        box_xyxy: Pixels, inside the image.
        reason: A key of `pipeline.filters.REASONS`, or "" where it stays.
        rival: Place of the box that took it away, or that it is part of, in the list; None where no box did.
    """

    class_name: str
    prompt: str
    score: float
    mask_score: float | None
    box_xyxy: tuple[float, float, float, float]
    reason: str
    rival: int | None


@dataclass(frozen=True)
class Explanation:
    """All boxes of an image.

    Attributes:
        path: Stored path of the image.
        image_hw: (height, width) in pixels.
        tiles: In how many tiles it was looked at, the whole image among them; 0 where it was only looked at whole.
        boxes: What the filters saw, highest score first, then boxes of tiles that became part of one of those.
        kept: How many stay.
        recorded: How many objects the run has of this image; None where it has it as failed.
        config: What the run was made with.
    """

    path: str
    image_hw: tuple[int, int]
    tiles: int
    boxes: tuple[ExplainedBox, ...]
    kept: int
    recorded: int | None
    config: AnnotateConfig


def explain(
    folder: str | Path, image: str, load: Callable[[AnnotateConfig, Ontology], Stages] | None = None
) -> Explanation:
    """Label one image of a run again and say what became of each box that the detector found.

    Args:
        folder: The run.
        image: Path of the image below the run's image folder, or the end of one, or a path to the file.
        load: Loads the models, where somebody keeps them for several images; None loads them for this one.

    Raises:
        UserError: There is no such run or image, the image or the models are gone or cannot be read, or the models
            are not those that the run was made with.
    """
    run = Run.open(folder)
    ref, recorded = _find(run, image)
    config = config_of(run)
    check_same_models(run, config)
    path = ref.locate(str(run.images_root))
    if not os.path.exists(path):
        raise UserError(f"{path}: the image is gone; put it back where it was when the run was made")
    try:
        pixels = read_image(path, config.pixels)
    except UnreadableImageError as error:
        raise UserError(f"{path}: {error}") from error
    try:
        stages = (load or load_stages)(config, run.ontology)
    except (ValueError, OSError) as error:
        raise UserError(str(error)) from error
    boxes, tiles = _explain(stages, pixels, run.ontology)
    kept = sum(not box.reason for box in boxes)
    return Explanation(ref.path, (pixels.shape[0], pixels.shape[1]), tiles, boxes, kept, recorded, config)


def check_same_models(run: Run, config: AnnotateConfig) -> None:
    """Refuse to go on with other models than a run was made with.

    Raises:
        UserError: The models of the run are gone, or are others by now.
    """
    _, parts = make_parts(config, run.ontology)
    if lines := describe_differences(run.settings["parts"], parts):
        listed = "\n  ".join(lines)
        raise UserError(
            f"{run.folder}: its labels were made in another way than this machine would make them now:\n  {listed}\n"
            "Put the models of the run back, or annotate again into another folder"
        )


def load_stages(config: AnnotateConfig, ontology: Ontology) -> Stages:
    """Load the models of a config, for images that are decoded elsewhere.

    Raises:
        ValueError: A model, prompt or option does not fit.
        FileNotFoundError: Weights are not on this machine.
    """
    annotator = build_annotator(config, ontology)
    annotator.close()
    return annotator.stages


def _find(run: Run, image: str) -> tuple[ImageRef, int | None]:
    """Return an image of the run, and how many objects the run has of it; None where it is a failed one."""
    below = os.path.relpath(os.path.realpath(image), os.path.realpath(run.images_root))
    exact = {path_to_stored(image), path_to_stored(below)}
    ends: list[tuple[str, int | None]] = []
    for entry in run.entries:
        table = read_shard(run.folder, entry.shard)
        counts = pc.list_value_length(table.column("objects")).to_pylist()
        paths, statuses = (table.column(name).to_pylist() for name in ("path", "status"))
        for path, status, count in zip(paths, statuses, counts, strict=True):
            recorded = count if status == "ok" else None
            if path in exact:
                return _ref(path), recorded
            if path.endswith(f"/{path_to_stored(image)}"):
                ends.append((path, recorded))
    if len(ends) == 1:
        return _ref(ends[0][0]), ends[0][1]
    if ends:
        named = ", ".join(path for path, _ in ends[:_MOST_NAMED])
        raise UserError(f"--image {image}: {len(ends)} images of the run end so ({named}); give more of the path")
    raise UserError(
        f"--image {image}: the run {run.folder} has no such image; give its path below {run.images_root}, "
        "as in the column path of the labels"
    )


def _ref(stored: str) -> ImageRef:
    return ImageRef(path_to_image_id(stored_to_path(stored)), stored)


def _explain(stages: Stages, pixels: Image, ontology: Ontology) -> tuple[tuple[ExplainedBox, ...], int]:
    windows = stages.windows((pixels.shape[0], pixels.shape[1]))
    if not windows:
        segmented = stages.segment(pixels, stages.detect([pixels])[0])
        return tuple(_explain_boxes(segmented, ontology)), 0
    merged = stages.detect_in_tiles(pixels, windows, lambda images: None)
    segmented = stages.segment(pixels, merged.objects)
    boxes = _explain_boxes(segmented, ontology)
    strongest: set[int] = set()
    for row in np.argsort(-merged.boxes.scores, kind="stable"):
        owner = int(merged.owners[row])
        if owner in strongest:
            boxes.append(_describe(merged.boxes, int(row), ontology, None, "merged", owner))
        strongest.add(owner)
    return tuple(boxes), len(windows)


def _explain_boxes(segmented: Segmented, ontology: Ontology) -> list[ExplainedBox]:
    """Describe the boxes that the filters saw, in their order."""
    found, verdicts = segmented.boxes, segmented.verdicts
    drawn = {int(row): place for place, row in enumerate(np.flatnonzero(verdicts.stays))}
    boxes = []
    for row, reason in enumerate(verdicts.reasons):
        rival, mask_score = int(verdicts.rivals[row]), None
        if row in drawn:
            reason = segmented.mask_verdicts.reasons[drawn[row]]
            if not segmented.drawn.masks[drawn[row]].is_absent:
                mask_score = float(segmented.drawn.mask_scores[drawn[row]])
        boxes.append(_describe(found, row, ontology, mask_score, reason, rival if rival >= 0 else None))
    return boxes


def _describe(
    found: Detections, row: int, ontology: Ontology, mask_score: float | None, reason: str, rival: int | None
) -> ExplainedBox:
    class_id = int(found.class_ids[row])
    x1, y1, x2, y2 = (float(side) for side in found.boxes_xyxy[row])
    return ExplainedBox(
        ontology.name_of(class_id) if class_id else NEGATIVE,
        ontology.prompts[int(found.prompt_ids[row])].text,
        float(found.scores[row]),
        mask_score,
        (x1, y1, x2, y2),
        reason,
        rival,
    )
