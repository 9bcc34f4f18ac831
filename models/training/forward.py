"""The forward pass of training: matching and denoising queries through one decoder call."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from models.grounding_dino.box_refiner import refiner_of
from models.grounding_dino.features import Decoded, GroundingModel, ImageFeatures, TextFeatures, TextLevel
from models.grounding_dino.forward import decode, encode_image, encode_text, enhance
from models.grounding_dino.query_selection import Selection, start_queries
from models.training.attention import use_fused_attention
from models.training.denoising import Denoising, DenoisingConfig, attention_blocked, make_denoising
from models.training.matcher import Target
from models.training.refining import RefinerOutput, add_noisy_copies, find_samples, refine_samples


@dataclass(frozen=True, eq=False)
class Batch:
    """A batch of equal-sized images with their texts and truth.

    Attributes:
        pixel_values: (B, 3, H, W) float32, normalised.
        input_ids: (B, T) int64.
        token_mask: (B, T) bool, False on padding.
        span_maps: (P, T) float32 an image, the tokens of each of its prompts.
        targets: One an image.
        alpha: Weight of positives in the focal loss; None leaves that to the loss.
    """

    pixel_values: Tensor
    input_ids: Tensor
    token_mask: Tensor
    span_maps: Sequence[Tensor]
    targets: Sequence[Target]
    alpha: float | None = None

    def to(self, device: torch.device) -> "Batch":
        """Return the batch on another device."""
        return Batch(
            self.pixel_values.to(device),
            self.input_ids.to(device),
            self.token_mask.to(device),
            [spans.to(device) for spans in self.span_maps],
            [Target(target.boxes.to(device), target.token_map.to(device)) for target in self.targets],
            self.alpha,
        )


@dataclass(frozen=True, eq=False)
class TrainingOutput:
    """All that the criterion wants of one forward pass.

    `selection` is None where the anchors are learned, `refiner` where the model has no box refiner.
    """

    decoded: Decoded
    selection: Selection | None
    denoised: Decoded | None
    denoising: Denoising | None
    refiner: RefinerOutput | None


class DenoisingTrainer(nn.Module):
    """A Grounding DINO with what only its training needs: the content of denoising queries.

    Args:
        model: The detector; what is saved after training. Its attention is changed to a cheaper form in place.
        config: Amounts of denoising noise.
        text_level: Which words of a text see each other.
        look_forward_twice: Let the box of a layer train the layer before too.
    """

    def __init__(
        self,
        model: GroundingModel,
        config: DenoisingConfig = DenoisingConfig(),
        text_level: TextLevel = "sub-sentence",
        look_forward_twice: bool = True,
    ) -> None:
        super().__init__()
        self.name_content = nn.Linear(model.config.d_model, model.config.d_model)
        self.use_model(model)
        self.config = config
        self.text_level = text_level
        self.look_forward_twice = look_forward_twice

    def use_model(self, model: GroundingModel) -> None:
        """Train this detector from here on; its attention is changed to a cheaper form in place.

        The content of denoising queries is learned anew where the width is another one.
        """
        use_fused_attention(model)
        self.model = model
        width = model.config.d_model
        if self.name_content.in_features != width:
            self.name_content = nn.Linear(width, width)

    def read_text(self, batch: Batch) -> TextFeatures:
        """Encode the batch's texts."""
        return encode_text(self.model, batch.input_ids, batch.token_mask, self.text_level)

    def forward(self, batch: Batch, generator: torch.Generator) -> TrainingOutput:
        """Run the model on a batch; `generator` (CPU) draws the denoising noise."""
        text = self.read_text(batch)
        image = encode_image(self.model, batch.pixel_values)
        encoded = enhance(self.model, image, text)
        start = start_queries(self.model, encoded)
        content, references, selection = start.content, start.references, start.selection
        denoising = make_denoising(batch.targets, batch.span_maps, self.config, generator)
        if denoising is None:
            decoded = decode(self.model, encoded, content, references, look_forward_twice=self.look_forward_twice)
            return TrainingOutput(decoded, selection, None, None, self._refine(image, decoded, batch, generator))
        names = self.name_content(denoising.prompts @ text.tokens)
        decoded = decode(
            self.model,
            encoded,
            torch.cat([names, content], dim=1),
            torch.cat([denoising.references, references], dim=1),
            attention_blocked(denoising, content.shape[1]),
            self.look_forward_twice,
        )
        count = names.shape[1]
        matching, denoised = decoded.of_queries(slice(count, None)), decoded.of_queries(slice(count))
        return TrainingOutput(matching, selection, denoised, denoising, self._refine(image, matching, batch, generator))

    def _refine(
        self, image: ImageFeatures, decoded: Decoded, batch: Batch, generator: torch.Generator
    ) -> RefinerOutput | None:
        refiner = refiner_of(self.model)
        if refiner is None or image.fine is None:
            return None
        found = find_samples(decoded.logits[-1], decoded.boxes[-1], decoded.queries, batch.targets)
        return refine_samples(refiner, image.fine, add_noisy_copies(found, generator))
