"""Batches as a pure function of the step: the same step gives the same batch, however often a run was resumed.

Under a time limit alone the image sizes and the sources depend on the time spent, too.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch.utils.data import Dataset
from transformers import PreTrainedTokenizerBase

from models.grounding_dino.spans import join_prompts, prompt_tokens, span_matrix, stack_texts
from models.training.forward import Batch
from models.training.matcher import Target
from models.training.prompts import Sample
from models.training.sources import SampleSource, to_unit


@dataclass(frozen=True)
class Phase:
    """A stretch of training at one set of image sizes.

    Attributes:
        until: Share of all steps, or of a time limit, at which it ends, in (0, 1].
        short_sides: Shorter image sides in pixels; each step draws one (multi-scale training).
        shares: Probability of each source for a step; None leaves that to the batches.
    """

    until: float
    short_sides: tuple[int, ...]
    shares: tuple[float, ...] | None = None


def sample_to_target(sample: Sample, span_map: torch.Tensor) -> Target:
    """Return a sample's truth as the criterion wants it; `span_map` is (P, T), its prompts' tokens."""
    height, width = sample.image.shape[:2]
    corners = torch.from_numpy(np.asarray(sample.boxes_xyxy, np.float32)) / torch.tensor([width, height] * 2)
    boxes = torch.cat([(corners[:, :2] + corners[:, 2:]) / 2, corners[:, 2:] - corners[:, :2]], dim=1)
    token_map = (torch.from_numpy(sample.positive.astype(np.float32)) @ span_map).clamp(max=1)
    return Target(boxes, token_map)


def stack_images(samples: Sequence[Sample]) -> torch.Tensor:
    """Return the images of samples as (B, 3, H, W) float32, normalised.

    Raises:
        ValueError: They differ in size.
    """
    if len({sample.image.shape for sample in samples}) != 1:
        raise ValueError("a batch takes images of one size: padding changes Grounding DINO's results")
    return torch.from_numpy(np.stack([to_unit(sample.image) for sample in samples]))


def collate(samples: Sequence[Sample], tokenizer: PreTrainedTokenizerBase) -> Batch:
    """Join samples of one size into a batch.

    Raises:
        ValueError: The images differ in size.
    """
    pixels = stack_images(samples)
    texts = [
        join_prompts(tokenizer, [prompt_tokens(tokenizer, prompt) for prompt in sample.prompts]) for sample in samples
    ]
    input_ids, token_mask = stack_texts(texts)
    span_maps = [span_matrix(text, input_ids.shape[1]) for text in texts]
    targets = [sample_to_target(sample, spans) for sample, spans in zip(samples, span_maps, strict=True)]
    return Batch(pixels, input_ids, token_mask, span_maps, targets)


class StepBatches(Dataset[Batch]):
    """Item `step` is that step's batch.

    Args:
        sources: Where samples come from.
        shares: Probability of each source for a step, where the phase names none; a batch has one source, so that
            sizes are equal.
        tokenizer: Of the model.
        batch_size: Images a step.
        steps: How many steps there are.
        phases: Sizes over time, in order, the last until 1.
        seed: Everything random follows from it and the step.
        rank: Which of several processes this is; each sees other samples.
        join: Makes a batch of samples; None joins them with their texts, by `collate`.
        alphas: Weight of positives in each source's focal loss; None leaves that to the loss. Where many objects of a
            source have no label, a higher one keeps the scores of the others from falling.
    """

    def __init__(
        self,
        sources: Sequence[SampleSource],
        shares: Sequence[float],
        tokenizer: PreTrainedTokenizerBase,
        batch_size: int,
        steps: int,
        phases: Sequence[Phase],
        seed: int = 0,
        rank: int = 0,
        join: Callable[[Sequence[Sample]], Batch] | None = None,
        alphas: Sequence[float] | None = None,
    ) -> None:
        self._sources, self._batch_size = list(sources), batch_size
        self._join = join or (lambda samples: collate(samples, tokenizer))
        self._shares = tuple(shares)
        self._alphas = alphas
        self._steps, self._phases, self._seed, self._rank = steps, list(phases), seed, rank
        self._share_done = torch.zeros((), dtype=torch.float64).share_memory_()

    def __len__(self) -> int:
        return self._steps

    def set_share_done(self, share: float) -> None:
        """Say which share of a time limit is over: phases follow it where it is further than the steps.

        A loader's process sees it too, and makes a batch or two ahead.
        """
        self._share_done.fill_(share)

    def __getitem__(self, step: int) -> Batch:
        """Make the batch of a step: one source, one image size, fresh samples."""
        common = np.random.default_rng([self._seed, step])
        done = max(step / self._steps, self._share_done.item())
        phase = next(phase for phase in self._phases if done < phase.until or phase is self._phases[-1])
        shares = np.asarray(self._shares if phase.shares is None else phase.shares, float)
        chosen = int(common.choice(len(self._sources), p=shares / shares.sum()))
        source = self._sources[chosen]
        short = int(common.choice(phase.short_sides))
        size_hw = (short, round(short * source.aspect)) if source.aspect >= 1 else (round(short / source.aspect), short)
        rng = np.random.default_rng([self._seed, step, self._rank])
        batch = self._join([source.draw(rng, size_hw) for _ in range(self._batch_size)])
        return batch if self._alphas is None else replace(batch, alpha=self._alphas[chosen])
