"""What both Segment Anything backends share: a padded square in, low-resolution logits over it out."""

from abc import ABC, abstractmethod

import numpy as np
import torch
from torch import Tensor

from models.detections import Detections, Instances
from models.interfaces import Image
from models.masks import Rle
from models.sam.preprocess import (
    check_image,
    normalise,
    pad_to_square,
    resize_longest_side,
    resized_hw,
    scale_boxes,
)
from models.sam.upsample import square_to_rle


class SquareSegmenter(ABC):
    """A segmenter that encodes an image once as a padded square and decodes boxes in chunks.

    Args:
        image_size: Side of the square, pixels.
        device: "cpu", "cuda" or what torch takes.
        boxes_per_chunk: Boxes decoded at once, at least 1; memory grows with it, masks stay the same.

    Raises:
        ValueError: boxes_per_chunk is not positive.
    """

    def __init__(self, image_size: int, device: str, boxes_per_chunk: int) -> None:
        if boxes_per_chunk < 1:
            raise ValueError(f"boxes_per_chunk must be at least 1, not {boxes_per_chunk}")
        self.image_size = image_size
        self.device = torch.device(device)
        self.boxes_per_chunk = boxes_per_chunk

    @abstractmethod
    def encode(self, pixels: Tensor) -> Tensor:
        """Return the embedding (1, C, h, w) of normalised pixels (1, 3, S, S)."""

    @abstractmethod
    def decode(self, embedding: Tensor, boxes_xyxy: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits (N, s, s) and predicted IoU (N,) of boxes (N, 4) in pixels of the square; N is at least 1."""

    @torch.inference_mode()
    def __call__(self, image: Image, detections: Detections) -> Instances:
        """Segment each box of an image; see `models.interfaces.Segmenter`."""
        check_image(image, detections)
        if not len(detections):
            return Instances(detections, (), np.zeros(0, np.float32))
        pixels = pad_to_square(normalise(resize_longest_side(image, self.image_size)), self.image_size)
        embedding = self.encode(pixels[None].to(self.device))
        boxes = scale_boxes(detections.boxes_xyxy, detections.image_hw, self.image_size)
        inner_hw = resized_hw(detections.image_hw, self.image_size)
        masks: list[Rle] = []
        qualities = []
        for chunk in torch.split(torch.from_numpy(boxes).to(self.device), self.boxes_per_chunk):
            logits, quality = self.decode(embedding, chunk)
            masks += [square_to_rle(one, inner_hw, self.image_size, detections.image_hw) for one in logits]
            qualities.append(quality.float().clamp(0, 1).cpu().numpy())
        return Instances(detections, tuple(masks), np.concatenate(qualities))
