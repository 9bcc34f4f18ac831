"""From nothing to the bundled detector, in rounds: name what is at object centres, then detect; write the model.

    python -m models.training.tiny_recipe --data ../shared/data --output runs/tiny

A round takes the backbone that the last one left, teaches it shapes and colours at object centres (which sees four
times as many objects a minute as detection does), and puts it back under the detector. Each stage leaves a file and is
skipped where that is there; detection resumes from its last checkpoint. The last round's `model/` is the finished one.
`--data` holds `coco_photos/` (photos for backgrounds) and `bccd/` (train.json, val.json, images/); both are public.
"""

import argparse
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import torch
from torch import nn
from transformers import GroundingDinoProcessor

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
SCENE_SHARE = 0.75
PHASES = (Phase(0.65, (144, 160, 176)), Phase(1.0, (208, 224)))
_BACKBONE = "model.backbone.conv_encoder.model."


@dataclass(frozen=True)
class Round:
    """One round of training.

    Attributes:
        cycles: Steps of 16 images of each learning-rate cycle of the backbone.
        learning_rate: Peak of those cycles.
        steps: Detection steps of 8 images.
    """

    cycles: tuple[int, ...]
    learning_rate: float
    steps: int


ROUNDS = (Round((900, 2000), 2e-3, 3700), Round((4000,), 1e-3, 4800))


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


def load_backbone(model: GroundingModel, state: Mapping[str, torch.Tensor]) -> None:
    """Put a pretrained backbone under the detector.

    Raises:
        ValueError: The state is another backbone's.
    """
    missing, unexpected = model.model.backbone.conv_encoder.model.load_state_dict(dict(state), strict=False)
    if missing or unexpected:
        raise ValueError(f"the backbone's state does not fit: missing {missing[:3]}, unexpected {unexpected[:3]}")


def backbone_of(model: nn.Module) -> dict[str, torch.Tensor]:
    """Return the state of a detector's backbone."""
    state = model.state_dict()
    return {key.removeprefix(_BACKBONE): value for key, value in state.items() if key.startswith(_BACKBONE)}


class TinyRecipe:
    """The rounds of one output folder.

    Args:
        data: Folder of `coco_photos/` and `bccd/`.
        output: Folder for checkpoints and models, `round_1/` and so on.
        evaluate_every: Detection steps between evaluations.
    """

    def __init__(self, data: Path, output: Path, evaluate_every: int) -> None:
        self._output, self._evaluate_every = output, evaluate_every
        blood = data / "bccd"
        self._scenes = SceneConfig(photos=tuple(sorted((data / "coco_photos" / "images").iterdir())))
        self._cells = CocoSource(
            blood / "train.json",
            blood / "images",
            TRAINED_PAIRS,
            PromptSampling(nothing_present=0.05, keep_present=0.95),
            vertical_flip=True,
        )
        self._validation = CocoSource(blood / "val.json", blood / "images")
        self._processor = tiny_processor(tiny_words(), output / "processor")
        self._vocabulary = (*TRAINED_PAIRS, *self._cells.names)

    def run(self) -> None:
        """Run what is not done yet."""
        before: DenoisingTrainer | None = None
        cycle = 0
        for number, spec in enumerate(ROUNDS, start=1):
            folder = self._output / f"round_{number}"
            state = backbone_of(before.model) if before else None
            for place, steps in enumerate(spec.cycles):
                centres = CentreBatches(self._scenes, self._cells, 0.15, 160, 16, steps, seed=cycle)
                file = folder / f"backbone_{place}.pt"
                state = pretrain_backbone(tiny_backbone(), centres, file, state, spec.learning_rate)
                cycle += 1
            trainer = before or DenoisingTrainer(build_tiny(), DenoisingConfig(queries=30))
            load_backbone(trainer.model, state or {})
            before = self._detect(trainer, spec, number, folder)

    def _detect(self, trainer: DenoisingTrainer, spec: Round, number: int, folder: Path) -> DenoisingTrainer:
        """Train the detector of a round; return its averaged weights."""
        batches = StepBatches(
            [SceneSource(self._scenes, self._vocabulary), self._cells],
            [SCENE_SHARE, 1 - SCENE_SHARE],
            self._processor.tokenizer,
            batch_size=8,
            steps=spec.steps,
            phases=PHASES,
            seed=number - 1,
        )

        def keep(averaged: nn.Module) -> None:
            write_grounding_dino(folder / "model", cast(GroundingModel, averaged), self._processor, PROMPTS_PER_PASS)

        loop = Loop(
            trainer,
            batches,
            folder,
            LoopConfig(steps=spec.steps, evaluate_every=self._evaluate_every, seed=number - 1),
            evaluate=lambda averaged: watch(averaged, self._processor, self._validation),
            keep_best=keep,
            resume=True,
        )
        loop.run()
        return cast(DenoisingTrainer, loop.average.module)


def main() -> None:
    """Run the rounds that are not done yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="folder of coco_photos/ and bccd/")
    parser.add_argument("--output", type=Path, required=True, help="folder for checkpoints and the finished model")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of the training process")
    parser.add_argument("--evaluate-every", type=int, default=1000, help="detection steps between evaluations")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    TinyRecipe(arguments.data, arguments.output, arguments.evaluate_every).run()


if __name__ == "__main__":
    main()
