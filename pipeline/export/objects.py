"""What a format writes: an image with its objects, each of which may lack a mask, a score or a prompt.

A run's objects come from models and have all of them; a person's, or those of a COCO file, need not. So these types
have `None` where something is not there, and the struct-of-arrays of the models keep their promise of full columns.
"""

from dataclasses import dataclass, field

import numpy as np

from models.masks import Rle, mask_areas, mask_boxes_xywh
from pipeline.box_source import BoxSource, choose_box
from pipeline.records import AnnotatedImage, FailedImage


@dataclass(frozen=True, slots=True)
class ExportObject:
    """One labelled object.

    Attributes:
        instance_id: Stable, and unique in its image.
        class_id: From 1, of the classes of its labels.
        class_name: Their name for it.
        box_xyxy: Pixels, what a trainer should learn: by default tight around the mask where a model made both.
        area: Square pixels: of the mask, else of the box, or as the source gives it.
        mask: None where the object is a box alone.
        score: The detector's, in [0, 1]; None where no detector found it.
        mask_score: The segmenter's predicted IoU; None where no segmenter drew it.
        prompt: What found it; None where nothing was asked for.
        crowd: COCO's `iscrowd`: a region with many objects, neither to be found nor wrong to find.
        provenance: "model", "human" or "model+human"; None where the source does not tell.
        coco_id: The id of its annotation in a COCO file, from 1; None where it has none that can be kept.
    """

    instance_id: str
    class_id: int
    class_name: str
    box_xyxy: tuple[float, float, float, float]
    area: float
    mask: Rle | None = None
    score: float | None = None
    mask_score: float | None = None
    prompt: str | None = None
    crowd: bool = False
    provenance: str | None = None
    coco_id: int | None = field(default=None, compare=False)

    @property
    def box_xywh(self) -> tuple[float, float, float, float]:
        """The box as x, y, width, height in pixels."""
        left, top, right, bottom = self.box_xyxy
        return left, top, right - left, bottom - top


@dataclass(frozen=True, slots=True)
class CocoFacts:
    """What a COCO file says of an image besides its labels; None for what it does not say.

    Attributes:
        id: From 0; None where it is no whole number, too.
        licence_id: One of the file's `licenses`.
        licence: Its name.
        video: Name or id of the video that the image is a frame of.
    """

    id: int | None = None
    licence_id: int | None = None
    licence: str | None = None
    video: str | None = None


@dataclass(frozen=True, slots=True)
class ExportImage:
    """One image.

    Attributes:
        image_id: 16 hexadecimal digits, from its path; the same in every export.
        path: Stored path (`pipeline.paths`) relative to the folder of images, "/" between its parts.
        image_hw: (height, width) of the upright image in pixels.
        objects: Best score first where they come from a run; may be empty.
        empty_masks: Instance ids of objects that are not among them, because their mask was looked for and has no
            pixel.
        coco: Of an image from a COCO file; nothing is known where it is from elsewhere.
    """

    image_id: str
    path: str
    image_hw: tuple[int, int]
    objects: tuple[ExportObject, ...]
    empty_masks: tuple[str, ...] = ()
    coco: CocoFacts = field(default=CocoFacts(), compare=False)


LabelRecord = AnnotatedImage | ExportImage | FailedImage
"""What `Labels.records` yields."""


def annotated_to_export(record: AnnotatedImage, boxes: BoxSource = "mask") -> ExportImage:
    """Convert a record of a run; where there are masks, boxes become those of a source."""
    found, masks = record.instances.detections, record.instances.masks
    areas = mask_areas(masks).tolist()
    tight = mask_boxes_xywh(masks).astype(np.float64)
    tight[:, 2:] += tight[:, :2]
    corners, own = tight.tolist(), found.boxes_xyxy.astype(np.float64).tolist()
    objects, empty = [], []
    for row, mask in enumerate(masks):
        if areas[row] == 0 and not mask.is_absent:
            empty.append(record.instance_ids[row])
            continue
        left, top, right, bottom = own[row] if mask.is_absent else choose_box(corners[row], own[row], boxes)
        objects.append(
            ExportObject(
                record.instance_ids[row],
                int(found.class_ids[row]),
                record.class_names[row],
                (left, top, right, bottom),
                (right - left) * (bottom - top) if mask.is_absent else float(areas[row]),
                None if mask.is_absent else mask,
                float(found.scores[row]),
                None if mask.is_absent else float(record.instances.mask_scores[row]),
                record.prompts[row],
                provenance="model",
            )
        )
    return ExportImage(record.image_id, record.path, record.image_hw, tuple(objects), tuple(empty))
