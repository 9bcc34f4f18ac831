"""Where training samples come from: generated scenes and COCO files. Each draws a sample from a random generator."""

import copy
import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from models.boxes import xywh_to_xyxy
from models.training.augment import (
    Labelled,
    crop_resize,
    flip_boxes,
    flip_horizontal,
    flip_vertical,
    jitter_colour,
    mosaic,
    quarter_turn,
    random_window,
)
from models.training.prompts import PromptSampling, Sample, ask_for_expressions, ask_for_names
from models.training.referring import Referring, mirror_expression
from models.training.scenes import Scene, SceneConfig, render_scene


class SampleSource(Protocol):
    """Something that training samples are drawn from."""

    @property
    def aspect(self) -> float:
        """Width over height of its batches."""

    def draw(self, rng: np.random.Generator, size_hw: tuple[int, int]) -> Sample:
        """Draw one augmented sample of exactly this size."""


def scene_to_labelled(scene: Scene) -> Labelled:
    """Return a scene as an image with named boxes."""
    return Labelled(scene.image, scene.boxes_xyxy, scene.labels)


def labelled_scenes(first_seed: int, count: int, config: SceneConfig) -> Iterator[Labelled]:
    """Render the scenes of `count` seeds from `first_seed` on."""
    for seed in range(first_seed, first_seed + count):
        yield scene_to_labelled(render_scene(seed, config))


@dataclass(frozen=True)
class SceneSource:
    """Scenes rendered as they are needed; no two steps see the same one.

    Attributes:
        config: What scenes hold.
        vocabulary: Names to draw negatives from; all that the model is trained on.
        first_seed: Scenes use seeds from here on, so that evaluation can keep below.
        referring_share: Share of scenes asked for referring expressions instead of names.
        sampling: How prompt sets are drawn.
    """

    config: SceneConfig
    vocabulary: tuple[str, ...]
    first_seed: int = 1_000_000
    referring_share: float = 0.15
    sampling: PromptSampling = PromptSampling()
    aspect: float = 1.0

    def _scene(self, rng: np.random.Generator) -> Scene:
        return render_scene(self.first_seed + int(rng.integers(2**40)), self.config)

    def draw(self, rng: np.random.Generator, size_hw: tuple[int, int]) -> Sample:
        """Draw a scene, mirrored half of the time; `left` and `right` in expressions follow."""
        scene = self._scene(rng)
        window = (0.0, 0.0, float(self.config.size), float(self.config.size))
        flip = rng.random() < 0.5
        if scene.expressions and rng.random() < self.referring_share:
            image = np.asarray(Image.fromarray(scene.image).resize((size_hw[1], size_hw[0]), Image.Resampling.BILINEAR))
            boxes = scene.boxes_xyxy * (size_hw[0] / self.config.size)
            expressions = list(scene.expressions)
            if flip:
                image, boxes = np.ascontiguousarray(image[:, ::-1]), flip_boxes(boxes, size_hw[1])
                expressions = [Referring(mirror_expression(e.text), e.object_index) for e in expressions]
            return ask_for_expressions(rng, image, boxes, expressions, self._untrue(rng, scene))
        labelled = crop_resize(scene_to_labelled(scene), window, size_hw)
        return ask_for_names(rng, flip_horizontal(labelled) if flip else labelled, self.vocabulary, self.sampling)

    def _untrue(self, rng: np.random.Generator, scene: Scene) -> list[str]:
        """Draw up to 4 expressions whose object is surely not in the scene: no shape of that name and colour."""
        absent = [name for name in self.config.pairs if name not in set(scene.labels)]
        heads = rng.permutation(absent)[: int(rng.integers(0, 5))]
        tails = ["", " left of the ", " right of the ", " above the ", " below the "]
        texts = []
        for head in heads:
            tail = tails[int(rng.integers(len(tails)))]
            anchor = str(rng.choice(scene.labels)) if tail and scene.labels else ""
            texts.append(f"the {head}{tail}{anchor}" if anchor else f"the {head}")
        return texts


def read_rgb(path: Path) -> NDArray[np.uint8]:
    """Read an image file as (H, W, 3) uint8 RGB with its EXIF orientation applied."""
    with Image.open(path) as opened:
        return np.asarray(ImageOps.exif_transpose(opened).convert("RGB"))


class CocoSource:
    """Labelled images of a COCO file, augmented.

    Images are mirrored left to right unless a class is named for one side and the file has none for the other.

    Args:
        annotations: COCO JSON with boxes; crowds are left out.
        images: Folder that `file_name` is relative to.
        vocabulary: Names to draw negatives from besides the file's own categories.
        sampling: How prompt sets are drawn.
        zoom: Window sizes relative to the whole image; below 1 crops, above 1 zooms out.
        vertical_flip: Also mirror top to bottom; right for microscopes, wrong for streets.
        quarter_turns: Also turn by a quarter; right for microscopes and pictures from above.
        mosaic_share: Share of samples joined from four images.
        max_side: Images are kept in memory at most this large, pixels.
        cached: Most images kept in memory.
        read: Reads an image file.
        colour: Largest share by which brightness, contrast and saturation change.
        aspect: Width over height of its batches; None takes the images' median.

    Raises:
        ValueError: The file holds no image.
    """

    def __init__(
        self,
        annotations: Path,
        images: Path,
        vocabulary: Sequence[str] = (),
        sampling: PromptSampling = PromptSampling(),
        zoom: tuple[float, float] = (0.5, 1.15),
        vertical_flip: bool = False,
        quarter_turns: bool = False,
        mosaic_share: float = 0.1,
        max_side: int = 640,
        cached: int = 2000,
        read: Callable[[Path], NDArray[np.uint8]] = read_rgb,
        colour: float = 0.2,
        aspect: float | None = None,
    ) -> None:
        data = json.loads(annotations.read_text(encoding="utf-8"))
        names = {category["id"]: str(category["name"]).lower() for category in data["categories"]}
        self.names = tuple(names.values())
        self.vocabulary = tuple(dict.fromkeys([*self.names, *vocabulary]))
        self._entries = [(images / record["file_name"], record["id"]) for record in data["images"]]
        self._objects: dict[int, list[tuple[list[float], str]]] = {image_id: [] for _, image_id in self._entries}
        for annotation in data["annotations"]:
            if not annotation.get("iscrowd", 0):
                self._objects[annotation["image_id"]].append((annotation["bbox"], names[annotation["category_id"]]))
        if not self._entries:
            raise ValueError(f"{annotations} holds no image to train on")
        shapes = [record["width"] / record["height"] for record in data["images"]]
        self.aspect = float(np.median(shapes)) if aspect is None else aspect
        self._short_sides = {record["id"]: min(record["width"], record["height"]) for record in data["images"]}
        self.short_side = float(np.median(list(self._short_sides.values())))
        self._sampling, self._vertical_flip = sampling, vertical_flip
        self._zoom = zoom
        self._quarter_turns, self._colour = quarter_turns, colour
        self._mosaic_share, self._max_side = mosaic_share, max_side
        self._read_file = read
        self._may_mirror = all(mirror_expression(name) in names.values() for name in names.values())
        self._load = lru_cache(maxsize=cached)(self._read)

    def whole(self) -> "CocoSource":
        """Return a source of the same images, which shows them whole; both keep them in memory once."""
        other = copy.copy(self)
        other._zoom, other._mosaic_share = (1.0, 1.0), 0.0
        return other

    def __len__(self) -> int:
        return len(self._entries)

    def labelled(self, index: int) -> Labelled:
        """Return image `index` as it is on disk, at most `max_side` large."""
        return self._load(index)

    def boxes_by_name(self) -> dict[str, int]:
        """Return how many boxes each class has."""
        counts = dict.fromkeys(self.names, 0)
        for objects in self._objects.values():
            for _, name in objects:
                counts[name] += 1
        return counts

    def smallest_class(self) -> tuple[str, float]:
        """Return the class of the smallest boxes, and their median side as a share of their image's shorter side.

        A side is the root of a box's area.

        Raises:
            ValueError: There is no box.
        """
        shares: dict[str, list[float]] = {}
        for image_id, objects in self._objects.items():
            for (_, _, width, height), name in objects:
                shares.setdefault(name, []).append(math.sqrt(width * height) / self._short_sides[image_id])
        if not shares:
            raise ValueError("no image has a box")
        medians = {name: float(np.median(values)) for name, values in shares.items()}
        name = min(medians, key=medians.__getitem__)
        return name, medians[name]

    def most_boxes(self) -> int:
        """Return the largest number of boxes of an image."""
        return max(len(objects) for objects in self._objects.values())

    def _read(self, index: int) -> Labelled:
        path, image_id = self._entries[index]
        try:
            picture = Image.fromarray(self._read_file(path))
        except (OSError, ValueError, SyntaxError) as error:
            raise ValueError(f"{path} cannot be read: {error}") from error
        scale = min(self._max_side / max(picture.size), 1.0)
        if scale < 1:
            picture = picture.resize((round(picture.width * scale), round(picture.height * scale)))
        objects = self._objects[image_id]
        boxes = xywh_to_xyxy(np.array([box for box, _ in objects], np.float32).reshape(-1, 4)) * np.float32(scale)
        return Labelled(np.array(picture), boxes, tuple(name for _, name in objects))

    def _window(self, rng: np.random.Generator, size_hw: tuple[int, int]) -> Labelled:
        labelled = self.labelled(int(rng.integers(len(self))))
        if self._quarter_turns and rng.random() < 0.5:
            labelled = quarter_turn(labelled)
        labelled = crop_resize(labelled, random_window(rng, labelled.image_hw, size_hw, self._zoom), size_hw)
        if rng.random() < 0.5 and self._may_mirror:
            labelled = flip_horizontal(labelled)
            names = tuple(mirror_expression(name) for name in labelled.names)
            labelled = Labelled(labelled.image, labelled.boxes_xyxy, names)
        if self._vertical_flip and rng.random() < 0.5:
            labelled = flip_vertical(labelled)
        return labelled

    def draw(self, rng: np.random.Generator, size_hw: tuple[int, int]) -> Sample:
        """Draw an image, cropped or zoomed, mirrored, sometimes a mosaic of four, with other colours."""
        if rng.random() < self._mosaic_share:
            labelled = mosaic([self._window(rng, size_hw) for _ in range(4)], size_hw)
        else:
            labelled = self._window(rng, size_hw)
        labelled = Labelled(jitter_colour(rng, labelled.image, self._colour), labelled.boxes_xyxy, labelled.names)
        return ask_for_names(rng, labelled, self.vocabulary, self._sampling)


def to_unit(image: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return (3, H, W) float32 pixels, normalised by ImageNet's mean and deviation as the processor does."""
    mean = np.array([0.485, 0.456, 0.406], np.float32)
    deviation = np.array([0.229, 0.224, 0.225], np.float32)
    return np.ascontiguousarray(((image.astype(np.float32) / 255 - mean) / deviation).transpose(2, 0, 1))
