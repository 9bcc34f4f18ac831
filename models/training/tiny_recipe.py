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
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal, cast

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
from models.training.tiny import (
    CELL_WORDS,
    build_tiny,
    grow_decoder,
    image_size,
    tiny_backbone,
    tiny_processor,
    tiny_words,
)
from models.training.vocabulary import forget_words
from models.training.widen import widen

PROMPTS_PER_PASS = 40
"""The largest prompt set of training; larger passes were never seen."""
WATCH_SEED = 850_000
"""First seed of the scenes that training is watched by; it never draws so small ones itself."""
THRESHOLD_SEED = 860_000
"""First seed of the scenes on which the best threshold is looked for."""
LATE_SIZES = (320, 336, 352)
USED_SIZES = (368, 384, 400)


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
        width: `d_model` from this round on; 128 is 64 widened.
        decoder_layers: Decoder layers from this round on; new ones start as copies of the last.
        decoder_points: Places that a decoder head reads on each level, from this round on.
        share_box_head: False gives each decoder layer a box head of its own from this round on.
        denoising_queries: About how many positive denoising queries an image has.
        min_objects: Fewest objects of a scene, so that a step has more to learn from.
        keep_present: Chance of each class that is there to be asked for.
        mixed: Share of the last round's weights in what this one starts from, the rest is of the round before it.
        cell_share: Share of the steps that see blood cells instead of scenes.
        cell_alpha: Weight of positives in the cells' focal loss; .25 as in scenes, more because labels are missing.
        cells: How blood cells are shown: windows of the images, varied ones, which are turned by quarters, too, and
            change more in colour, or whole images.
        ema: Decay of the averaged weights.
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
    width: int = 64
    decoder_layers: int = 3
    decoder_points: int = 4
    share_box_head: bool = True
    denoising_queries: int = 30
    min_objects: int = 1
    keep_present: float = 0.85
    mixed: float = 1.0
    cell_share: float = 0.25
    cell_alpha: float = 0.25
    cells: Literal["windows", "varied", "whole"] = "windows"
    ema: float = 0.998

    @property
    def size(self) -> dict[str, int]:
        """Image size for use: the middle one of those that the round ends with."""
        sides = sorted(self.phases[-1].short_sides)
        return image_size(sides[len(sides) // 2])


SHAPES = Round((2000,), 2e-3, 2400, hard_share=0.8, nothing_present=0.25, cell_share=0.0)
FULLER = Round(
    (),
    0.0,
    1250,
    (Phase(0.3, LATE_SIZES), Phase(1.0, USED_SIZES)),
    decay_from=0.3,
    hard_share=0.85,
    nothing_present=0.2,
    detection_rate=4e-4,
    giou=5.0,
    decoder_layers=5,
    decoder_points=8,
    share_box_head=False,
    denoising_queries=60,
    min_objects=5,
    keep_present=0.9,
    mixed=0.75,
    cell_share=0.3,
    cell_alpha=0.4,
    cells="varied",
)
WHOLE_CELLS = replace(
    FULLER,
    steps=200,
    phases=(Phase(1.0, USED_SIZES),),
    decay_from=0.1,
    nothing_present=0.25,
    detection_rate=3e-4,
    mixed=1.0,
    cell_share=0.5,
    cell_alpha=0.25,
    cells="whole",
    ema=0.98,
)
ROUNDS = (
    Round((900, 2000), 2e-3, 3700),
    Round((4000,), 1e-3, 4800),
    Round((3000,), 1e-3, 3600, (Phase(0.55, (192, 208, 224)), Phase(1.0, (240, 256, 272))), 0.45, 0.65),
    Round((), 0.0, 2300, (Phase(1.0, (272, 288, 304)),), 0.25, 0.8, 0.4, 4e-4, giou=4.0),
    Round((), 0.0, 2000, (Phase(1.0, (272, 288, 304)),), 0.4, 0.8, 0.4, 4e-4, giou=4.0, decoder_layers=5),
    Round((), 0.0, 1750, (Phase(1.0, LATE_SIZES),), 0.35, 0.85, 0.25, 4e-4, giou=4.0, decoder_layers=5),
    Round(
        (),
        0.0,
        500,
        (Phase(1.0, LATE_SIZES),),
        decay_from=0.2,
        hard_share=0.85,
        nothing_present=0.25,
        detection_rate=3e-4,
        giou=4.0,
        decoder_layers=5,
        cell_share=0.4,
        cell_alpha=0.8,
        ema=0.99,
    ),
    FULLER,
    WHOLE_CELLS,
    replace(
        WHOLE_CELLS,
        steps=60,
        decay_from=0.3,
        nothing_present=0.35,
        detection_rate=2e-4,
        cell_share=0.6,
        cell_alpha=0.8,
        ema=0.9,
    ),
)
"""The later ones work at the sizes at which the model is used, and weigh boxes more: there their exactness is decided,
and with prompt sets of which nothing is there, how many false boxes are left. The deeper decoder comes late, since it
costs time and refines boxes only. The seventh is for the scores of cells: about a third of BCCD's red cells have no
label, so that a detector learns to doubt them all. The eighth has twice as many boxes in a step: fuller scenes, more of
them asked for, more denoising; and cells in more guises. The ninth shows cells in whole images: most of those that have
no label lie at an image's border, which a window hides. The last lifts the scores of cells to where a user looks."""


def mix_weights(model: nn.Module, other: nn.Module, share: float) -> None:
    """Give a model, in place, `share` of its own weights and the rest of another's of the same kind.

    Source: Wortsman et al. 2022, model soups: where one model was fine-tuned from the other, both lie in one valley.
    """
    state = other.state_dict()
    with torch.no_grad():
        for name, value in model.state_dict().items():
            if value.is_floating_point():
                value.lerp_(state[name], 1 - share)


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
            state = pretrain_backbone(tiny_backbone(), centres, file, state, spec.learning_rate)
        trainer = before or DenoisingTrainer(build_tiny(), DenoisingConfig(queries=30))
        load_backbone(trainer.model, state or {})
        small = cast(MMGroundingDinoForObjectDetection, trainer.model)
        small = grow_decoder(small, spec.decoder_layers, spec.decoder_points, spec.share_box_head)
        trainer.use_model(widen(small) if spec.width > small.config.d_model else small)
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
