"""What both Segment Anything backends share: a padded square in, low-resolution logits over it out."""

from abc import ABC, abstractmethod

import numpy as np
import torch
from torch import Tensor

from models.detections import Detections, Instances
from models.interfaces import Image
from models.masks import Rle
from models.out_of_memory import Halving
from models.precision import Precision, check_numbers, check_precision, low_precision
from models.sam.preprocess import (
    check_image,
    normalise,
    pad_to_square,
    resize_longest_side,
    resized_hw,
    scale_boxes,
)
from models.sam.upsample import SquareUpsampler


class SquareSegmenter(ABC):
    """A segmenter that encodes an image once as a padded square and decodes boxes in chunks.

    Args:
        image_size: Side of the square, pixels.
        device: "cpu", "cuda" or what torch takes.
        boxes_per_chunk: Boxes decoded at once, at least 1; memory grows with it, masks stay the same. It is halved
            when the device has no memory for so many.
        multimask: Decode three masks a box (whole, part, subpart) and keep the one with the best predicted IoU.
        precision: What `encode` computes in (`models.precision`).

    Raises:
        ValueError: boxes_per_chunk is not positive, or the device cannot compute in the precision.
    """

    def __init__(
        self,
        image_size: int,
        device: str,
        boxes_per_chunk: int,
        multimask: bool = False,
        precision: Precision = "fp32",
    ) -> None:
        self._chunks = Halving(boxes_per_chunk, "boxes")
        self.image_size = image_size
        self.device = torch.device(device)
        self.multimask = multimask
        self._precision = check_precision(precision, device)

    @abstractmethod
    def encode(self, pixels: Tensor) -> Tensor:
        """Return the embedding (1, C, h, w) of normalised pixels (1, 3, S, S)."""

    @abstractmethod
    def decode(self, embedding: Tensor, boxes_xyxy: Tensor) -> tuple[Tensor, Tensor]:
        """Return M masks a box: 1, or with `multimask` 3.

        Args:
            embedding: (1, C, h, w).
            boxes_xyxy: (N, 4) pixels of the square; N is at least 1.

        Returns:
            Logits (N, M, s, s) and predicted IoU (N, M).
        """

    @torch.inference_mode()
    def __call__(self, image: Image, detections: Detections) -> Instances:
        """Segment each box of an image; see `models.interfaces.Segmenter`."""
        check_image(image, detections)
        if not len(detections):
            return Instances(detections, (), np.zeros(0, np.float32))
        pixels = pad_to_square(normalise(resize_longest_side(image, self.image_size)), self.image_size)
        with low_precision(self._precision, self.device.type):
            embedding = self.encode(pixels[None].to(self.device))
        embedding = check_numbers(embedding.float(), self._precision)
        boxes = scale_boxes(detections.boxes_xyxy, detections.image_hw, self.image_size)
        inner_hw = resized_hw(detections.image_hw, self.image_size)
        upsampler: SquareUpsampler | None = None
        masks: list[Rle] = []
        qualities = []

        def decode(chunk: Tensor) -> tuple[Tensor, Tensor]:
            return best_masks(*self.decode(embedding, chunk))

        for logits, quality in self._chunks(decode, torch.from_numpy(boxes).to(self.device)):
            if upsampler is None:
                upsampler = SquareUpsampler(logits.shape[-1], inner_hw, self.image_size, detections.image_hw)
            masks += [upsampler.to_rle(one) for one in logits]
            qualities.append(quality.float().clamp(0, 1).cpu().numpy())
        return Instances(detections, tuple(masks), np.concatenate(qualities))


def best_masks(logits: Tensor, quality: Tensor) -> tuple[Tensor, Tensor]:
    """Keep the mask with the best predicted IoU for each box, of equals the first.

    Args:
        logits: (N, M, s, s); M is at least 1.
        quality: (N, M) predicted IoU.

    Returns:
        Logits (N, s, s) and predicted IoU (N,).
    """
    rows = torch.arange(len(quality), device=quality.device)
    best = quality.argmax(dim=1)
    return logits[rows, best], quality[rows, best]
