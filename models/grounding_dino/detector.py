"""The Grounding DINO detector: an ontology's prompts and a batch of images in, `Detections` out."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from transformers import GroundingDinoProcessor, PreTrainedTokenizerBase
from transformers.image_transforms import get_size_with_aspect_ratio

from models.boxes import FloatArray, clip_boxes, cxcywh_rel_to_xyxy
from models.class_spec import ClassSpec
from models.detections import Detections
from models.grounding_dino.forward import (
    GroundingModel,
    TextFeatures,
    TextLevel,
    encode_image,
    encode_text,
    predict,
)
from models.grounding_dino.packing import pack_prompts
from models.grounding_dino.spans import PromptText, join_prompts, prompt_tokens, span_scores, stack_texts
from models.interfaces import Image
from models.ontology import Ontology

BOX_THRESHOLD = 0.35
TEXT_THRESHOLD = 0.25
"""Defaults of the GroundingDINO repository's demos."""


@dataclass(frozen=True)
class DetectorSettings:
    """How a detector decides.

    Attributes:
        box_threshold: Least score of a box, unless its class has its own.
        text_threshold: Least probability that the best token of the box's prompt must reach, likewise.
        size: Shorter side to which images are resized, pixels; None for the model's own.
        prompts_per_pass: Most prompts a text pass, the negatives among them; None for as many as fit.
        text_level: Which words of a text see each other; what the model was trained with.

    Raises:
        ValueError: A number is out of range.
    """

    box_threshold: float = BOX_THRESHOLD
    text_threshold: float = TEXT_THRESHOLD
    size: int | None = None
    prompts_per_pass: int | None = None
    text_level: TextLevel = "sub-sentence"

    def __post_init__(self) -> None:
        for name in ("box_threshold", "text_threshold"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be between 0 and 1, not {getattr(self, name)}")
        if self.size is not None and self.size < 32:
            raise ValueError(f"size must be at least 32 pixels, not {self.size}")
        if self.prompts_per_pass is not None and self.prompts_per_pass < 1:
            raise ValueError(f"prompts_per_pass must be at least 1, not {self.prompts_per_pass}")


@dataclass(frozen=True, eq=False)
class TextPass:
    """One text pass: its prompts (indices into the ontology's), their text, and its encoded features."""

    prompts: list[int]
    text: PromptText
    features: TextFeatures


class GroundingDinoDetector:
    """Runs Grounding DINO or MM-Grounding-DINO; satisfies `models.interfaces.Detector`.

    Text is encoded once, when the detector is made; the image backbone runs once an image for all text passes. Negative
    prompts are part of every pass, so that each query can choose them.

    Args:
        model: The model; it is put into evaluation mode and moved to `device`.
        processor: Its processor, for the tokenizer and the resize.
        ontology: Classes and prompts.
        settings: Thresholds, size and packing.
        device: Where to run.

    Raises:
        ValueError: The ontology has no prompt, a prompt is too long or empty for the tokenizer, or the negatives leave
            no room for the others.
    """

    def __init__(
        self,
        model: GroundingModel,
        processor: GroundingDinoProcessor,
        ontology: Ontology,
        settings: DetectorSettings = DetectorSettings(),
        device: torch.device | str = "cpu",
    ) -> None:
        if not ontology.prompts:
            raise ValueError("the ontology has no prompt to look for")
        self.model = model
        nn.Module.to(nn.Module.eval(model), device)
        self.device = torch.device(device)
        self._image_processor = processor.image_processor
        size = self._image_processor.size
        self._short = settings.size or int(size["shortest_edge"])
        self._long = int(size["longest_edge"])
        if settings.size:
            self._long = round(settings.size * size["longest_edge"] / size["shortest_edge"])
        self._prompts = ontology.prompts
        self._class_ids = np.array([prompt.class_id for prompt in self._prompts], np.int64)
        by_class = {spec.id: spec for spec in ontology.classes}
        self._box_thresholds = self._per_prompt(by_class, "box_threshold", settings.box_threshold)
        self._text_thresholds = self._per_prompt(by_class, "text_threshold", settings.text_threshold)
        self._text_level = settings.text_level
        self._passes = self._encode_prompts(processor.tokenizer, settings.prompts_per_pass)

    def _per_prompt(self, by_class: dict[int, ClassSpec], name: str, default: float) -> FloatArray:
        values = [getattr(by_class.get(prompt.class_id), name, None) for prompt in self._prompts]
        return np.array([default if value is None else value for value in values], np.float32)

    @torch.inference_mode()
    def _encode_prompts(self, tokenizer: PreTrainedTokenizerBase, per_pass: int | None) -> list[TextPass]:
        tokens = [prompt_tokens(tokenizer, prompt.text) for prompt in self._prompts]
        limit = self.model.config.max_text_len
        for prompt, ids in zip(self._prompts, tokens, strict=True):
            if len(ids) + 3 > limit:
                raise ValueError(f"prompt {prompt.text!r} has {len(ids)} tokens, the model takes {limit - 3}: shorten")
        asked = [prompt.index for prompt in self._prompts if prompt.class_id]
        negative = [prompt.index for prompt in self._prompts if not prompt.class_id]
        taken = sum(len(tokens[index]) + 1 for index in negative)
        longest = max(asked, key=lambda index: len(tokens[index]))
        if taken + len(tokens[longest]) + 3 > limit:
            raise ValueError(
                f"the {len(negative)} negative prompts take {taken} of the {limit} tokens of a text and leave no room "
                f"for {self._prompts[longest].text!r}; use fewer"
            )
        share = None if per_pass is None else max(per_pass - len(negative), 1)
        passes = []
        for packed in pack_prompts([len(tokens[index]) for index in asked], limit - taken, share):
            members = [*(asked[place] for place in packed), *negative]
            text = join_prompts(tokenizer, [tokens[index] for index in members])
            input_ids, mask = stack_texts([text])
            features = encode_text(self.model, input_ids.to(self.device), mask.to(self.device), self._text_level)
            passes.append(TextPass(members, text, features))
        return passes

    @property
    def pass_count(self) -> int:
        """How many text passes an image takes."""
        return len(self._passes)

    def resized_hw(self, image_hw: tuple[int, int]) -> tuple[int, int]:
        """Return the (height, width) to which an image is resized: aspect kept, as the processor does it."""
        height, width = get_size_with_aspect_ratio(image_hw, self._short, self._long)
        return max(int(height), 1), max(int(width), 1)

    def __call__(self, images: Sequence[Image]) -> list[Detections]:
        """Detect in images of one resized size; see `models.interfaces.Detector`."""
        if not images:
            return []
        for image in images:
            if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
                raise ValueError(f"an image must be (H, W, 3) uint8 RGB, not {image.shape} {image.dtype}")
        sizes = {self.resized_hw(image.shape[:2]) for image in images}
        if len(sizes) > 1:
            raise ValueError(f"images of one batch must have one resized size, not {sorted(sizes)}")
        scores, tops, boxes = self.score(images)
        return [
            self._to_detections(image.shape[:2], scores[row], tops[row], boxes[row]) for row, image in enumerate(images)
        ]

    @torch.inference_mode()
    def score(self, images: Sequence[Image]) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Run the model and score every query for every prompt, without thresholds.

        Args:
            images: B images of one resized size, at least one.

        Returns:
            Scores (B, Q, P) and best-token probabilities (B, Q, P), float32, 0 where the query belongs to a pass
            without the prompt; boxes (B, Q, 4), cx cy w h relative to the image. Q counts the queries of all passes.
        """
        pixels = self._pixels(images)
        features = encode_image(self.model, pixels)
        all_scores, all_tops, all_boxes = [], [], []
        for text_pass in self._passes:
            logits, boxes = predict(self.model, features, _repeat(text_pass.features, len(images)))
            logits = logits.float()
            scores = logits.new_zeros((*logits.shape[:2], len(self._prompts)))
            tops = scores.clone()
            scores[..., text_pass.prompts] = span_scores(logits, text_pass.text)
            for index, (start, end) in zip(text_pass.prompts, text_pass.text.spans, strict=True):
                tops[..., index] = logits[..., start:end].sigmoid().amax(-1)
            all_scores.append(scores)
            all_tops.append(tops)
            all_boxes.append(boxes.float())
        joined = (torch.cat(parts, dim=1).cpu().numpy() for parts in (all_scores, all_tops, all_boxes))
        scores_array, tops_array, boxes_array = joined
        return scores_array, tops_array, boxes_array

    def _pixels(self, images: Sequence[Image]) -> Tensor:
        height, width = self.resized_hw(images[0].shape[:2])
        batch = self._image_processor(
            images=list(images),
            size={"height": height, "width": width},
            do_pad=False,
            input_data_format="channels_last",
            return_tensors="pt",
        )
        pixels: Tensor = batch["pixel_values"].to(self.device, self.model.dtype)
        return pixels

    def _to_detections(
        self,
        image_hw: tuple[int, int],
        scores: FloatArray,
        tops: FloatArray,
        boxes: FloatArray,
    ) -> Detections:
        """Keep, for each query, each class whose best prompt passes; nothing where a negative prompt is better."""
        negative = self._class_ids == 0
        beaten = scores[:, negative].max(1, initial=0.0)
        passes = (scores >= self._box_thresholds) & (tops >= self._text_thresholds) & (scores >= beaten[:, None])
        passes &= scores > 0
        passes[:, negative] = False
        queries, prompts = [], []
        for class_id in np.unique(self._class_ids[~negative]):
            columns = np.flatnonzero(self._class_ids == class_id)
            masked = np.where(passes[:, columns], scores[:, columns], -1.0)
            best = masked.argmax(1)
            found = np.flatnonzero(masked[np.arange(len(masked)), best] >= 0)
            queries.append(found)
            prompts.append(columns[best[found]])
        rows, columns = np.concatenate(queries), np.concatenate(prompts)
        order = np.argsort(-scores[rows, columns], kind="stable")
        rows, columns = rows[order], columns[order]
        pixels = clip_boxes(cxcywh_rel_to_xyxy(boxes[rows], image_hw), image_hw)
        return Detections(image_hw, pixels, scores[rows, columns], self._class_ids[columns], columns)


def _repeat(text: TextFeatures, count: int) -> TextFeatures:
    """Return one text's features for `count` images, without a copy."""
    return TextFeatures(
        text.tokens.expand(count, -1, -1),
        text.token_mask.expand(count, -1),
        text.phrase_mask.expand(count, -1, -1),
        text.position_ids.expand(count, -1),
    )
