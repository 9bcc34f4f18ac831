"""How well a segmenter does with true boxes: mean IoU on scenes and on photos kept out of training."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from models.detections import Detections
from models.interfaces import Segmenter
from models.masks import decode_mask
from models.training.scenes import SceneConfig, render_scene
from models.training.segmenter_data import MaskedImage, read_photos

FIRST_VALIDATION_SEED = 900_000
MIN_PHOTO_SIDE_PX = 32


@dataclass(frozen=True)
class SegmenterReport:
    """Mean IoU of masks over the boxes of one set.

    Attributes:
        name: What the set is.
        images: Images that hold a box.
        boxes: Boxes, at least 1.
        iou: The segmenter's.
        iou_box: Of the box filled, which any segmenter must beat.
        iou_ellipse: Of the ellipse in the box.
        share_above: Share of boxes with an IoU of at least .9.
        quality_correlation: Between predicted and true IoU.
    """

    name: str
    images: int
    boxes: int
    iou: float
    iou_box: float
    iou_ellipse: float
    share_above: float
    quality_correlation: float

    def __str__(self) -> str:
        return (
            f"{self.name}: {self.images} images, {self.boxes} boxes, mean IoU {self.iou:.3f} "
            f"(box filled {self.iou_box:.3f}, ellipse {self.iou_ellipse:.3f}), "
            f"{self.share_above:.2f} of them at .9 or more, predicted IoU r = {self.quality_correlation:.2f}"
        )


def validation_scenes(count: int, config: SceneConfig) -> Iterator[MaskedImage]:
    """Render the scenes of the validation seeds, in order; none of them is trained on."""
    for seed in range(FIRST_VALIDATION_SEED, FIRST_VALIDATION_SEED + count):
        scene = render_scene(seed, config)
        yield MaskedImage(scene.image, scene.masks, scene.boxes_xyxy)


def validation_photos(folder: Path) -> Iterator[MaskedImage]:
    """Read the photos kept out of training with their things of at least 32 px on both sides.

    Raises:
        FileNotFoundError: The folder has no instances.json.
    """
    for photo in read_photos(folder, held_out=True, min_side_px=MIN_PHOTO_SIDE_PX):
        masks = np.array([photo.mask(index) for index in range(len(photo.cuts))], dtype=bool)
        yield MaskedImage(photo.image, masks.reshape(-1, *photo.image.shape[:2]), photo.boxes_xyxy)


def box_baselines(boxes_xyxy: NDArray[np.float32], image_hw: tuple[int, int]) -> NDArray[np.bool_]:
    """Fill boxes and the ellipses in them.

    Args:
        boxes_xyxy: (N, 4) pixels; N may be 0.
        image_hw: (height, width).

    Returns:
        (2, N, H, W) bool: boxes, then ellipses.
    """
    rows, columns = (np.arange(side, dtype=np.float32) + 0.5 for side in image_hw)
    half = np.maximum((boxes_xyxy[:, 2:] - boxes_xyxy[:, :2]) / 2, 0.5)
    centre = (boxes_xyxy[:, :2] + boxes_xyxy[:, 2:]) / 2
    x = (columns[None, None, :] - centre[:, :1, None]) / half[:, :1, None]
    y = (rows[None, :, None] - centre[:, 1:, None]) / half[:, 1:, None]
    return np.stack([(np.abs(x) <= 1) & (np.abs(y) <= 1), x**2 + y**2 <= 1])


def box_ious(segmenter: Segmenter, sample: MaskedImage) -> NDArray[np.float64]:
    """Segment one image by its true boxes.

    Returns:
        (4, N): IoU of the masks, of the boxes filled, of the ellipses, and the predicted IoU.
    """
    count = len(sample.boxes_xyxy)
    height, width = sample.image.shape[:2]
    ids = np.ones(count, dtype=np.int64)
    detections = Detections((height, width), sample.boxes_xyxy, np.ones(count, np.float32), ids, ids - 1)
    instances = segmenter(sample.image, detections)
    masks = np.array([decode_mask(rle) for rle in instances.masks], dtype=bool).reshape(-1, height, width)
    found = np.concatenate([masks[None], box_baselines(sample.boxes_xyxy, (height, width))])
    overlap = (found & sample.masks).sum(axis=(2, 3))
    union = (found | sample.masks).sum(axis=(2, 3))
    return np.concatenate([overlap / np.maximum(union, 1), instances.mask_scores[None].astype(np.float64)])


def report_on(name: str, segmenter: Segmenter, samples: Iterator[MaskedImage]) -> SegmenterReport:
    """Measure a segmenter on one set.

    Raises:
        ValueError: No sample has a box.
    """
    rows = [box_ious(segmenter, sample) for sample in samples if len(sample.boxes_xyxy)]
    if not rows:
        raise ValueError(f"{name} has no box to segment")
    iou, filled, ellipse, quality = np.concatenate(rows, axis=1)
    varied = iou.std() > 0 and quality.std() > 0
    correlation = float(np.corrcoef(iou, quality)[0, 1]) if varied else 0.0
    means = (float(iou.mean()), float(filled.mean()), float(ellipse.mean()), float((iou >= 0.9).mean()))
    return SegmenterReport(name, len(rows), len(iou), *means, correlation)


def evaluate_segmenter(
    segmenter: Segmenter, photos: Path | None = None, scenes: int = 300, config: SceneConfig | None = None
) -> list[SegmenterReport]:
    """Measure a segmenter with true boxes.

    Args:
        segmenter: What is measured.
        photos: COCO folder whose held-out photos are measured too; None for scenes alone.
        scenes: Number of validation scenes, from seed 900,000 on; 0 for none.
        config: What the scenes are made of; None for the usual 256 px without photos behind them.

    Returns:
        The report on scenes, then the one on photos.

    Raises:
        FileNotFoundError: The photo folder has no instances.json.
    """
    reports = []
    if scenes:
        reports.append(report_on("scenes", segmenter, validation_scenes(scenes, config or SceneConfig())))
    if photos is not None:
        reports.append(report_on("photos kept out of training", segmenter, validation_photos(photos)))
    return reports
