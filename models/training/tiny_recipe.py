"""From nothing to the bundled detector: pretrain the backbone, train on scenes and blood cells, write the model.

    python -m models.training.tiny_recipe --data ../shared/data --output runs/tiny

Each stage leaves a file and is skipped where that is there; the detection stage resumes from its last checkpoint.
`--data` holds `coco_photos/` (photos for backgrounds) and `bccd/` (train.json, val.json, images/); both are public.
"""

import argparse
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import cast

import torch
from torch import nn
from transformers import GroundingDinoProcessor, MMGroundingDinoForObjectDetection

from models.grounding_dino.detector import GroundingDinoDetector
from models.grounding_dino.forward import GroundingModel
from models.grounding_dino.load import write_grounding_dino
from models.ontology import Ontology
from models.training.augment import Labelled
from models.training.batches import Phase, StepBatches
from models.training.denoising import DenoisingConfig
from models.training.evaluate import EVALUATION, evaluate_detector
from models.training.forward import DenoisingTrainer
from models.training.loop import Loop, LoopConfig
from models.training.pretrain import CentreBatches, pretrain_backbone
from models.training.prompts import PromptSampling
from models.training.scenes import HELD_OUT_PAIRS, PAIRS, TRAINED_PAIRS, SceneConfig, render_scene
from models.training.sources import CocoSource, SceneSource
from models.training.tiny import build_tiny, tiny_backbone, tiny_processor, tiny_words

PROMPTS_PER_PASS = 40
"""The largest prompt set of training; larger passes were never seen."""
WATCH_SEED = 850_000
PRETRAIN_STEPS = (900, 2000)
"""Steps of the backbone's two learning-rate cycles."""
SCENE_SHARE = 0.75
PHASES = (Phase(0.65, (144, 160, 176)), Phase(1.0, (208, 224)))


def watched_scenes(count: int, pairs: tuple[str, ...], first_seed: int = WATCH_SEED) -> Iterator[Labelled]:
    """Render scenes of seeds that training never uses."""
    for seed in range(first_seed, first_seed + count):
        scene = render_scene(seed, SceneConfig(pairs=pairs))
        yield Labelled(scene.image, scene.boxes_xyxy, scene.labels)


def watch(model: nn.Module, processor: GroundingDinoProcessor, cells: CocoSource) -> Mapping[str, float]:
    """Return the figures by which training is watched; the first, their mean, decides which model is best."""

    def make(ontology: Ontology) -> GroundingDinoDetector:
        settings = replace(EVALUATION, prompts_per_pass=PROMPTS_PER_PASS)
        return GroundingDinoDetector(model, processor, ontology, settings)  # type: ignore[arg-type]

    seen = evaluate_detector(make, watched_scenes(60, TRAINED_PAIRS), PAIRS)
    unseen = evaluate_detector(make, watched_scenes(30, tuple(sorted(HELD_OUT_PAIRS))), PAIRS)
    blood = evaluate_detector(make, (cells.labelled(index) for index in range(0, len(cells), 3)), cells.names)
    return {
        "mean": (seen.ap + unseen.ap + blood.ap) / 3,
        "full_ap50": seen.ap50,
        "full_ap": seen.ap,
        "unseen_ap50": unseen.ap50,
        "unseen_ap": unseen.ap,
        "cells_ap50": blood.ap50,
        "cells_ap": blood.ap,
    }


def start_model(backbone_state: dict[str, torch.Tensor]) -> MMGroundingDinoForObjectDetection:
    """Build the tiny model on a pretrained backbone."""
    model = build_tiny()
    missing, unexpected = model.model.backbone.conv_encoder.model.load_state_dict(backbone_state, strict=False)
    if missing or unexpected:
        raise ValueError(f"the backbone's state does not fit: missing {missing[:3]}, unexpected {unexpected[:3]}")
    return model


def main() -> None:
    """Run the stages that are not done yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="folder of coco_photos/ and bccd/")
    parser.add_argument("--output", type=Path, required=True, help="folder for checkpoints and the finished model")
    parser.add_argument("--steps", type=int, default=3700, help="detection steps of 8 images")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of the training process")
    parser.add_argument("--evaluate-every", type=int, default=1000, help="steps between evaluations")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    photos = tuple(sorted((arguments.data / "coco_photos" / "images").iterdir()))
    blood = arguments.data / "bccd"
    scene_config = SceneConfig(photos=photos)
    cells = CocoSource(
        blood / "train.json",
        blood / "images",
        TRAINED_PAIRS,
        PromptSampling(nothing_present=0.05, keep_present=0.95),
        vertical_flip=True,
    )
    processor = tiny_processor(tiny_words(), arguments.output / "processor")
    state: dict[str, torch.Tensor] | None = None
    for cycle, steps in enumerate(PRETRAIN_STEPS):
        centres = CentreBatches(scene_config, cells, 0.15, 160, 16, steps, seed=cycle)
        state = pretrain_backbone(tiny_backbone(), centres, arguments.output / f"backbone_{cycle}.pt", state)
    model = start_model(state or {})
    batches = StepBatches(
        [SceneSource(scene_config, (*TRAINED_PAIRS, *cells.names)), cells],
        [SCENE_SHARE, 1 - SCENE_SHARE],
        processor.tokenizer,
        batch_size=8,
        steps=arguments.steps,
        phases=PHASES,
    )
    best = arguments.output / "model"

    def keep(averaged: nn.Module) -> None:
        write_grounding_dino(best, cast(GroundingModel, averaged), processor, PROMPTS_PER_PASS)

    validation = CocoSource(blood / "val.json", blood / "images")
    loop = Loop(
        DenoisingTrainer(model, DenoisingConfig(queries=30)),
        batches,
        arguments.output,
        LoopConfig(steps=arguments.steps, evaluate_every=arguments.evaluate_every),
        evaluate=lambda averaged: watch(averaged, processor, validation),
        keep_best=keep,
        resume=True,
    )
    loop.run()


if __name__ == "__main__":
    main()
