"""Average precision and recall as pycocotools' COCOeval has them, with the matches that they come from."""

import contextlib
import io
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from models.masks import mask_areas
from pipeline.proof.boundary import rim_of_rle
from pipeline.proof.label_set import Kind, Objects
from pipeline.proof.pairing import Pair, masks_of

KINDS: tuple[Kind, ...] = ("boxes", "masks", "boundaries")
MOST_LABELS = 100
"""Labels of a class in an image that are judged, highest scores first."""
_SIZES = ("", "small", "medium", "large")
_MOST = (1, 10, MOST_LABELS)


@dataclass(frozen=True, eq=False)
class Matches:
    """Which label was matched with which object; D labels were judged, T IoU thresholds.

    Attributes:
        thresholds: (T,) IoUs, .5 to .95.
        rows: (D,) rows of the pair's labels; image by image, highest score first within a class.
        truth_rows: (T, D) row of the object, or -1.
        ignored: (T, D) the label lies on a crowd: neither right nor wrong.
        positives: (images, classes) objects to be found.
    """

    thresholds: NDArray[np.float64]
    rows: NDArray[np.int64]
    truth_rows: NDArray[np.int64]
    ignored: NDArray[np.bool_]
    positives: NDArray[np.int64]


@dataclass(frozen=True)
class ClassScores:
    """Figures of one class, as COCO has them; NaN where it has no object to be found."""

    name: str
    objects: int
    labels: int
    figures: Mapping[str, float]


@dataclass(frozen=True, eq=False)
class Scores:
    """What COCOeval says of boxes, masks or boundaries.

    Attributes:
        kind: One of KINDS.
        figures: AP, AP50, AP75, AP_small …, AR1, AR10, AR100, AR_small …; NaN where there is no such object.
        by_class: In the order of the pair's names.
        recalls: (R,) recall levels.
        precision: (T, R, classes) precision at these; -1 for a class without objects.
        matches: Where the figures come from, over all sizes.
    """

    kind: Kind
    figures: Mapping[str, float]
    by_class: tuple[ClassScores, ...]
    recalls: NDArray[np.float64] = field(repr=False)
    precision: NDArray[np.float64] = field(repr=False)
    matches: Matches = field(repr=False)


class _BoundaryEval(COCOeval):  # type: ignore[misc]
    """COCOeval on the smaller of mask IoU and boundary IoU; pycocotools calls `computeIoU` by its names.

    Source: Cheng et al. 2021, "Boundary IoU", Boundary AP.
    """

    def computeIoU(self, imgId: int, catId: int) -> Any:
        ious = super().computeIoU(imgId, catId)
        if len(ious) == 0:
            return ious
        truth, labels = self._gts[imgId, catId], self._dts[imgId, catId]
        order = np.argsort([-label["score"] for label in labels], kind="mergesort")[: self.params.maxDets[-1]]
        rims = coco_mask.iou(
            [labels[row]["rim"] for row in order],
            [each["rim"] for each in truth],
            [int(each["iscrowd"]) for each in truth],
        )
        return np.minimum(ious, rims)


def coco_scores(pair: Pair, kind: Kind) -> Scores:
    """Judge labels as COCO does.

    Args:
        pair: The truth and the labels; all labels and objects have masks where the kind asks for them.
        kind: "boxes"; "masks"; or "boundaries", which takes the smaller of mask and boundary IoU.

    Source: pycocotools, COCOeval; the area of a label is its box's or its mask's, as `COCO.loadRes` has it.
    """
    truth, found = (_coco(pair, objects, kind) for objects in (pair.truth, pair.found))
    evaluation = (_BoundaryEval if kind == "boundaries" else COCOeval)(
        truth, found, "bbox" if kind == "boxes" else "segm"
    )
    evaluation.params.maxDets = list(_MOST)
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation.evaluate()
        evaluation.accumulate()
    precision, recall = evaluation.eval["precision"], evaluation.eval["recall"]
    by_class = []
    objects = np.bincount(pair.truth.class_rows[~pair.truth.crowd], minlength=len(pair.names))
    labels = np.bincount(pair.found.class_rows, minlength=len(pair.names))
    for row, name in enumerate(pair.names):
        one = slice(row, row + 1)
        figures = _figures(precision[:, :, one], recall[:, one])
        by_class.append(ClassScores(name, int(objects[row]), int(labels[row]), figures))
    return Scores(
        kind,
        _figures(precision, recall),
        tuple(by_class),
        np.asarray(evaluation.params.recThrs),
        precision[:, :, :, 0, -1],
        _matches(pair, evaluation),
    )


def _coco(pair: Pair, objects: Objects, kind: Kind) -> Any:
    """Return pycocotools' form of one side; an object's id is its row, from 1."""
    coco = COCO()
    areas = objects.areas
    if objects is pair.found:
        boxes = objects.boxes_xywh
        rows = np.arange(len(objects))
        areas = boxes[:, 2] * boxes[:, 3] if kind == "boxes" else mask_areas(masks_of(objects, rows)).astype(np.float64)
    annotations = []
    for row in range(len(objects)):
        annotation: dict[str, Any] = {
            "id": row + 1,
            "image_id": int(objects.image_rows[row]),
            "category_id": int(objects.class_rows[row]),
            "bbox": objects.boxes_xywh[row].tolist(),
            "area": float(areas[row]),
            "score": float(objects.scores[row]),
            "iscrowd": int(objects.crowd[row]),
        }
        if kind != "boxes":
            annotation |= _segmentation(pair, objects, row, kind)
        annotations.append(annotation)
    coco.dataset = {
        "images": [
            {"id": row, "height": image.image_hw[0], "width": image.image_hw[1]}
            for row, image in enumerate(pair.images)
        ],
        "categories": [{"id": row, "name": name} for row, name in enumerate(pair.names)],
        "annotations": annotations,
    }
    with contextlib.redirect_stdout(io.StringIO()):
        coco.createIndex()
    return coco


def _segmentation(pair: Pair, objects: Objects, row: int, kind: Kind) -> dict[str, Any]:
    mask = objects.masks[row]
    if mask is None:
        # A crowd that was given as a box only.
        height, width = pair.images[objects.image_rows[row]].image_hw
        encoded = coco_mask.frPyObjects([objects.boxes_xywh[row].tolist()], height, width)[0]
        return {"segmentation": encoded, "rim": encoded}
    rim = {"rim": rim_of_rle(mask).to_pycocotools()} if kind == "boundaries" else {}
    return {"segmentation": mask.to_pycocotools(), **rim}


def _figures(precision: NDArray[np.float64], recall: NDArray[np.float64]) -> dict[str, float]:
    """Return COCO's twelve figures.

    Args:
        precision: (T, R, classes, sizes, most labels).
        recall: (T, classes, sizes, most labels).
    """
    values = {"AP": precision[..., 0, -1], "AP50": precision[0, ..., 0, -1], "AP75": precision[5, ..., 0, -1]}
    values |= {f"AP_{size}": precision[..., row, -1] for row, size in enumerate(_SIZES) if size}
    values |= {f"AR{most}": recall[..., 0, row] for row, most in enumerate(_MOST)}
    values |= {f"AR_{size}": recall[..., row, -1] for row, size in enumerate(_SIZES) if size}
    return {
        name: float(known.mean()) if (known := part[part > -1]).size else float("nan") for name, part in values.items()
    }


def _matches(pair: Pair, evaluation: Any) -> Matches:
    """Collect the matches over all sizes from COCOeval's images."""
    images, classes, sizes = len(pair.images), len(pair.names), len(evaluation.params.areaRng)
    positives = np.zeros((images, classes), np.int64)
    counted = ~pair.truth.crowd
    np.add.at(positives, (pair.truth.image_rows[counted], pair.truth.class_rows[counted]), 1)
    rows: list[NDArray[np.int64]] = []
    truth_rows: list[NDArray[np.int64]] = []
    ignored: list[NDArray[np.bool_]] = []
    for class_row in range(classes):
        start = class_row * sizes * images
        for one in evaluation.evalImgs[start : start + images]:
            if one is not None and one["dtIds"]:
                rows.append(np.array(one["dtIds"], np.int64) - 1)
                truth_rows.append(np.asarray(one["dtMatches"]).astype(np.int64) - 1)
                ignored.append(np.asarray(one["dtIgnore"]).astype(np.bool_))
    thresholds = np.asarray(evaluation.params.iouThrs)
    count = len(thresholds)
    return Matches(
        thresholds,
        np.concatenate([np.zeros(0, np.int64), *rows]),
        np.concatenate([np.zeros((count, 0), np.int64), *truth_rows], axis=1),
        np.concatenate([np.zeros((count, 0), np.bool_), *ignored], axis=1),
        positives,
    )
