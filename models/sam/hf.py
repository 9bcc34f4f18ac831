"""Segment Anything by transformers."""

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import SamModel

from models.precision import Precision
from models.sam.square import SquareSegmenter

TIED = "shared_embedding.positional_embedding"
"""The prompt encoder's copy of the positional embedding; some files hold only one of the two."""


class HfSam(SquareSegmenter):
    """A transformers `SamModel` as a segmenter; see `SquareSegmenter` for the options."""

    def __init__(
        self,
        model: SamModel,
        device: str = "cpu",
        boxes_per_chunk: int = 64,
        multimask: bool = False,
        precision: Precision = "fp32",
    ) -> None:
        config: Any = model.config
        super().__init__(int(config.vision_config.image_size), device, boxes_per_chunk, multimask, precision)
        self.model = nn.Module.to(model, self.device)
        self.model.train(False)

    def encode(self, pixels: Tensor) -> Tensor:
        """Return the embedding; see `SquareSegmenter.encode`."""
        embedding: Tensor = self.model.get_image_embeddings(pixels)
        return embedding

    def decode(self, embedding: Tensor, boxes_xyxy: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits and predicted IoU; see `SquareSegmenter.decode`."""
        output = self.model(image_embeddings=embedding, input_boxes=boxes_xyxy[None], multimask_output=self.multimask)
        return output.pred_masks[0], output.iou_scores[0]


def load_hf_sam(
    folder: str | Path,
    device: str = "cpu",
    boxes_per_chunk: int = 64,
    multimask: bool = False,
    precision: Precision = "fp32",
) -> HfSam:
    """Load a SAM of transformers from its folder; `models.zoo` finds or downloads one by name.

    Args:
        folder: Holds config.json and model.safetensors.
        device: "cpu", "cuda" or what torch takes.
        boxes_per_chunk: Boxes decoded at once, at least 1.
        multimask: Keep the best of three masks a box.
        precision: What the image encoder computes in.

    Returns:
        The segmenter.

    Raises:
        FileNotFoundError: The folder or a file in it is missing.
        ValueError: The files are damaged or no SAM, or boxes_per_chunk is not positive.
    """
    folder = Path(folder)
    config = folder / "config.json"
    if not config.is_file() or not any(folder.glob("*.safetensors")):
        raise FileNotFoundError(f"{folder} must hold config.json and model.safetensors of a Segment Anything model")
    try:
        fields = json.loads(config.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{config} is damaged: {error}") from error
    kind = fields.get("model_type") if isinstance(fields, dict) else None
    if kind != "sam":
        raise ValueError(f"{config} is of a model of type {kind!r}, not 'sam'")
    return HfSam(_read(folder), device, boxes_per_chunk, multimask, precision)


def _read(folder: Path) -> SamModel:
    options: dict[str, Any] = {"local_files_only": True, "use_safetensors": True, "output_loading_info": True}
    try:
        loaded: Any = SamModel.from_pretrained(str(folder), **options)
    except (OSError, RuntimeError, ValueError, TypeError, SafetensorError) as error:
        raise ValueError(f"{folder} holds no usable Segment Anything model: {error}") from error
    model: SamModel = loaded[0]
    # transformers fills what a file lacks with random numbers and goes on.
    missing = [key for key in loaded[1]["missing_keys"] if not key.endswith(TIED)]
    wrong = missing or [str(key) for key in loaded[1]["mismatched_keys"]]
    if wrong:
        raise ValueError(
            f"{folder} is no complete Segment Anything model: {len(wrong)} weights do not fit, as {wrong[0]}"
        )
    return model
