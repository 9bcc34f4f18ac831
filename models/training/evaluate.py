"""Average precision of a detector on images with a known truth, by pycocotools."""

import contextlib
import io
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torchvision.ops import batched_nms

from models.boxes import FloatArray, xyxy_to_xywh
from models.detections import Detections
from models.grounding_dino.detector import DetectorSettings, GroundingDinoDetector
from models.masks import Rle
from models.ontology import Ontology
from models.training.augment import Labelled

NMS_IOU = 0.7
MOST_DETECTIONS = 100
EVALUATION = DetectorSettings(box_threshold=0.02, text_threshold=0.0)
"""Thresholds low enough for a whole precision-recall curve."""

MakeDetector = Callable[[Ontology], GroundingDinoDetector]


@dataclass(frozen=True)
class Precision:
    """COCO's figures for one set: AP at IoU .5 and over .5 to .95, and both by class (NaN without objects)."""

    ap50: float
    ap: float
    by_class: dict[str, float]
    by_class_50: dict[str, float]


def suppress(detections: Detections, iou: float = NMS_IOU) -> Detections:
    """Apply non-maximum suppression within each class and keep the best hundred."""
    if len(detections) == 0:
        return detections
    boxes = torch.from_numpy(detections.boxes_xyxy)
    kept = batched_nms(boxes, torch.from_numpy(detections.scores), torch.from_numpy(detections.class_ids), iou)
    return detections[kept[:MOST_DETECTIONS].numpy()]


def average_precision(
    truth: Sequence[tuple[tuple[int, int], np.ndarray, Sequence[str]]],
    found: Sequence[tuple[Detections, Sequence[str]]],
    names: Sequence[str],
    masks: tuple[Sequence[Sequence[Rle]], Sequence[Sequence[Rle]]] | None = None,
) -> Precision:
    """Return COCOeval's AP of boxes, or of masks where they are given.

    Args:
        truth: An image each: (height, width), (N, 4) corner boxes in pixels, N names of `names`.
        found: An image each: detections and the name of each.
        names: All classes.
        masks: For an image each: the masks of the truth's objects, and those of the detections.

    Returns:
        The figures; NaN where the truth has no object.
    """
    ids = {name: index for index, name in enumerate(names, start=1)}
    annotations: list[dict[str, Any]] = []
    for image_id, (_, boxes, labels) in enumerate(truth, start=1):
        for row, (box, name) in enumerate(zip(xyxy_to_xywh(boxes).tolist(), labels, strict=True)):
            annotation = {
                "id": len(annotations) + 1,
                "image_id": image_id,
                "category_id": ids[name],
                "bbox": box,
                "area": box[2] * box[3],
                "iscrowd": 0,
            }
            annotations.append(annotation | _segmentation(masks and masks[0], image_id, row))
    results = []
    for image_id, (detections, labels) in enumerate(found, start=1):
        boxes = xyxy_to_xywh(detections.boxes_xyxy).tolist()
        for row, (box, score, name) in enumerate(zip(boxes, detections.scores, labels, strict=True)):
            result = {"image_id": image_id, "category_id": ids[name], "score": float(score)}
            results.append(result | (_segmentation(masks[1], image_id, row) if masks else {"bbox": box}))
    if not annotations or not results:
        empty = float("nan") if not annotations else 0.0
        return Precision(empty, empty, dict.fromkeys(names, empty), dict.fromkeys(names, empty))
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = {
            "images": [{"id": i, "height": hw[0], "width": hw[1]} for i, (hw, _, _) in enumerate(truth, start=1)],
            "annotations": annotations,
            "categories": [{"id": index, "name": name} for name, index in ids.items()],
        }
        coco.createIndex()
        run = COCOeval(coco, coco.loadRes(results), "segm" if masks else "bbox")
        run.evaluate()
        run.accumulate()
        run.summarize()
    precision = run.eval["precision"][:, :, :, 0, 2]
    by_class = {name: _mean(precision[:, :, index]) for index, name in enumerate(names)}
    by_class_50 = {name: _mean(precision[0, :, index]) for index, name in enumerate(names)}
    return Precision(float(run.stats[1]), float(run.stats[0]), by_class, by_class_50)


def _mean(precision: FloatArray) -> float:
    """Return the mean of what COCOeval filled in (it leaves -1 elsewhere), NaN where it filled in nothing."""
    filled = precision[precision > -1]
    return float(filled.mean()) if filled.size else float("nan")


def _segmentation(masks: Sequence[Sequence[Rle]] | None, image_id: int, row: int) -> dict[str, Any]:
    """Return COCO's `segmentation` entry of a row, or nothing without masks."""
    return {"segmentation": masks[image_id - 1][row].to_coco()} if masks else {}


def evaluate_detector(
    make: MakeDetector,
    images: Iterable[Labelled],
    names: Sequence[str],
    ask: Callable[[Labelled], Sequence[str]] | None = None,
) -> Precision:
    """Detect in images and return the AP.

    Args:
        make: Makes a detector for an ontology.
        images: Images with their truth.
        names: All classes.
        ask: Names to ask an image for; None asks each for all names.
    """
    everything = list(names)
    for_all = make(Ontology.from_names(everything)) if ask is None else None
    truth, found = [], []
    for labelled in images:
        asked = everything if ask is None else list(ask(labelled))
        detector = for_all if for_all is not None else make(Ontology.from_names(asked))
        detections = suppress(detector([labelled.image])[0])
        truth.append((labelled.image_hw, labelled.boxes_xyxy, labelled.names))
        found.append((detections, [asked[class_id - 1] for class_id in detections.class_ids]))
    return average_precision(truth, found, names)
