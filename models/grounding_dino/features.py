"""What flows through Grounding DINO's forward pass: tensors of a batch, with what their shapes mean."""

from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
from torch import Tensor
from transformers import GroundingDinoForObjectDetection, MMGroundingDinoForObjectDetection

GroundingModel: TypeAlias = GroundingDinoForObjectDetection | MMGroundingDinoForObjectDetection
TextLevel: TypeAlias = Literal["sub-sentence", "word", "sentence"]


@dataclass(frozen=True, eq=False)
class ImageFeatures:
    """A batch of images after backbone and input projection.

    Attributes:
        tokens: (B, S, d), the feature levels flattened and joined.
        positions: (B, S, d), position plus level embedding.
        level_hw: (height, width) of each level; their products sum to S.
        summary: (B, D) of unit length, what the backbone makes of the whole image: like images, like directions.
        fine: The maps of strides 2 and 4 that a box refiner reads, None without one. Where the other tensors repeat F
            images, these do not: row r of the others belongs to image r modulo F.
    """

    tokens: Tensor
    positions: Tensor
    level_hw: list[tuple[int, int]]
    summary: Tensor
    fine: tuple[Tensor, Tensor] | None = None

    @property
    def shapes(self) -> Tensor:
        """(L, 2) int64, height and width a level."""
        return torch.as_tensor(self.level_hw, dtype=torch.long, device=self.tokens.device)

    @property
    def level_starts(self) -> Tensor:
        """(L,) int64, where each level begins in `tokens`."""
        sizes = self.shapes.prod(1)
        return torch.cat([sizes.new_zeros(1), sizes.cumsum(0)[:-1]])

    def expand(self, count: int) -> "ImageFeatures":
        """Return the features of one image for `count` text passes in a batch, without a copy."""
        wide = (self.tokens.expand(count, -1, -1), self.positions.expand(count, -1, -1))
        return ImageFeatures(*wide, self.level_hw, self.summary.expand(count, -1), self.fine)


@dataclass(frozen=True, eq=False)
class TextFeatures:
    """A batch of prompt texts after the text encoder.

    Attributes:
        tokens: (B, T, d).
        token_mask: (B, T) bool, True where a token is no padding.
        phrase_mask: (B, T, T) bool, True where a token may attend to another.
        position_ids: (B, T) int64, the place of a token in its phrase.
    """

    tokens: Tensor
    token_mask: Tensor
    phrase_mask: Tensor
    position_ids: Tensor


@dataclass(frozen=True, eq=False)
class Encoded:
    """Image and text after the feature enhancer: (B, S, d) and (B, T, d)."""

    vision: Tensor
    text: Tensor
    image: ImageFeatures
    token_mask: Tensor


@dataclass(frozen=True, eq=False)
class Decoded:
    """Predictions of the decoder layers, first to last.

    Attributes:
        logits: (layers, B, Q, T), -inf on text padding.
        boxes: (layers, B, Q, 4), cx cy w h relative to the image, in [0, 1].
        queries: (B, Q, d), the last layer's, normalised.
    """

    logits: Tensor
    boxes: Tensor
    queries: Tensor

    def of_queries(self, chosen: slice) -> "Decoded":
        """Return the predictions of some of the queries, without a copy."""
        return Decoded(self.logits[:, :, chosen], self.boxes[:, :, chosen], self.queries[:, chosen])
