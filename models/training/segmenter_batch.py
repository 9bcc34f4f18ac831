"""One step of the tiny SAM's training: the recipe, the images it draws, and their tensors."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from models.sam.preprocess import normalise, pad_to_square, resize_longest_side, scale_boxes
from models.sam.tiny import window_pixels
from models.sam.tiny_network import TinySam
from models.training.scenes import SceneConfig
from models.training.segmenter_data import MaskedImage, Photo, jitter_boxes, photo_sample, scene_sample


@dataclass(frozen=True)
class SegmenterRecipe:
    """How the tiny SAM is trained.

    Attributes:
        steps: Steps of the whole schedule.
        images: Images a step.
        boxes: Most boxes of an image.
        photo_share: Share of images that are photos, where there are any.
        learning_rate: Highest, after the warm-up; it falls to 1 % along a cosine.
        warm_up: Steps of linear rise.
        weight_decay: AdamW's.
        clip: Largest gradient norm.
        ema: Decay of the averaged weights, the ones that are kept.
        seed: Of the first weights and of all chance.
    """

    steps: int = 8000
    images: int = 4
    boxes: int = 6
    photo_share: float = 0.5
    learning_rate: float = 2e-3
    warm_up: int = 150
    weight_decay: float = 0.02
    clip: float = 1.0
    ema: float = 0.998
    seed: int = 0


@dataclass(frozen=True)
class Batch:
    """One step's tensors; B images, N boxes over all of them.

    Attributes:
        images: (B, 3, S, S) normalised, the encoder's frame.
        image_index: (N,) int64, the image of each box.
        boxes_xyxy: (N, 4) float32, pixels of the encoder's frame.
        pixels: (N, 3, 4c, 4c) normalised pixels of the boxes' windows.
        targets: (N, 4c, 4c) in [0, 1], the share of each cell that the mask covers.
    """

    images: Tensor
    image_index: Tensor
    boxes_xyxy: Tensor
    pixels: Tensor
    targets: Tensor


def draw_samples(
    step: int, recipe: SegmenterRecipe, photos: tuple[Photo, ...], scenes: SceneConfig
) -> list[MaskedImage]:
    """Draw the images of a step; the same step gives the same images."""
    samples = []
    for slot in range(recipe.images):
        rng = np.random.default_rng((recipe.seed, step, slot))
        if photos and rng.random() < recipe.photo_share:
            samples.append(photo_sample(photos, rng))
        else:
            samples.append(scene_sample(step * recipe.images + slot, scenes))
    return samples


def collate(samples: list[MaskedImage], network: TinySam, boxes: int, rng: np.random.Generator) -> Batch:
    """Turn images and masks into one step's tensors.

    Args:
        samples: At least one; images without a thing only pass through the encoder.
        network: Whose frame and windows are used.
        boxes: Most boxes of an image; more are drawn from.
        rng: Source of chance for the choice of boxes and their jitter.
    """
    size, side = network.config.image_size, 4 * network.config.cells
    images, index, placed, pixels, targets = [], [], [], [], []
    for place, sample in enumerate(samples):
        small = resize_longest_side(sample.image, size)
        images.append(pad_to_square(normalise(small), size))
        chosen = rng.permutation(len(sample.boxes_xyxy))[:boxes]
        if not len(chosen):
            continue
        image_hw = (sample.image.shape[0], sample.image.shape[1])
        jittered = jitter_boxes(sample.boxes_xyxy[chosen], rng)
        scaled = torch.from_numpy(scale_boxes(jittered, image_hw, size))
        windows = network.windows(scaled) * (max(image_hw) / size)
        masks = torch.from_numpy(sample.masks[chosen].astype(np.float32))
        index.append(torch.full((len(chosen),), place, dtype=torch.int64))
        placed.append(scaled)
        pixels.append(window_pixels(normalise(sample.image), windows, side))
        pairs = zip(masks, windows, strict=True)
        targets.append(torch.cat([window_pixels(mask[None], window[None], side)[:, 0] for mask, window in pairs]))
    return Batch(torch.stack(images), torch.cat(index), torch.cat(placed), torch.cat(pixels), torch.cat(targets))
