"""What the tiny SAM is trained on: scenes, crops of photos, and cut-outs pasted onto them."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image as PillowImage
from pycocotools import mask as coco_mask

from models.interfaces import Image
from models.training.scenes import SceneConfig, render_scene

BoolArray = NDArray[np.bool_]
FloatArray = NDArray[np.float32]

FIRST_SCENE_SEED = 1_000_000
SEEDS_A_SAMPLE = 8
WHOLE_PHOTO_SHARE = 0.4
PASTE_SHARE = 0.5
MIN_SIDE_PX = 12
MIN_AREA_PX = 64


@dataclass(frozen=True, eq=False)
class MaskedImage:
    """An image and the masks of things in it.

    Attributes:
        image: (H, W, 3) uint8 RGB.
        masks: (N, H, W) bool, none empty; N may be 0.
        boxes_xyxy: (N, 4) float32 pixels, the true boxes.
    """

    image: Image
    masks: BoolArray
    boxes_xyxy: FloatArray


@dataclass(frozen=True, eq=False)
class Photo:
    """A photo with its things, each mask cut to the box that holds it."""

    name: str
    image: Image
    cuts: tuple[BoolArray, ...]
    corners: tuple[tuple[int, int], ...]
    boxes_xyxy: FloatArray

    def mask(self, index: int) -> BoolArray:
        """Return one mask in the photo's frame, (H, W) bool."""
        mask = np.zeros(self.image.shape[:2], dtype=bool)
        (left, top), cut = self.corners[index], self.cuts[index]
        mask[top : top + cut.shape[0], left : left + cut.shape[1]] = cut
        return mask


def is_held_out(file_name: str) -> bool:
    """Whether a photo is kept out of training: one in five, by the SHA-256 of its name."""
    return int(hashlib.sha256(file_name.encode("utf-8")).hexdigest(), 16) % 5 == 3


def photo_files(folder: Path, held_out: bool) -> tuple[Path, ...]:
    """List the photos of a COCO folder on one side of the split, by name.

    Raises:
        FileNotFoundError: The folder has no instances.json.
    """
    names = [entry["file_name"] for entry in _read_coco(folder)["images"]]
    return tuple(folder / "images" / name for name in sorted(names) if is_held_out(name) == held_out)


def _read_coco(folder: Path) -> dict[str, list[dict[str, Any]]]:
    path = folder / "instances.json"
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing; photos are a folder with images/ and instances.json (COCO)")
    content: dict[str, list[dict[str, Any]]] = json.loads(path.read_text(encoding="utf-8"))
    return content


def read_photos(folder: Path, held_out: bool, min_side_px: float = MIN_SIDE_PX) -> tuple[Photo, ...]:
    """Read the photos of a COCO folder on one side of the split.

    Args:
        folder: Holds images/ and instances.json.
        held_out: Which side.
        min_side_px: Things whose box is narrower are left out; crowds always are.

    Returns:
        The photos by name, those without a thing too.

    Raises:
        FileNotFoundError: The folder has no instances.json.
        OSError: A photo cannot be read.
    """
    coco = _read_coco(folder)
    rows: dict[object, list[dict[str, Any]]] = {}
    for row in coco["annotations"]:
        rows.setdefault(row["image_id"], []).append(row)
    photos = []
    for entry in sorted(coco["images"], key=lambda entry: entry["file_name"]):
        if is_held_out(entry["file_name"]) == held_out:
            path = folder / "images" / entry["file_name"]
            with PillowImage.open(path) as opened:
                image = np.asarray(opened.convert("RGB"))
            photos.append(_photo(path.name, image, rows.get(entry["id"], []), min_side_px))
    return tuple(photos)


def _photo(name: str, image: Image, rows: list[dict[str, Any]], min_side_px: float) -> Photo:
    height, width = image.shape[:2]
    cuts, corners, boxes = [], [], []
    for row in rows:
        x, y, box_width, box_height = row["bbox"]
        if row.get("iscrowd") or min(box_width, box_height) < min_side_px:
            continue
        mask = coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(row["segmentation"], height, width))).astype(bool)
        if mask.sum() < MIN_AREA_PX:
            continue
        left, top, right, bottom = tight_box(mask)
        cuts.append(mask[top:bottom, left:right])
        corners.append((left, top))
        boxes.append([x, y, x + box_width, y + box_height])
    return Photo(name, image, tuple(cuts), tuple(corners), np.array(boxes, dtype=np.float32).reshape(-1, 4))


def tight_box(mask: BoolArray) -> tuple[int, int, int, int]:
    """Return x1 y1 x2 y2 around a mask that is not empty; x2 and y2 are exclusive."""
    columns, rows = np.flatnonzero(mask.any(axis=0)), np.flatnonzero(mask.any(axis=1))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def scene_sample(index: int, config: SceneConfig) -> MaskedImage:
    """Render the scene of a sample, the first of its seeds that holds a thing."""
    for attempt in range(SEEDS_A_SAMPLE):
        scene = render_scene(FIRST_SCENE_SEED + index * SEEDS_A_SAMPLE + attempt, config)
        if len(scene.masks):
            break
    return MaskedImage(scene.image, scene.masks, scene.boxes_xyxy)


def photo_sample(photos: tuple[Photo, ...], rng: np.random.Generator) -> MaskedImage:
    """Crop a photo, paste cut-outs of others onto it, flip it and change its colours, each by chance.

    Args:
        photos: The training side of the split; at least one has a thing.
        rng: Source of chance.

    Returns:
        The crop with what is visible in it; N may be 0.
    """
    photo = photos[int(rng.integers(len(photos)))]
    left, top, right, bottom = _crop(photo, rng)
    image = photo.image[top:bottom, left:right].copy()
    masks = [photo.mask(index)[top:bottom, left:right] for index in range(len(photo.cuts))]
    if rng.random() < PASTE_SHARE:
        for _ in range(int(rng.integers(1, 4))):
            _paste(image, masks, photos, rng)
    if rng.random() < 0.5:
        image, masks = image[:, ::-1], [mask[:, ::-1] for mask in masks]
    narrowest = max(MIN_SIDE_PX, 8 / 256 * max(image.shape[:2]))
    kept = []
    for mask in masks:
        if mask.sum() >= MIN_AREA_PX:
            x1, y1, x2, y2 = tight_box(mask)
            if min(x2 - x1, y2 - y1) >= narrowest:
                kept.append((mask, (x1, y1, x2, y2)))
    boxes = np.array([box for _, box in kept], dtype=np.float32).reshape(-1, 4)
    stacked = np.array([mask for mask, _ in kept], dtype=bool).reshape(-1, *image.shape[:2])
    return MaskedImage(_recolour(image, rng), stacked, boxes)


def _crop(photo: Photo, rng: np.random.Generator) -> tuple[int, int, int, int]:
    height, width = photo.image.shape[:2]
    if not len(photo.cuts) or rng.random() < WHOLE_PHOTO_SHARE:
        return 0, 0, width, height
    x1, y1, x2, y2 = photo.boxes_xyxy[int(rng.integers(len(photo.cuts)))].tolist()
    side = float(np.clip(max(x2 - x1, y2 - y1) * rng.uniform(1.05, 4.0), 96, max(height, width)))
    crop_width, crop_height = min(round(side), width), min(round(side * rng.uniform(0.7, 1.0)), height)
    left = int(np.clip((x1 + x2) / 2 - crop_width * rng.uniform(0.25, 0.75), 0, width - crop_width))
    top = int(np.clip((y1 + y2) / 2 - crop_height * rng.uniform(0.25, 0.75), 0, height - crop_height))
    return left, top, left + crop_width, top + crop_height


def _paste(image: Image, masks: list[BoolArray], photos: tuple[Photo, ...], rng: np.random.Generator) -> None:
    """Paste one thing of another photo over an image, in place; it takes its pixels from the masks below."""
    donor = photos[int(rng.integers(len(photos)))]
    if not len(donor.cuts):
        return
    index = int(rng.integers(len(donor.cuts)))
    cut, (left, top) = donor.cuts[index], donor.corners[index]
    texture = donor.image[top : top + cut.shape[0], left : left + cut.shape[1]]
    wanted = max(image.shape[:2]) * np.exp(rng.uniform(np.log(0.1), np.log(0.6)))
    factor = min(wanted / max(cut.shape), 2.5, image.shape[1] / cut.shape[1], image.shape[0] / cut.shape[0])
    width, height = round(cut.shape[1] * factor), round(cut.shape[0] * factor)
    if min(width, height) < MIN_SIDE_PX:
        return
    how = PillowImage.Resampling.BILINEAR
    alpha = np.asarray(PillowImage.fromarray(cut.astype(np.float32)).resize((width, height), how))
    colours = np.asarray(PillowImage.fromarray(np.ascontiguousarray(texture)).resize((width, height), how))
    if rng.random() < 0.5:
        alpha, colours = alpha[:, ::-1], colours[:, ::-1]
    x, y = int(rng.integers(image.shape[1] - width + 1)), int(rng.integers(image.shape[0] - height + 1))
    below = image[y : y + height, x : x + width]
    below[:] = below + alpha[:, :, None] * (_recolour(colours, rng).astype(np.float32) - below)
    solid = alpha >= 0.5
    seen = [int(mask.sum()) for mask in masks]
    for mask in masks:
        mask[y : y + height, x : x + width] &= ~solid
    masks[:] = [mask for mask, before in zip(masks, seen, strict=True) if mask.sum() >= 0.3 * before]
    masks.append(np.zeros(image.shape[:2], dtype=bool))
    masks[-1][y : y + height, x : x + width] = solid


def _recolour(image: Image, rng: np.random.Generator) -> Image:
    gain = rng.uniform(0.75, 1.25) * rng.uniform(0.9, 1.1, 3)
    table = np.clip((np.arange(256)[:, None] - 128) * gain + 128 + rng.uniform(-20, 20), 0, 255).astype(np.uint8)
    recoloured = np.stack([table[image[:, :, channel], channel] for channel in range(3)], axis=2)
    if rng.random() < 0.08:
        grey = recoloured.mean(axis=2, keepdims=True).astype(np.uint8)
        return np.repeat(grey, 3, axis=2)
    return recoloured


def jitter_boxes(boxes_xyxy: FloatArray, rng: np.random.Generator) -> FloatArray:
    """Move the edges of boxes as a detector might; four in ten boxes stay exact.

    Args:
        boxes_xyxy: (N, 4) pixels; N may be 0.
        rng: Source of chance.

    Returns:
        (N, 4) float32; each edge at most a tenth of the box's side away.
    """
    count = len(boxes_xyxy)
    sides = np.tile(boxes_xyxy[:, 2:] - boxes_xyxy[:, :2], 2)
    spread = rng.uniform(0, 0.06, (count, 1)) * (rng.random((count, 1)) >= 0.4)
    moves = np.clip(rng.standard_normal((count, 4)) * spread, -0.1, 0.1)
    return np.asarray(boxes_xyxy + moves * sides, dtype=np.float32)
