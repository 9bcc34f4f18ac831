"""Scenes of coloured shapes with an exact truth: boxes, visible masks, referring expressions."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image
from pycocotools import mask as coco_mask

from models.training.referring import Referring, refer
from models.training.scene_backgrounds import add_clutter, degrade, sample_background
from models.training.scene_fills import COLOURS
from models.training.scene_layout import Canvas, place_object
from models.training.scene_shapes import SHAPES

__all__ = [
    "COLOURS",
    "HELD_OUT_PAIRS",
    "PAIRS",
    "SHAPES",
    "TRAINED_PAIRS",
    "Referring",
    "Scene",
    "SceneConfig",
    "render_scene",
    "scene_seed",
    "write_scenes",
]

FloatArray = npt.NDArray[np.float32]
ByteArray = npt.NDArray[np.uint8]
BoolArray = npt.NDArray[np.bool_]

PAIRS: tuple[str, ...] = tuple(f"{colour} {shape}" for colour in COLOURS for shape in SHAPES)

# Each shape once, each colour once or twice: every word is trained, these meetings are not.
HELD_OUT_PAIRS: frozenset[str] = frozenset(
    {
        "orange circle",
        "cyan square",
        "pink triangle",
        "yellow star",
        "blue cross",
        "red diamond",
        "green heart",
        "purple crescent",
        "orange ring",
        "cyan arrow",
    }
)
TRAINED_PAIRS: tuple[str, ...] = tuple(pair for pair in PAIRS if pair not in HELD_OUT_PAIRS)

EMPTY_SHARE = 0.04
REPEAT_SHARE = 0.35
MIN_SIZE_PX = 64


@dataclass(frozen=True)
class SceneConfig:
    """What scenes are made of.

    Attributes:
        size: Side of the square image, pixels, at least 64.
        max_objects: Most objects in a scene, 0 to 100.
        pairs: Names that may appear, of PAIRS, at least one.
        photos: Image files that serve as backgrounds in 2 of 5 scenes; may be empty.
        min_objects: Fewest that are tried in a scene that is not left empty, 1 to max_objects; an object for which
            there is no room is left out.

    Raises:
        ValueError: A field is outside its range.
    """

    size: int = 256
    max_objects: int = 12
    pairs: tuple[str, ...] = TRAINED_PAIRS
    photos: tuple[Path, ...] = ()
    min_objects: int = 1

    def __post_init__(self) -> None:
        """Check every field."""
        if self.size < MIN_SIZE_PX:
            raise ValueError(f"size must be at least {MIN_SIZE_PX} pixels, not {self.size}")
        if not 0 <= self.max_objects <= 100:
            raise ValueError(f"max_objects must be 0 to 100, not {self.max_objects}")
        if not 1 <= self.min_objects <= max(self.max_objects, 1):
            raise ValueError(f"min_objects must be 1 to {max(self.max_objects, 1)}, not {self.min_objects}")
        unknown = sorted(set(self.pairs) - set(PAIRS))
        if unknown:
            raise ValueError(f"pairs holds names that are no colour and shape: {unknown[:5]}")
        if not self.pairs:
            raise ValueError("pairs must hold at least one name")


@dataclass(frozen=True)
class Scene:
    """One image and all that is true of it; N objects, N may be 0, back to front.

    Attributes:
        image: (H, W, 3) uint8 RGB.
        boxes_xyxy: (N, 4) float32 pixels, tight around the masks: x2 and y2 are exclusive.
        labels: N names of PAIRS.
        masks: (N, H, W) bool, the visible pixels of each object; no two overlap.
        expressions: Up to 4 phrases, each true of exactly one object.
    """

    image: ByteArray
    boxes_xyxy: FloatArray
    labels: tuple[str, ...]
    masks: BoolArray
    expressions: tuple[Referring, ...]


def _tight_boxes(masks: BoolArray) -> FloatArray:
    boxes = np.zeros((len(masks), 4), dtype=np.float32)
    for box, mask in zip(boxes, masks, strict=True):
        xs, ys = np.flatnonzero(mask.any(axis=0)), np.flatnonzero(mask.any(axis=1))
        box[:] = xs[0], ys[0], xs[-1] + 1, ys[-1] + 1
    return boxes


def render_scene(seed: int, config: SceneConfig = SceneConfig()) -> Scene:
    """Draw the scene of a seed: the same seed and config give the same bytes.

    Args:
        seed: 0 or more, below 2**64.
        config: What the scene is made of.

    Returns:
        The scene, with 0 to config.max_objects objects.

    Raises:
        ValueError: seed is negative.
        OSError: A photo cannot be read.
    """
    if seed < 0:
        raise ValueError(f"seed must be 0 or more, not {seed}")
    rng = np.random.default_rng(seed)
    image = add_clutter(sample_background(config.size, config.photos, rng), rng)
    owners = np.zeros((config.size, config.size), dtype=np.int8)
    canvas = Canvas(np.array(image), owners)
    empty = rng.random() < EMPTY_SHARE or config.max_objects == 0
    for _ in range(0 if empty else int(rng.integers(config.min_objects, config.max_objects + 1))):
        names = canvas.labels if canvas.labels and rng.random() < REPEAT_SHARE else config.pairs
        place_object(canvas, names[int(rng.integers(len(names)))], rng)
    labels = tuple(canvas.labels)
    masks = owners == np.arange(1, len(labels) + 1, dtype=np.int8)[:, None, None]
    boxes_xyxy = _tight_boxes(masks)
    areas = np.array(canvas.seen_px, dtype=np.float32)
    expressions = refer(labels, boxes_xyxy, areas, config.size, rng)
    return Scene(degrade(canvas.image, rng), boxes_xyxy, labels, masks, expressions)


def scene_seed(seed: int, index: int) -> int:
    """Derive the seed of one scene of a set, so that sets of different seeds share no scene.

    Args:
        seed: The set's seed, 0 or more.
        index: Place of the scene in the set, 0 or more.

    Returns:
        A seed for render_scene, from 2**63 to 2**64 - 1: apart from any small seed given by hand.

    Raises:
        ValueError: seed or index is negative.
    """
    if seed < 0 or index < 0:
        raise ValueError(f"seed and index must be 0 or more, not {seed} and {index}")
    state = np.random.SeedSequence((seed, index)).generate_state(1, np.uint64)
    return int(state[0]) | 1 << 63


def _annotations(scene: Scene, image_id: int, first_id: int) -> list[dict[str, object]]:
    rows = []
    for index, (label, mask) in enumerate(zip(scene.labels, scene.masks, strict=True)):
        rle = coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))
        x1, y1, x2, y2 = scene.boxes_xyxy[index].tolist()
        rows.append(
            {
                "id": first_id + index,
                "image_id": image_id,
                "category_id": PAIRS.index(label) + 1,
                "bbox": [x1, y1, x2 - x1, y2 - y1],
                "area": int(mask.sum()),
                "iscrowd": 0,
                "segmentation": {"size": list(rle["size"]), "counts": rle["counts"].decode()},
            }
        )
    return rows


def _write_json(path: Path, content: object) -> None:
    part = path.with_name(path.name + ".part")
    part.write_text(json.dumps(content, separators=(",", ":")) + "\n", encoding="utf-8")
    part.replace(path)


def write_scenes(output: Path, count: int, seed: int, config: SceneConfig = SceneConfig()) -> None:
    """Write a set of scenes as COCO: images/, instances.json and captions.json.

    Images are JPEG of quality 95 without chroma subsampling. Categories are all of PAIRS, ids from
    1; captions.json is a list of {image_id, annotation_id, text}. The JSON files come last.

    Args:
        output: Folder to write into, made where missing; must not hold an instances.json yet.
        count: Number of images, 0 or more.
        seed: The set's seed, 0 or more: the same seed, count and config give the same bytes.
        config: What the scenes are made of.

    Raises:
        ValueError: count or seed is negative.
        FileExistsError: output already holds an instances.json.
        OSError: A photo cannot be read or a file cannot be written.
    """
    if count < 0 or seed < 0:
        raise ValueError(f"count and seed must be 0 or more, not {count} and {seed}")
    if (output / "instances.json").exists():
        raise FileExistsError(f"{output} already holds scenes; give another output folder")
    (output / "images").mkdir(parents=True, exist_ok=True)
    images: list[dict[str, object]] = []
    annotations: list[dict[str, object]] = []
    captions: list[dict[str, object]] = []
    for image_id in range(1, count + 1):
        scene = render_scene(scene_seed(seed, image_id - 1), config)
        name = f"{image_id:06d}.jpg"
        path = output / "images" / name
        Image.fromarray(scene.image).save(path, quality=95, subsampling=0)
        images.append({"id": image_id, "file_name": name, "width": config.size, "height": config.size})
        first_id = len(annotations) + 1
        annotations += _annotations(scene, image_id, first_id)
        for phrase in scene.expressions:
            annotation_id = first_id + phrase.object_index
            captions.append({"image_id": image_id, "annotation_id": annotation_id, "text": phrase.text})
    categories = [
        {"id": place, "name": pair, "supercategory": pair.split(" ")[1]} for place, pair in enumerate(PAIRS, start=1)
    ]
    info = {"description": f"groundlabel scenes, seed {seed}", "version": "1"}
    coco = {"info": info, "images": images, "annotations": annotations, "categories": categories}
    _write_json(output / "captions.json", captions)
    _write_json(output / "instances.json", coco)
