"""Training with a closed set of classes: learned class vectors where the text encoder's output would stand.

Everything else (losses, matching, denoising, query selection) is the same, so this is the reference of an ablation
and a detector that needs no prompts.
"""

from collections.abc import Sequence
from typing import cast

import numpy as np
import torch
from torch import Tensor
from transformers import GroundingDinoProcessor

from models.grounding_dino.closed_set import ClassTokens
from models.grounding_dino.features import GroundingModel, TextFeatures, TextLevel
from models.grounding_dino.forward import encode_text
from models.grounding_dino.spans import join_prompts, prompt_tokens, span_matrix, stack_texts
from models.training.batches import sample_to_target, stack_images
from models.training.denoising import DenoisingConfig
from models.training.forward import Batch, DenoisingTrainer
from models.training.prompts import PromptSampling, Sample


@torch.no_grad()
def class_tokens_from_text(
    model: GroundingModel, processor: GroundingDinoProcessor, names: Sequence[str]
) -> ClassTokens:
    """Start class vectors where the text encoder puts the names: the mean over a name's tokens.

    Raises:
        ValueError: There are more classes than the model takes tokens, or a name is no prompt.
    """
    limit = model.config.max_text_len
    if len(names) > limit:
        raise ValueError(f"a closed set of this model holds at most {limit} classes, not {len(names)}")
    model.train(False)
    vectors = [_text_vector(model, processor, name) for name in names]
    return ClassTokens(names, torch.stack(vectors))


def _text_vector(model: GroundingModel, processor: GroundingDinoProcessor, name: str) -> Tensor:
    text = join_prompts(processor.tokenizer, [prompt_tokens(processor.tokenizer, name)])
    input_ids, mask = stack_texts([text])
    tokens = encode_text(model, input_ids, mask).tokens
    spans = span_matrix(text, input_ids.shape[1])
    return (spans @ tokens[0])[0] / spans.sum()


def ask_for_all(names: Sequence[str]) -> PromptSampling:
    """Return the sampling that asks every image for all classes."""
    return PromptSampling((len(names),), (1.0,), nothing_present=0.0, keep_present=1.0)


def collate_classes(samples: Sequence[Sample], names: Sequence[str]) -> Batch:
    """Join samples of one size into a batch whose "text" is one token a class, in the order of `names`.

    Args:
        samples: At least one; each asked for all classes, in any order.
        names: C classes.

    Raises:
        ValueError: The images differ in size.
    """
    count = len(names)
    spans = torch.eye(count)
    targets = []
    for sample in samples:
        places = [names.index(prompt) for prompt in sample.prompts]
        positive = np.zeros((len(sample.positive), count), bool)
        positive[:, places] = sample.positive
        targets.append(sample_to_target(Sample(sample.image, sample.boxes_xyxy, tuple(names), positive), spans))
    class_ids = torch.arange(count).expand(len(samples), -1)
    mask = torch.ones(len(samples), count, dtype=torch.bool)
    return Batch(stack_images(samples), class_ids, mask, [spans] * len(samples), targets)


class ClosedSetTrainer(DenoisingTrainer):
    """A trainer whose detector reads class vectors instead of text.

    Args:
        model: The detector; the vectors become its submodule `class_tokens`, averaged and kept with it.
        classes: The vectors.
        config: Amounts of denoising noise.
        text_level: Without effect; there is no text.
        look_forward_twice: As in `DenoisingTrainer`.
    """

    def __init__(
        self,
        model: GroundingModel,
        classes: ClassTokens,
        config: DenoisingConfig = DenoisingConfig(),
        text_level: TextLevel = "sub-sentence",
        look_forward_twice: bool = True,
    ) -> None:
        super().__init__(model, config, text_level, look_forward_twice)
        model.class_tokens = classes

    def read_text(self, batch: Batch) -> TextFeatures:
        """Return the class vectors; the batch's ids are class indices."""
        return cast(ClassTokens, self.model.class_tokens).forward(batch.input_ids)
