"""What fine-tuning decides before it starts: sizes, prompts a text, what is frozen, how many steps; and its result."""

import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from transformers import GroundingDinoProcessor, PreTrainedTokenizerBase

from models.grounding_dino.spans import prompt_tokens
from models.training.batches import Phase, StepBatches
from models.training.checkpoint import write_atomically
from models.training.evaluate import Precision
from models.training.finetune_config import DEFAULT_EPOCHS, FinetuneConfig
from models.training.forward import DenoisingTrainer
from models.training.loop import LoopConfig, training_loss

SMALL_MODEL = 20_000_000
_MOST_EVALUATIONS = 10
_EVALUATION_SHARE = 0.15
_SAVE_SECONDS = 120
_FULL_SIZE_FROM = 0.6
_VISIBLE_PX = 24
_MOST_ENLARGED = 1.5
_SPARE = 1.1
"""Under a time limit, the steps that there are over those that are expected, so that they do not run out."""
_FROZEN = {"backbone": ("model.backbone.conv_encoder.",), "text": ("model.text_backbone.",)}
_TEXT = ("model.text_backbone.", "model.text_projection.")

Value = TypeVar("Value")


@dataclass(frozen=True)
class TrainingPlan:
    """What a training will do; kept in its folder, so that a resumed one does the same.

    Attributes:
        config: How it was asked for.
        steps: Optimiser steps; under a time limit a tenth more than are expected.
        step_seconds: What a step was measured to take.
        evaluate_every: Steps between evaluations.
        before: The detector's accuracy at the start, on the validation split.
        words: Words that are new to the detector.
    """

    config: FinetuneConfig
    steps: int
    step_seconds: float
    evaluate_every: int
    before: Precision
    words: tuple[str, ...]

    @classmethod
    def make(
        cls,
        config: FinetuneConfig,
        step_seconds: float,
        evaluation_seconds: float,
        steps_per_epoch: float,
        before: Precision,
        words: tuple[str, ...],
    ) -> "TrainingPlan":
        """Plan so that evaluations take a small share of the time."""
        if config.minutes is None:
            steps = math.ceil((config.epochs or DEFAULT_EPOCHS) * steps_per_epoch)
            seconds = steps * step_seconds
        else:
            seconds = config.minutes * 60
        evaluations = min(max(int(_EVALUATION_SHARE * seconds / max(evaluation_seconds, 1e-3)), 1), _MOST_EVALUATIONS)
        if config.minutes is not None:
            training = max(seconds - evaluations * evaluation_seconds, 0.2 * seconds)
            steps = math.ceil(_SPARE * training / step_seconds)
        return cls(config, steps, step_seconds, math.ceil(steps / evaluations), before, words)

    def describe(self, step_images: int, images: int, validation_images: int) -> str:
        """Return the plan as two lines for a person."""
        if self.config.minutes is not None:
            length = f"for {self.config.minutes:g} minutes, about {self.steps} steps"
        else:
            length = f"{self.steps} steps, about {self.steps * self.step_seconds / 60:.1f} minutes and the evaluations"
        return (
            f"training on {images} images, {step_images} a step, {length}\n"
            f"before: AP50 {self.before.ap50:.3f}, AP {self.before.ap:.3f} on {validation_images} validation images"
        )

    def check_same(self, config: FinetuneConfig) -> None:
        """Make sure that a resumed training is the one that was begun.

        Raises:
            ValueError: An option differs.
        """
        begun, wanted = asdict(self.config), asdict(config)
        for name, value in begun.items():
            if wanted[name] != value:
                option = f"--{name.replace('_', '-')}"
                raise ValueError(
                    f"this training was begun with {option} {value}, not {wanted[name]}; "
                    "resume with the options that it was begun with, or start anew with --overwrite"
                )

    def write(self, path: Path) -> None:
        """Write the plan, whole or not at all."""
        write_atomically(json.dumps(asdict(self), indent=2) + "\n", path)

    @classmethod
    def read(cls, path: Path) -> "TrainingPlan | None":
        """Read a plan; None where there is none yet."""
        if not path.exists():
            return None
        content = json.loads(path.read_text(encoding="utf-8"))
        config = FinetuneConfig(**content.pop("config"))
        return cls(config, before=Precision(**content.pop("before")), words=tuple(content.pop("words")), **content)


@dataclass(frozen=True)
class FinetuneResult:
    """What a training reached.

    Attributes:
        model: The best model's folder.
        objects: Class name -> its boxes in the validation split.
        before: Accuracy of the start on the validation split.
        after: Of the best model, likewise.
        words: Words that were new to the detector.
        steps: Steps made.
        train_images: Images learned from.
        validation_images: Images judged by.
    """

    model: Path
    objects: dict[str, int]
    before: Precision
    after: Precision
    words: tuple[str, ...]
    steps: int
    train_images: int
    validation_images: int

    def write(self, path: Path) -> None:
        """Write the result, whole or not at all."""
        write_atomically(json.dumps(asdict(self) | {"model": str(self.model)}, indent=2) + "\n", path)

    @classmethod
    def read(cls, path: Path) -> "FinetuneResult":
        """Read a result.

        Raises:
            FileNotFoundError: There is none.
        """
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        content["model"], content["words"] = Path(content["model"]), tuple(content["words"])
        content["before"], content["after"] = Precision(**content["before"]), Precision(**content["after"])
        return cls(**content)


def choose_size(
    processor: GroundingDinoProcessor, wanted: int | None, smallest: float = 1.0, largest: float = math.inf
) -> dict[str, int]:
    """Return the processor's image size, or one of the same proportion with another shorter side.

    Where none is wanted it is the processor's own, or up to half as much again so that small objects stay visible: a
    multiple of 32 at which they are three cells of the finest feature map wide.

    Args:
        processor: The detector's.
        wanted: Shorter side in pixels.
        smallest: Side of small objects as a share of the images' shorter side, above 0.
        largest: Shorter side of the images, pixels; more than that shows nothing more.
    """
    own = processor.image_processor.size
    shortest, longest = int(own["shortest_edge"]), int(own["longest_edge"])
    if wanted is None:
        visible = math.ceil(_VISIBLE_PX / smallest / 32) * 32
        wanted = max(shortest, round(min(visible, math.floor(_MOST_ENLARGED * shortest / 32) * 32, largest)))
    return {"shortest_edge": wanted, "longest_edge": round(wanted * longest / shortest)}


def plan_phases(size: dict[str, int], aspect: float, config: FinetuneConfig) -> list[Phase]:
    """Return how images are shown over a training.

    Their shorter sides are mixed and smaller at first, then near the full size. Windows and mosaics, which keep a
    detector from learning few images by heart, give way to whole images, as the detector will be asked for them.

    Args:
        size: `shortest_edge` and `longest_edge`, pixels.
        aspect: Width over height of the batches.
        config: Says from when on images are whole.

    Returns:
        Phases of two sources, of varied images and of whole ones.

    Source: Ge et al. 2021 (YOLOX), section 2, for the end without mosaics.
    """
    short = min(size["shortest_edge"], size["longest_edge"] / max(aspect, 1 / aspect))
    sides = [max(round(short * share / 16), 2) * 16 for share in (0.7, 0.85, 1.0)]
    last = [max(round(short * share / 16), 2) * 16 for share in (0.93, 1.0)]
    starts = sorted({0.0, _FULL_SIZE_FROM, config.whole_from} - {1.0})
    return [
        Phase(
            until,
            tuple(sides if start < _FULL_SIZE_FROM else last),
            (0.0, 1.0) if start >= config.whole_from else (1.0, 0.0),
        )
        for start, until in zip(starts, [*starts[1:], 1.0], strict=True)
    ]


def fit_prompts(tokenizer: PreTrainedTokenizerBase, names: Sequence[str], limit: int, wanted: int) -> int:
    """Return how many class names surely fit into one text, at most `wanted`.

    Args:
        tokenizer: The model's.
        names: All class names, at least one.
        limit: Most tokens of a text.
        wanted: Most names.

    Raises:
        ValueError: A name is no prompt, or too long for a text.
    """
    room, count = limit - 2, 0
    for length in sorted((len(prompt_tokens(tokenizer, name)) for name in names), reverse=True):
        room -= length + 1
        if room < 0:
            break
        count += 1
    if count == 0:
        raise ValueError(f"a class name has more tokens than the {limit} that the model takes; shorten it")
    return min(count, wanted)


def freeze_parts(trainer: DenoisingTrainer, parts: Sequence[str], words: Sequence[str], closed_set: bool) -> int:
    """Exclude parts of the detector from training, all the rest takes part.

    Args:
        trainer: Changed in place.
        parts: Of `finetune_config.PARTS`.
        words: Words new to the detector.
        closed_set: Nothing reads the text encoder.

    Returns:
        How many parameters are frozen.

    Raises:
        ValueError: The text encoder is to be frozen although it has new words to learn.
    """
    if "text" in parts and words and not closed_set:
        raise ValueError(
            f"the detector does not know {', '.join(words)}: it can learn these words only without --freeze text"
        )
    prefixes = tuple(prefix for part in parts for prefix in _FROZEN[part]) + (_TEXT if closed_set else ())
    frozen = 0
    for name, parameter in trainer.model.named_parameters():
        parameter.requires_grad_(not name.startswith(prefixes))
        frozen += 0 if parameter.requires_grad else parameter.numel()
    return frozen


def timed(call: Callable[[], Value]) -> tuple[Value, float]:
    """Return a call's result and how many seconds it took."""
    begun = time.monotonic()
    return call(), time.monotonic() - begun


def measure_step(trainer: DenoisingTrainer, batches: StepBatches, device: torch.device) -> float:
    """Return about how many seconds a step takes; no weight is changed.

    Args:
        trainer: On `device`.
        batches: Some steps' batches, the first of the first phase, the last of the last.
        device: Where to run.
    """
    trainer.train()
    seconds = []
    # A first batch of a size is slow on a GPU, which then chooses its kernels.
    for index in (0, 0, len(batches) - 1, len(batches) - 1):
        batch, loading = timed(lambda index=index: batches[index].to(device))  # type: ignore[misc]
        _, computing = timed(lambda batch=batch: _backward(trainer, batch, device))  # type: ignore[misc]
        seconds.append(max(loading, 1.1 * computing))
    trainer.zero_grad(set_to_none=True)
    return _FULL_SIZE_FROM * seconds[1] + (1 - _FULL_SIZE_FROM) * seconds[3]


def _backward(trainer: DenoisingTrainer, batch: Any, device: torch.device) -> float:
    terms = training_loss(trainer, batch, torch.Generator().manual_seed(0), device)
    total = torch.stack(list(terms.values())).sum()
    total.backward()
    return total.item()


def plan_loop(plan: TrainingPlan, parameters: int) -> LoopConfig:
    """Return how the loop optimises: a small model by Muon at a high rate, a pretrained large one by AdamW at a low."""
    small = parameters < SMALL_MODEL
    return LoopConfig(
        steps=plan.steps,
        learning_rate=plan.config.learning_rate or (2e-3 if small else 1e-4),
        backbone_factor=0.5 if small else 0.1,
        warmup=min(300, plan.steps // 20),
        decay_from=0.6,
        ema=1 - min(max(8 / plan.steps, 0.002), 0.1),
        seed=plan.config.seed,
        save_every=max(1, min(500, round(_SAVE_SECONDS / plan.step_seconds))),
        evaluate_every=plan.evaluate_every,
        minutes=plan.config.minutes,
        optimiser="muon" if small else "adamw",
    )
