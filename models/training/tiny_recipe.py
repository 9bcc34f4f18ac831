"""From nothing to the bundled detector, in rounds: name what is at object centres, then detect; write the model.

    python -m models.training.tiny_recipe --data ../shared/data --output runs/tiny

A round takes the backbone that the last one left, teaches it shapes and colours at object centres (which sees four
times as many objects a minute as detection does), and puts it back under the detector. Each stage leaves a file and is
skipped where that is there; detection resumes from its last checkpoint. At the end the last round's scores are moved so
that the default threshold is the best one: `model/` is the finished detector.
`--data` holds `coco_photos/` (photos for backgrounds) and `bccd/` (train.json, val.json, images/); both are public.
"""

import argparse
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import torch
from torch import nn
from transformers import GroundingDinoProcessor, MMGroundingDinoForObjectDetection

from models.grounding_dino.detector import DetectorSettings, GroundingDinoDetector
from models.grounding_dino.forward import GroundingModel
from models.grounding_dino.load import read_grounding_dino, write_grounding_dino
from models.ontology import Ontology
from models.training.batches import Phase, StepBatches
from models.training.criterion import LossWeights
from models.training.denoising import DenoisingConfig
from models.training.evaluate import EVALUATION, evaluate_detector, suppress
from models.training.forward import DenoisingTrainer
from models.training.loop import Loop, LoopConfig
from models.training.pretrain import CentreBatches, backbone_of, load_backbone, pretrain_backbone
from models.training.prompts import PromptSampling
from models.training.scenes import HELD_OUT_PAIRS, PAIRS, TRAINED_PAIRS, SceneConfig
from models.training.score_bias import best_threshold, match_scores, shift_scores
from models.training.sources import CocoSource, SceneSource, labelled_scenes
from models.training.tiny import build_tiny, deepen_decoder, tiny_backbone, tiny_processor, tiny_words

PROMPTS_PER_PASS = 40
"""The largest prompt set of training; larger passes were never seen."""
WATCH_SEED = 850_000
"""First seed of the scenes that training is watched by; it never draws so small ones itself."""
THRESHOLD_SEED = 860_000
"""First seed of the scenes on which the best threshold is looked for."""
SCENE_SHARE = 0.75
USED_SIZES = (320, 336, 352)


@dataclass(frozen=True)
class Round:
    """One round of training.

    Attributes:
        cycles: Steps of 16 images of each learning-rate cycle of the backbone.
        learning_rate: Peak of those cycles.
        steps: Detection steps of 8 images.
        phases: Image sizes of detection.
        decay_from: Share of the detection steps after which its learning rate falls.
        hard_share: Share of a scene's absent prompts that share a word with what is there.
        nothing_present: Share of a scene's prompt sets of which nothing is there.
        detection_rate: Peak of detection's learning rate.
        giou: Weight of the GIoU loss.
        decoder_layers: Decoder layers from this round on; new ones start as copies of the last.
    """

    cycles: tuple[int, ...]
    learning_rate: float
    steps: int
    phases: tuple[Phase, ...] = (Phase(0.65, (144, 160, 176)), Phase(1.0, (208, 224)))
    decay_from: float = 0.65
    hard_share: float = 0.5
    nothing_present: float = 0.3
    detection_rate: float = 6e-4
    giou: float = 2.0
    decoder_layers: int = 3


ROUNDS = (
    Round((900, 2000), 2e-3, 3700),
    Round((4000,), 1e-3, 4800),
    Round((3000,), 1e-3, 3600, (Phase(0.55, (192, 208, 224)), Phase(1.0, (240, 256, 272))), 0.45, 0.65),
    Round((), 0.0, 2300, (Phase(1.0, (272, 288, 304)),), 0.25, 0.8, 0.4, 4e-4, giou=4.0),
    Round((), 0.0, 2000, (Phase(1.0, (272, 288, 304)),), 0.4, 0.8, 0.4, 4e-4, giou=4.0, decoder_layers=5),
    Round((), 0.0, 1750, (Phase(1.0, USED_SIZES),), 0.35, 0.85, 0.25, 4e-4, giou=4.0, decoder_layers=5),
)
"""The last two work at the sizes at which the model is used, and weigh boxes more: there their exactness is decided,
and with prompt sets of which nothing is there, how many false boxes are left. The deeper decoder comes last, since it
costs time and refines boxes only."""


def watch(model: nn.Module, processor: GroundingDinoProcessor, cells: CocoSource) -> Mapping[str, float]:
    """Return the figures by which training is watched; the first, their mean, decides which model is best."""

    def make(ontology: Ontology) -> GroundingDinoDetector:
        settings = replace(EVALUATION, prompts_per_pass=PROMPTS_PER_PASS)
        return GroundingDinoDetector(model, processor, ontology, settings)  # type: ignore[arg-type]

    seen = evaluate_detector(make, labelled_scenes(WATCH_SEED, 60, SceneConfig(pairs=TRAINED_PAIRS)), PAIRS)
    held_out = SceneConfig(pairs=tuple(sorted(HELD_OUT_PAIRS)))
    unseen = evaluate_detector(make, labelled_scenes(WATCH_SEED, 30, held_out), PAIRS)
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
            trainer.model = deepen_decoder(cast(MMGroundingDinoForObjectDetection, trainer.model), spec.decoder_layers)
            before = self._detect(trainer, spec, number, folder)
        if not (self._output / "model").exists():
            self._settle_scores(self._output / f"round_{len(ROUNDS)}" / "model")

    def _settle_scores(self, folder: Path, scenes: int = 200) -> None:
        """Write `model/`: the detector of a folder with scores of which the default threshold is the best by F1."""
        model, processor = read_grounding_dino(folder)
        settings = replace(EVALUATION, prompts_per_pass=PROMPTS_PER_PASS)
        detector = GroundingDinoDetector(model, processor, Ontology.from_names(PAIRS), settings)
        truth = list(labelled_scenes(THRESHOLD_SEED, scenes, SceneConfig(pairs=TRAINED_PAIRS)))
        found = []
        for labelled in truth:
            detections = suppress(detector([labelled.image])[0])
            found.append((detections, [PAIRS[class_id - 1] for class_id in detections.class_ids]))
        best = best_threshold(match_scores(truth, found), sum(len(labelled.names) for labelled in truth))
        shift_scores(model, best, DetectorSettings().box_threshold)
        write_grounding_dino(self._output / "model", model, processor, PROMPTS_PER_PASS)

    def _detect(self, trainer: DenoisingTrainer, spec: Round, number: int, folder: Path) -> DenoisingTrainer:
        """Train the detector of a round; return its averaged weights."""
        sampling = PromptSampling(hard_share=spec.hard_share, nothing_present=spec.nothing_present)
        batches = StepBatches(
            [SceneSource(self._scenes, self._vocabulary, sampling=sampling), self._cells],
            [SCENE_SHARE, 1 - SCENE_SHARE],
            self._processor.tokenizer,
            batch_size=8,
            steps=spec.steps,
            phases=spec.phases,
            seed=number - 1,
        )

        def keep(averaged: nn.Module) -> None:
            write_grounding_dino(folder / "model", cast(GroundingModel, averaged), self._processor, PROMPTS_PER_PASS)

        loop = Loop(
            trainer,
            batches,
            folder,
            LoopConfig(
                steps=spec.steps,
                learning_rate=spec.detection_rate,
                decay_from=spec.decay_from,
                evaluate_every=self._evaluate_every,
                seed=number - 1,
            ),
            LossWeights(giou=spec.giou),
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
