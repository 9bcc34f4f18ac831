"""Text passes over the features of images: as many in one batch as the device holds."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from models.boxes import FloatArray
from models.grounding_dino.compiled import CompiledSteps
from models.grounding_dino.features import GroundingModel, ImageFeatures, TextFeatures
from models.grounding_dino.forward import predict
from models.grounding_dino.spans import span_scores
from models.grounding_dino.texts import TextPass
from models.out_of_memory import Halving
from models.precision import Precision, check_numbers

_BYTES_PER_TOKEN = 80 * 1024
"""What an image token takes at most in a layer, with d = 256: the sampled values of all levels, twice, and the FFN."""


@dataclass(frozen=True, eq=False)
class PassScores:
    """What one text pass says about a batch of images.

    Attributes:
        prompts: The pass's P prompts, indices into the ontology's.
        scores: (B, Q, P) float32, the mean of the sigmoid over a prompt's tokens.
        tops: (B, Q, P) float32, the probability of a prompt's best token.
        boxes: (B, Q, 4) float32, cx cy w h relative to the image.
    """

    prompts: list[int]
    scores: FloatArray
    tops: FloatArray
    boxes: FloatArray

    def for_image(self, row: int, count: int) -> "PassScores":
        """Return the scores of a batch of one image as those of image `row` of `count`; 0 for the others."""
        arrays = (self.scores, self.tops, self.boxes)
        wide = [np.zeros((count, *array.shape[1:]), np.float32) for array in arrays]
        for target, array in zip(wide, arrays, strict=True):
            target[row] = array[0]
        return PassScores(self.prompts, *wide)


def run_passes(
    model: GroundingModel,
    image: ImageFeatures,
    passes: Sequence[TextPass],
    precision: Precision = "fp32",
    compiled: CompiledSteps | None = None,
) -> Iterator[PassScores]:
    """Run text passes over a batch of images and yield what each says, in order; call it without gradient.

    Several passes share a batch where an accelerator has the memory; when that runs out nevertheless, half as many.
    On a CPU a batch is slower than its parts.

    Args:
        model: The model.
        image: Features of B images.
        passes: In order.
        precision: Of the feature enhancer.
        compiled: Steps of this model to run instead.

    Raises:
        torch.OutOfMemoryError: One pass alone does not fit.
        ArithmeticError: Numbers leave the range of the feature enhancer's precision.
    """
    together = Halving(passes_at_once(image), "text passes")
    for scores in together(lambda chosen: _run(model, image, chosen, precision, compiled), passes):
        yield from scores


def passes_at_once(image: ImageFeatures) -> int:
    """Return how many passes share a batch: one on a CPU, else what half of the free memory holds."""
    if image.tokens.device.type != "cuda":
        return 1
    free, _ = torch.cuda.mem_get_info(image.tokens.device)
    rows = free // 2 // (_BYTES_PER_TOKEN * image.tokens.shape[1])
    return max(int(rows) // len(image.tokens), 1)


def _run(
    model: GroundingModel,
    image: ImageFeatures,
    passes: Sequence[TextPass],
    precision: Precision,
    compiled: CompiledSteps | None,
) -> list[PassScores]:
    count = len(image.tokens)
    images, texts = _repeat_images(image, len(passes)), join_texts(passes, count)
    logits, boxes = compiled.predict(images, texts) if compiled else predict(model, images, texts, precision)
    check_numbers(boxes, precision)
    found = []
    for place, text_pass in enumerate(passes):
        rows = slice(place * count, (place + 1) * count)
        own = logits[rows].float()
        tops = torch.stack([own[..., start:end].sigmoid().amax(-1) for start, end in text_pass.text.spans], dim=-1)
        parts = (part.cpu().numpy() for part in (span_scores(own, text_pass.text), tops, boxes[rows].float()))
        found.append(PassScores(text_pass.prompts, *parts))
    return found


def join_texts(passes: Sequence[TextPass], images: int) -> TextFeatures:
    """Pad the passes' texts to one length and return them as a batch, each `images` times in a row."""
    like = passes[0].features.tokens
    count, length = len(passes), max(len(text_pass.text) for text_pass in passes)
    tokens = like.new_zeros((count, length, like.shape[-1]))
    token_mask = torch.zeros((count, length), dtype=torch.bool, device=like.device)
    phrase_mask = torch.eye(length, dtype=torch.bool, device=like.device).repeat(count, 1, 1)
    position_ids = torch.zeros((count, length), dtype=torch.long, device=like.device)
    for row, text_pass in enumerate(passes):
        own, text = slice(len(text_pass.text)), text_pass.features
        tokens[row, own], token_mask[row, own] = text.tokens[0], text.token_mask[0]
        phrase_mask[row, own, own], position_ids[row, own] = text.phrase_mask[0], text.position_ids[0]
    parts = (tokens, token_mask, phrase_mask, position_ids)
    return TextFeatures(*(part.repeat_interleave(images, dim=0) for part in parts))


def _repeat_images(image: ImageFeatures, count: int) -> ImageFeatures:
    """Return the batch of images `count` times in a row; one image, or one time, without a copy."""
    if count == 1:
        return image
    if len(image.tokens) == 1:
        return image.expand(count)
    wide = (image.tokens.repeat(count, 1, 1), image.positions.repeat(count, 1, 1))
    return ImageFeatures(*wide, image.level_hw, image.summary.repeat(count, 1), image.fine)
