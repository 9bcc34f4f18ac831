"""From nothing to the bundled detector, in rounds: name what is at object centres, then detect; write the model.

    python -m models.training.tiny_recipe --data ../shared/data --output runs/tiny

The first round leaves `shapes/model`, a detector that has seen no cells: a start for fine-tuning that knows nothing of
its images (`--shapes-only` stops there). The first two rounds teach the backbone shapes and colours at object centres
(which sees four times as many objects a minute as detection does) before they detect. Each stage leaves a file and is
skipped where that is there; detection resumes from its last checkpoint. The finished detector, `model/`, is the last
round's, with scores moved so that the default threshold is the best one.
`--data` holds `coco_photos/` (photos for backgrounds) and `bccd/` (train.json, val.json, images/); both are public.
"""

import argparse
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn
from transformers import GroundingDinoProcessor, MMGroundingDinoForObjectDetection

from models.grounding_dino.box_refiner import BoxRefiner, fine_channels, refiner_of
from models.grounding_dino.detector import DetectorSettings, GroundingDinoDetector
from models.grounding_dino.features import GroundingModel
from models.grounding_dino.load import write_grounding_dino
from models.ontology import Ontology
from models.training.batches import StepBatches
from models.training.checkpoint import save_atomically
from models.training.criterion import LossWeights
from models.training.denoising import DenoisingConfig
from models.training.evaluate import EVALUATION, evaluate_detector, suppress
from models.training.forward import DenoisingTrainer
from models.training.loop import Loop, LoopConfig
from models.training.pretrain import CentreBatches, backbone_of, load_backbone, pretrain_backbone
from models.training.prompts import PromptSampling
from models.training.refiner_alone import find_boxes, train_refiner
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
from models.training.tiny_rounds import REFINER, ROUNDS, RefinerRound, Round
from models.training.vocabulary import forget_words
from models.training.widen import widen

PROMPTS_PER_PASS = 40
"""The largest prompt set of training; larger passes were never seen."""
CELL_WINDOWS = (0.375, 0.86)
"""Sides of the windows of blood cells, in longer sides of their images. Cells are as large in them as in windows of
half to 1.15 of an image; as the windows are square, a step takes about three quarters of the time."""
WATCH_SEED = 850_000
"""First seed of the scenes that training is watched by; it never draws so small ones itself."""
THRESHOLD_SEED = 860_000
"""First seed of the scenes on which the best threshold is looked for."""


def give_refiner(model: GroundingModel) -> BoxRefiner:
    """Return the detector's box refiner, a new one if it had none."""
    refiner = refiner_of(model)
    if refiner is None:
        torch.manual_seed(0)
        refiner = BoxRefiner(fine_channels(model.model.backbone.conv_encoder.model), model.config.d_model)
        model.box_refiner = refiner
    return refiner


def mix_earlier(module: nn.Module, earlier: Mapping[str, Tensor], share: float) -> None:
    """Move a module's weights and running statistics, in place, by `share` of the way to those of an earlier state.

    A weight of several names is moved once; buffers that are not in the state are constants.
    """
    with torch.no_grad():
        for name, weights in (*module.named_parameters(), *module.named_buffers()):
            if name in earlier and weights.is_floating_point():
                weights.lerp_(earlier[name], share)


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
        output: Folder for checkpoints and models: one for each round, and `model/`.
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
        square = cells(quarter_turns=True, colour=0.3, aspect=1.0, zoom=CELL_WINDOWS)
        self._cells = {"windows": square, "whole": cells().whole()}
        self._validation = CocoSource(blood / "val.json", blood / "images")
        self._processor = tiny_processor(tiny_words(), output / "processor")

    def run(self, shapes_only: bool = False) -> None:
        """Run what is not done yet."""
        trainer = DenoisingTrainer(build_tiny())
        state: dict[str, Tensor] | None = None
        for number, (name, spec) in enumerate(ROUNDS.items()):
            trainer = self._round(spec, trainer, state, number, self._output / name)
            state = backbone_of(trainer.model)
            if shapes_only:
                return
        self._refine(trainer.model, REFINER, self._output / "box_refiner.pt")
        if not (self._output / "model").exists():
            self._finish(trainer.model)

    def _round(
        self, spec: Round, trainer: DenoisingTrainer, state: dict[str, Tensor] | None, seed: int, folder: Path
    ) -> DenoisingTrainer:
        """Train the backbone, whose state is None where it begins from nothing, then the detector on it."""
        if spec.cycle:
            cells = self._cells["windows"] if spec.cell_share else None
            centres = CentreBatches(self._scenes, cells, 0.15, 160, 16, spec.cycle, seed, spec.windows)
            file = folder / "backbone.pt"
            state = pretrain_backbone(tiny_backbone(), centres, file, state, spec.learning_rate)
            load_backbone(trainer.model, state)
        small = cast(MMGroundingDinoForObjectDetection, trainer.model)
        if spec.decoder_layers > small.config.decoder_layers:
            small = grow_decoder(small, spec.decoder_layers)
        if spec.width > small.config.d_model:
            small = widen(small)
        if small is not trainer.model:
            trainer.use_model(small)
        if spec.refiner:
            give_refiner(trainer.model)
        trainer.config = DenoisingConfig(queries=spec.denoising_queries)
        earlier = deepcopy(trainer.state_dict())
        trained = self._detect(trainer, spec, seed, folder)
        mix_earlier(trained, earlier, spec.earlier_share)
        return trained

    def _refine(self, model: GroundingModel, spec: RefinerRound, file: Path) -> None:
        """Train the detector's box refiner alone."""
        refiner = give_refiner(model)
        if not file.exists():
            batches = self._batches(spec.shown, seed=len(ROUNDS))
            train_refiner(model, refiner, find_boxes(model, batches), spec.steps, learning_rate=spec.learning_rate)
            save_atomically(refiner.state_dict(), file)
        refiner.load_state_dict(torch.load(file, weights_only=True))

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

    def _batches(self, spec: Round, seed: int) -> StepBatches:
        """Return what a round shows."""
        sampling = PromptSampling(
            hard_share=spec.hard_share, nothing_present=spec.nothing_present, keep_present=spec.keep_present
        )
        scenes = replace(self._scenes, min_objects=spec.min_objects)
        cells = self._cells[spec.cells]
        names = (*TRAINED_PAIRS, *cells.names) if spec.cell_share else TRAINED_PAIRS
        return StepBatches(
            [SceneSource(scenes, names, sampling=sampling), cells],
            [1 - spec.cell_share, spec.cell_share],
            self._processor.tokenizer,
            batch_size=8,
            steps=spec.steps,
            phases=spec.phases,
            seed=seed,
            alphas=(LossWeights().alpha, spec.cell_alpha),
        )

    def _detect(self, trainer: DenoisingTrainer, spec: Round, seed: int, folder: Path) -> DenoisingTrainer:
        """Train the detector of a round; return its averaged weights."""
        self._processor.image_processor.size = spec.size
        processor = self._processor if spec.cell_share else forget_words(self._processor, CELL_WORDS)

        def keep(averaged: nn.Module) -> None:
            write_grounding_dino(folder / "model", cast(GroundingModel, averaged), processor, PROMPTS_PER_PASS)

        loop = Loop(
            trainer,
            self._batches(spec, seed),
            folder,
            LoopConfig(
                steps=spec.steps,
                learning_rate=spec.detection_rate,
                warmup=min(300, spec.steps // 5),
                decay_from=spec.decay_from,
                ema=spec.ema,
                evaluate_every=self._evaluate_every,
                seed=seed,
                optimiser="muon",
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
