"""What each ingredient of Grounding DINO is worth here: one more a row up to all of them, then all but one.

Every arm has the same start weights, data, steps and evaluation. What an arm lacks is switched off where it acts: gates
of the fusion and outputs of the decoder's text attention stand at 0 and are not trained.

Source: Liu et al. 2023 (Grounding DINO), section 4.4; Zhang et al. 2022 (DINO), section 4.4.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn
from transformers import GroundingDinoProcessor

from models.grounding_dino.detector import GroundingDinoDetector
from models.grounding_dino.features import GroundingModel, TextLevel
from models.ontology import Ontology
from models.training.batches import Phase, StepBatches
from models.training.denoising import DenoisingConfig
from models.training.evaluate import EVALUATION, evaluate_detector
from models.training.forward import DenoisingTrainer
from models.training.loop import Loop, LoopConfig
from models.training.pretrain import load_backbone
from models.training.scenes import PAIRS, TRAINED_PAIRS, SceneConfig
from models.training.sources import SceneSource, labelled_scenes
from models.training.tiny import build_tiny

SCENES = SceneConfig(size=128, max_objects=6)
"""Smaller and emptier than the bundled model's, so that a row takes minutes."""
_NO_DENOISING = DenoisingConfig(queries=0)
_PLAIN = DenoisingConfig(queries=30, contrastive=False)
_CONTRASTIVE = DenoisingConfig(queries=30)
_EVALUATION_SEED = 870_000
_PROMPTS_PER_PASS = 40


@dataclass(frozen=True)
class Arm:
    """One row of the table.

    Attributes:
        name: What it adds to the row above.
        two_stage: Anchors from the image by language-guided selection, not learned ones.
        mixed: Two-stage queries keep learned content.
        denoising: Denoising queries.
        look_forward_twice: A layer's box trains the layer before, too.
        decoder_text: The decoder's queries attend to the text.
        fusion: Image and text attend to each other in the encoder.
        text_level: Which words see each other.
    """

    name: str
    two_stage: bool = False
    mixed: bool = False
    denoising: DenoisingConfig = _NO_DENOISING
    look_forward_twice: bool = False
    decoder_text: bool = False
    fusion: bool = False
    text_level: TextLevel = "sentence"


def arms() -> tuple[Arm, ...]:
    """Return the rows, each with one ingredient more than the last."""
    rows = [Arm("static queries, no denoising")]
    for name, ingredient in (
        ("+ two-stage, language-guided selection", {"two_stage": True}),
        ("+ mixed query selection", {"mixed": True}),
        ("+ denoising", {"denoising": _PLAIN}),
        ("+ contrastive denoising", {"denoising": _CONTRASTIVE}),
        ("+ look forward twice", {"look_forward_twice": True}),
        ("+ cross-modality decoder", {"decoder_text": True}),
        ("+ encoder fusion", {"fusion": True}),
        ("+ sub-sentence text", {"text_level": "sub-sentence"}),
    ):
        rows.append(replace(rows[-1], name=name, **ingredient))
    return tuple(rows)


def arms_without() -> tuple[Arm, ...]:
    """Return the whole detector less one ingredient, an arm each.

    What an ingredient is worth beside all others: without fusion and sub-sentence text a short training hardly begins,
    so that the first of `arms` cannot tell. The last but one of them is all but sub-sentence text.
    """
    whole = arms()[-1]
    less = (
        ("two-stage queries", {"two_stage": False, "mixed": False}),
        ("mixed query selection", {"mixed": False}),
        ("denoising", {"denoising": _NO_DENOISING}),
        ("contrastive denoising (plain instead)", {"denoising": _PLAIN}),
        ("look forward twice", {"look_forward_twice": False}),
        ("cross-modality decoder", {"decoder_text": False}),
        ("encoder fusion", {"fusion": False}),
    )
    return tuple(replace(whole, name=f"all but {name}", **change) for name, change in less)


def build_arm(arm: Arm, backbone: Mapping[str, Tensor], seed: int) -> DenoisingTrainer:
    """Build the tiny detector of an arm on a pretrained backbone.

    Args:
        arm: What it has.
        backbone: State of the backbone, as `pretrain_backbone` returns it.
        seed: Of the other start values.

    Raises:
        ValueError: The backbone is another one's.
    """
    model: GroundingModel = build_tiny(seed)
    load_backbone(model, backbone)
    model.config.two_stage = arm.two_stage
    model.config.embedding_init_target = arm.mixed or not arm.two_stage
    if not arm.two_stage:
        anchors = nn.Embedding(model.config.num_queries, 4)
        with torch.no_grad():
            spread = torch.rand(anchors.weight.shape, generator=torch.Generator().manual_seed(seed)).clamp(0.05, 0.95)
            anchors.weight.copy_(torch.logit(spread * torch.tensor([1.0, 1.0, 0.5, 0.5])))
        model.model.reference_points = anchors
    if not arm.fusion:
        _switch_off(model, ("vision_param", "text_param"))
    if not arm.decoder_text:
        _switch_off(model, ("encoder_attn_text.out_proj.weight", "encoder_attn_text.out_proj.bias"))
    return DenoisingTrainer(model, arm.denoising, arm.text_level, arm.look_forward_twice)


def _switch_off(model: nn.Module, endings: tuple[str, ...]) -> None:
    """Set weights to 0 and leave them there.

    Raises:
        ValueError: The model has no such weights.
    """
    found = [parameter for name, parameter in model.named_parameters() if name.endswith(endings)]
    if not found:
        raise ValueError(f"the model has no weights called {' or '.join(endings)}")
    for parameter in found:
        torch.nn.init.zeros_(parameter)
        parameter.requires_grad_(False)


def train_arm(
    arm: Arm,
    trainer: DenoisingTrainer,
    processor: GroundingDinoProcessor,
    output: Path,
    steps: int,
    seed: int,
    scenes: int = 100,
) -> dict[str, float]:
    """Train an arm from its start and return its accuracy, every image asked for all pairs.

    Args:
        arm: Gives the text level of the evaluation.
        trainer: From `build_arm`.
        processor: Of the tiny detector.
        output: Folder for the log and the checkpoint; an interrupted training goes on from it.
        steps: Optimiser steps of 8 images.
        seed: Of batches and noise.
        scenes: How many to evaluate on.

    Returns:
        `AP50` and `AP` on scenes never trained on.
    """
    batches = StepBatches(
        [SceneSource(SCENES, TRAINED_PAIRS, referring_share=0.0)],
        [1.0],
        processor.tokenizer,
        batch_size=8,
        steps=steps,
        phases=(Phase(1.0, (SCENES.size,)),),
        seed=seed,
    )
    config = LoopConfig(steps=steps, warmup=min(100, steps), ema=0.99, seed=seed, save_every=100)
    loop = Loop(trainer, batches, output, config, resume=True)
    loop.run()
    averaged = cast(DenoisingTrainer, loop.average.module)
    settings = replace(EVALUATION, prompts_per_pass=_PROMPTS_PER_PASS, text_level=arm.text_level, size=SCENES.size)

    def make(ontology: Ontology) -> GroundingDinoDetector:
        return GroundingDinoDetector(averaged.model, processor, ontology, settings)

    precision = evaluate_detector(make, labelled_scenes(_EVALUATION_SEED, scenes, SCENES), PAIRS)
    return {"AP50": precision.ap50, "AP": precision.ap}
