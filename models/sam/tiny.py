"""The tiny SAM as a segmenter: bundled weights, boxes in, run-length masks out."""

import json
import os
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor
from torchvision.ops import roi_align

from models.boxes import clip_boxes
from models.convolutions import prepare_convolutions
from models.detections import Detections, Instances
from models.interfaces import Image
from models.out_of_memory import Halving
from models.precision import Precision, check_numbers, check_precision, low_precision
from models.sam.preprocess import check_image, normalise, pad_to_square, resize_longest_side, scale_boxes
from models.sam.tiny_network import Features, TinySam, TinySamConfig
from models.sam.upsample import window_to_rle

BUNDLED = Path(__file__).resolve().parent.parent / "bundled" / "tiny-sam"
PIXELS_LONGEST = 1024
"""Longer side at which windows read pixels: finer ones cost memory and no mask has cells that small."""


def window_pixels(pixels: Tensor, windows_xyxy: Tensor, side: int) -> Tensor:
    """Resample windows of one image by the mean of what each cell covers.

    Args:
        pixels: (C, H, W) float32.
        windows_xyxy: (N, 4) float32 pixels; may reach beyond the image, where all is 0.
        side: Cells along a window's side.

    Returns:
        (N, C, side, side) float32.
    """
    rois = torch.cat([windows_xyxy.new_zeros(len(windows_xyxy), 1), windows_xyxy], dim=1)
    sampled: Tensor = roi_align(pixels[None], rois, side, 1.0, sampling_ratio=-1, aligned=True)
    return sampled


class TinySamSegmenter:
    """Segments boxes with a `TinySam`.

    Args:
        network: The network; it is put in evaluation mode.
        device: "cpu", "cuda" or what torch takes.
        boxes_per_chunk: Boxes decoded at once, at least 1; memory grows with it, masks stay the same. It is halved
            when the device has no memory for so many.
        precision: What the image encoder computes in (`models.precision`).

    Raises:
        ValueError: boxes_per_chunk is not positive, or the device cannot compute in the precision.
    """

    def __init__(
        self, network: TinySam, device: str = "cpu", boxes_per_chunk: int = 64, precision: Precision = "fp32"
    ) -> None:
        self._precision = check_precision(precision, device)
        self._chunks = Halving(boxes_per_chunk, "boxes")
        self.device = torch.device(device)
        self.network = network.to(self.device).to(memory_format=torch.channels_last).eval()

    @torch.inference_mode()
    def __call__(self, image: Image, detections: Detections) -> Instances:
        """Segment each box of an image; see `models.interfaces.Segmenter`."""
        check_image(image, detections)
        if not len(detections):
            return Instances(detections, (), np.zeros(0, np.float32))
        size = self.network.config.image_size
        small = pad_to_square(normalise(resize_longest_side(image, size)), size)
        features = self._encode(small)
        longest = min(max(image.shape[:2]), PIXELS_LONGEST)
        pixels = normalise(resize_longest_side(image, longest)).to(self.device)
        inside = clip_boxes(detections.boxes_xyxy, detections.image_hw)
        boxes = torch.from_numpy(scale_boxes(inside, detections.image_hw, size)).to(self.device)
        masks, qualities = [], []

        def decode(chunk: Tensor) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
            windows = self.network.windows(chunk)
            logits, quality = self._decode(features, chunk, windows * (longest / size), pixels)
            return logits, quality, (windows * (max(detections.image_hw) / size)).float().cpu().numpy()

        for logits, quality, windows in self._chunks(decode, boxes):
            masks += [window_to_rle(*pair, detections.image_hw) for pair in zip(logits, windows, strict=True)]
            qualities.append(quality)
        return Instances(detections, tuple(masks), np.concatenate(qualities))

    def _encode(self, pixels: Tensor) -> Features:
        with low_precision(self._precision, self.device.type):
            maps = self.network.image_encoder(pixels[None].to(self.device, memory_format=torch.channels_last))
        return Features(*(check_numbers(one.float(), self._precision) for one in maps))

    def _decode(
        self, features: Features, boxes: Tensor, windows: Tensor, pixels: Tensor
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        seen = window_pixels(pixels, windows, 4 * self.network.config.cells)
        index = torch.zeros(len(boxes), dtype=torch.int64, device=self.device)
        logits, quality = self.network.decode(features, index, boxes, seen)
        return logits.float().cpu().numpy(), quality.float().clamp(0, 1).cpu().numpy()


def save_tiny_sam(network: TinySam, folder: Path) -> None:
    """Write a network as model.safetensors (float16) and config.json, each whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    state = {name: value.detach().cpu().contiguous() for name, value in network.state_dict().items()}
    halved = {name: value.half() if value.is_floating_point() else value for name, value in state.items()}
    fields = {"model_type": "tiny-sam", **network.config.to_dict()}
    _write(folder / "model.safetensors", save(halved, metadata={"format": "pt"}))
    _write(folder / "config.json", (json.dumps(fields, indent=2) + "\n").encode("utf-8"))


def _write(path: Path, content: bytes) -> None:
    part = path.with_name(path.name + ".part")
    part.write_bytes(content)
    os.replace(part, path)


def read_tiny_sam(folder: Path) -> TinySam:
    """Read what `save_tiny_sam` wrote.

    Raises:
        FileNotFoundError: A file is missing.
        ValueError: A file is damaged or the weights do not fit the configuration.
    """
    weights, config = folder / "model.safetensors", folder / "config.json"
    for path in (weights, config):
        if not path.is_file():
            raise FileNotFoundError(f"{path} is missing; a tiny SAM is a folder with model.safetensors and config.json")
    try:
        network = TinySam(TinySamConfig.from_dict(json.loads(config.read_text(encoding="utf-8"))))
        # Loading copies into float32 parameters, so that the half precision of the file stays in the file.
        network.load_state_dict(load_file(weights))
    except (ValueError, TypeError, AttributeError, RuntimeError, SafetensorError) as error:
        raise ValueError(f"{folder} holds no usable tiny SAM: {error}") from error
    return network


def load_tiny_sam(
    device: str = "cpu", boxes_per_chunk: int = 64, folder: Path = BUNDLED, precision: Precision = "fp32"
) -> TinySamSegmenter:
    """Load the bundled tiny SAM, or another one from its folder, for inference only.

    Raises:
        FileNotFoundError: A file is missing.
        ValueError: A file is damaged, or boxes_per_chunk is not positive.
    """
    network = read_tiny_sam(folder).eval()
    prepare_convolutions(network)
    return TinySamSegmenter(network, device, boxes_per_chunk, precision)
