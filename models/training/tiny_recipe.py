"""From nothing to the bundled detector, in rounds: name what is at object centres, then detect; write the model.

    python -m models.training.tiny_recipe --data ../shared/data --output runs/tiny

First comes `shapes/model`, a detector that has seen no cells: a start for fine-tuning that knows nothing of its images
(`--shapes-only` stops there). The rounds begin from nothing again. A round takes the backbone that the last one left,
teaches it shapes and colours at object centres (which sees four times as many objects a minute as detection does), and
puts it back under the detector. Each stage leaves a file and is skipped where that is there; detection resumes from its
last checkpoint. The finished detector, `model/`, is the last round's, with scores moved so that the default threshold
is the best one.
`--data` holds `coco_photos/` (photos for backgrounds) and `bccd/` (train.json, val.json, images/); both are public.
"""

import argparse
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import cast

import torch
from torch import nn
from transformers import GroundingDinoProcessor, MMGroundingDinoForObjectDetection

from models.grounding_dino.box_refiner import BoxRefiner, fine_channels
from models.grounding_dino.detector import DetectorSettings, GroundingDinoDetector
from models.grounding_dino.features import GroundingModel
from models.grounding_dino.load import read_grounding_dino, write_grounding_dino
from models.ontology import Ontology
from models.training.batches import StepBatches
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
from models.training.tiny import (
    CELL_WORDS,
    build_tiny,
    grow_decoder,
    tiny_backbone,
    tiny_processor,
    tiny_words,
)
from models.training.tiny_rounds import ROUNDS, SHAPES, Round
from models.training.vocabulary import forget_words
from models.training.widen import widen

PROMPTS_PER_PASS = 40
"""The largest prompt set of training; larger passes were never seen."""
WATCH_SEED = 850_000
"""First seed of the scenes that training is watched by; it never draws so small ones itself."""
THRESHOLD_SEED = 860_000
"""First seed of the scenes on which the best threshold is looked for."""


def mix_weights(model: nn.Module, other: nn.Module, share: float) -> None:
    """Give a model, in place, `share` of its own weights and the rest of another's of the same kind.

    Source: Wortsman et al. 2022, model soups: where one model was fine-tuned from the other, both lie in one valley.
    """
    state = other.state_dict()
    with torch.no_grad():
        for name, value in model.state_dict().items():
            if value.is_floating_point():
                value.lerp_(state[name], 1 - share)


def add_refiner(trainer: DenoisingTrainer) -> None:
    """Give the detector a new box refiner and let nothing else be trained."""
    trainer.requires_grad_(False)
    channels = fine_channels(trainer.model.model.backbone.conv_encoder.model)
    torch.manual_seed(0)
    trainer.model.box_refiner = BoxRefiner(channels, trainer.model.config.d_model)


def watch(model: nn.Module, processor: GroundingDinoProcessor, cells: CocoSource | None) -> Mapping[str, float]:
    """Return the figures by which training is watched; the first, the mean AP, decides which model is best."""

    def make(ontology: Ontology) -> GroundingDinoDetector:
        settings = replace(EVALUATION, prompts_per_pass=PROMPTS_PER_PASS)
        return GroundingDinoDetector(model, processor, ontology, settings)  # type: ignore[arg-type]

    seen = evaluate_detector(make, labelled_scenes(WATCH_SEED, 60, SceneConfig(pairs=TRAINED_PAIRS)), PAIRS)
    held_out = SceneConfig(pairs=tuple(sorted(HELD_OUT_PAIRS)))
    unseen = evaluate_detector(make, labelled_scenes(WATCH_SEED, 30, held_out), PAIRS)
    judged = {"full": seen, "unseen": unseen}
    if cells is not None:
        blood = (cells.labelled(index) for index in range(0, len(cells), 3))
        judged["cells"] = evaluate_detector(make, blood, cells.names)
    figures = {"mean": sum(precision.ap for precision in judged.values()) / len(judged)}
    for name, precision in judged.items():
        figures |= {f"{name}_ap50": precision.ap50, f"{name}_ap": precision.ap}
    return figures


class TinyRecipe:
    """The rounds of one output folder.

    Args:
        data: Folder of `coco_photos/` and `bccd/`.
        output: Folder for checkpoints and models: `shapes/`, `round_1/` and so on, `model/`.
        evaluate_every: Detection steps between evaluations.
    """

    def __init__(self, data: Path, output: Path, evaluate_every: int) -> None:
        self._output, self._evaluate_every = output, evaluate_every
        blood = data / "bccd"
        self._scenes = SceneConfig(photos=tuple(sorted((data / "coco_photos" / "images").iterdir())))
        cells = partial(
            CocoSource,
            blood / "train.json",
            blood / "images",
            TRAINED_PAIRS,
            PromptSampling(nothing_present=0.05, keep_present=0.95),
            vertical_flip=True,
        )
        self._cells = {
            "windows": cells(),
            "varied": cells(quarter_turns=True, colour=0.3),
            "whole": cells().whole(),
        }
        self._validation = CocoSource(blood / "val.json", blood / "images")
        self._processor = tiny_processor(tiny_words(), output / "processor")

    def run(self, shapes_only: bool = False) -> None:
        """Run what is not done yet."""
        self._round(SHAPES, None, 0, 0, self._output / "shapes")
        if shapes_only:
            return
        trained: DenoisingTrainer | None = None
        cycle = 0
        for number, spec in enumerate(ROUNDS):
            if trained is not None and spec.mixed < 1:
                trained.use_model(self._mixed(number, spec.mixed))
            trained = self._round(spec, trained, cycle, number, self._output / f"round_{number + 1}")
            cycle += len(spec.cycles)
        if trained is not None and not (self._output / "model").exists():
            self._finish(trained.model)

    def _mixed(self, rounds: int, share: float) -> GroundingModel:
        """Return the detector of the last of so many rounds, mixed with the one before."""
        last, before = (read_grounding_dino(self._output / f"round_{rounds - back}" / "model")[0] for back in (0, 1))
        mix_weights(last, before, share)
        return last

    def _round(
        self, spec: Round, before: DenoisingTrainer | None, cycle: int, seed: int, folder: Path
    ) -> DenoisingTrainer:
        """Train the backbone, then the detector on it; the seed of the first of the backbone's cycles is `cycle`."""
        cells = self._cells["windows"] if spec.cell_share else None
        state = backbone_of(before.model) if before else None
        for place, steps in enumerate(spec.cycles):
            centres = CentreBatches(self._scenes, cells, 0.15, 160, 16, steps, seed=cycle + place)
            file = folder / f"backbone_{place}.pt"
            state = pretrain_backbone(tiny_backbone(), centres, file, state, spec.learning_rate, spec.optimiser)
        trainer = before or DenoisingTrainer(build_tiny(), DenoisingConfig(queries=30))
        load_backbone(trainer.model, state or {})
        small = cast(MMGroundingDinoForObjectDetection, trainer.model)
        small = grow_decoder(small, spec.decoder_layers, spec.decoder_points, spec.share_box_head)
        trainer.use_model(widen(small) if spec.width > small.config.d_model else small)
        if spec.refiner:
            add_refiner(trainer)
        trainer.config = DenoisingConfig(queries=spec.denoising_queries)
        return self._detect(trainer, spec, seed, folder)

    def _finish(self, model: GroundingModel, scenes: int = 200) -> None:
        """Write `model/`: the detector, with scores moved so that the default threshold is best by F1."""
        settings = replace(EVALUATION, prompts_per_pass=PROMPTS_PER_PASS)
        detector = GroundingDinoDetector(model, self._processor, Ontology.from_names(PAIRS), settings)
        truth = list(labelled_scenes(THRESHOLD_SEED, scenes, SceneConfig(pairs=TRAINED_PAIRS)))
        found = []
        for labelled in truth:
            detections = suppress(detector([labelled.image])[0])
            found.append((detections, [PAIRS[class_id - 1] for class_id in detections.class_ids]))
        best = best_threshold(match_scores(truth, found), sum(len(labelled.names) for labelled in truth))
        shift_scores(model, best, DetectorSettings().box_threshold)
        folder = self._output / "model"
        write_grounding_dino(folder, model, self._processor, PROMPTS_PER_PASS, weights=torch.float16)

    def _detect(self, trainer: DenoisingTrainer, spec: Round, seed: int, folder: Path) -> DenoisingTrainer:
        """Train the detector of a round; return its averaged weights."""
        sampling = PromptSampling(
            hard_share=spec.hard_share, nothing_present=spec.nothing_present, keep_present=spec.keep_present
        )
        scenes = replace(self._scenes, min_objects=spec.min_objects)
        cells = self._cells[spec.cells]
        names = (*TRAINED_PAIRS, *cells.names) if spec.cell_share else TRAINED_PAIRS
        batches = StepBatches(
            [SceneSource(scenes, names, sampling=sampling), cells],
            [1 - spec.cell_share, spec.cell_share],
            self._processor.tokenizer,
            batch_size=8,
            steps=spec.steps,
            phases=spec.phases,
            seed=seed,
            alphas=(LossWeights().alpha, spec.cell_alpha),
        )

        self._processor.image_processor.size = spec.size
        processor = self._processor if spec.cell_share else forget_words(self._processor, CELL_WORDS)

        def keep(averaged: nn.Module) -> None:
            write_grounding_dino(folder / "model", cast(GroundingModel, averaged), processor, PROMPTS_PER_PASS)

        loop = Loop(
            trainer,
            batches,
            folder,
            LoopConfig(
                steps=spec.steps,
                learning_rate=spec.detection_rate,
                warmup=min(300, spec.steps // 5),
                decay_from=spec.decay_from,
                ema=spec.ema,
                evaluate_every=self._evaluate_every,
                seed=seed,
                optimiser=spec.optimiser,
            ),
            LossWeights(giou=spec.giou),
            evaluate=lambda averaged: watch(averaged, self._processor, self._validation if spec.cell_share else None),
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
    parser.add_argument("--shapes-only", action="store_true", help="stop after the start that knows no cells")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of the training process")
    parser.add_argument("--evaluate-every", type=int, default=1000, help="detection steps between evaluations")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    TinyRecipe(arguments.data, arguments.output, arguments.evaluate_every).run(arguments.shapes_only)


if __name__ == "__main__":
    main()
