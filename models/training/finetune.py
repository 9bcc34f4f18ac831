"""Fine-tuning: a detector and labelled images in, the detector made better at them out.

Works for every Grounding DINO and MM-Grounding-DINO of transformers and for the tiny model. Data are COCO files.
"""

import math
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from shutil import rmtree
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from transformers import GroundingDinoProcessor

from models.grounding_dino.closed_set import ClassTokens, ClosedSetDetector
from models.grounding_dino.detector import GroundingDinoDetector
from models.grounding_dino.features import GroundingModel
from models.grounding_dino.load import load_grounding_dino, read_grounding_dino, write_grounding_dino
from models.ontology import Ontology
from models.training.augment import Labelled
from models.training.batches import StepBatches
from models.training.closed_set import ClosedSetTrainer, ask_for_all, class_tokens_from_text, collate_classes
from models.training.curves import draw_curves
from models.training.denoising import DenoisingConfig
from models.training.evaluate import EVALUATION, Precision, evaluate_detector
from models.training.finetune_config import FinetuneConfig
from models.training.finetune_plan import (
    SMALL_MODEL,
    FinetuneResult,
    TrainingPlan,
    choose_size,
    fit_prompts,
    freeze_parts,
    measure_step,
    plan_loop,
    plan_phases,
    timed,
)
from models.training.forward import DenoisingTrainer
from models.training.loop import Loop
from models.training.prompts import PromptSampling
from models.training.queries import grow_queries
from models.training.sources import CocoSource, read_rgb
from models.training.vocabulary import extend_vocabulary

MODEL_FOLDER = "model"
PLAN_FILE = "plan.json"
RESULT_FILE = "result.json"
CURVES_FILE = "curves.png"
_CLASSES_SHOWN = 8
_CACHE_BYTES = 2e9
_SPARE_QUERIES = 1.5
_DENOISING = {
    "contrastive": DenoisingConfig(queries=30),
    "plain": DenoisingConfig(queries=30, contrastive=False),
    "none": DenoisingConfig(queries=0),
}

ReadImage = Callable[[Path], NDArray[np.uint8]]


def finetune(
    detector: Path,
    train: Path,
    validation: Path,
    output: Path,
    config: FinetuneConfig,
    images: Path = Path("/"),
    device: str = "cpu",
    resume: bool = False,
    read: ReadImage = read_rgb,
) -> FinetuneResult | None:
    """Fine-tune a detector.

    Leaves in `output`: `model/` (the best model on the validation split, which `load_detector` takes),
    `checkpoint.pt`, `plan.json`, `log.csv`, `evaluation.csv`, `curves.png` and `result.json`. Where torch.distributed
    is initialised this is one of several processes; the first of them evaluates and writes.

    Args:
        detector: A detector's folder.
        train: COCO JSON to learn from.
        validation: COCO JSON to choose the best model by.
        output: The folder of this training.
        config: How to train.
        images: Folder that the files' `file_name` is relative to.
        device: Where to train.
        resume: Go on from the output's checkpoint if there is one.
        read: Reads an image file.

    Returns:
        What was reached; None in all processes but the first.

    Raises:
        FileNotFoundError: The detector's files are not there.
        ValueError: The data or the configuration do not fit the detector, or `resume` with another configuration.
    """
    earlier = TrainingPlan.read(output / PLAN_FILE) if resume else None
    if earlier is not None:
        earlier.check_same(config)
    rank, world = _process()
    say = print if rank == 0 else _say_nothing
    model, processor = read_grounding_dino(detector)
    labels = CocoSource(train, images)
    names = _names(labels, train)
    total = sum(parameter.numel() for parameter in model.parameters())
    size = _size(processor, config.size, labels if total < SMALL_MODEL else None, say)
    source = _open_sources(images, size["longest_edge"], config, read)
    judged = source(validation)
    processor, words = extend_vocabulary(model, processor, names, config.seed)
    if words:
        say(f"new words in the detector's vocabulary: {', '.join(words)}")
    processor.image_processor.size = size
    most = fit_prompts(processor.tokenizer, names, model.config.max_text_len, config.max_prompts)
    learned = source(train, sampling=ask_for_all(names) if config.closed_set else _sampling(most))
    if grow_queries(model, math.ceil(_SPARE_QUERIES * learned.most_boxes()), config.seed):
        say(f"an image holds {learned.most_boxes()} objects: the detector now finds up to {model.config.num_queries}")
    trainer = _make_trainer(model, processor, names, config).to(device)
    if frozen := freeze_parts(trainer, config.freeze, words, config.closed_set):
        say(f"frozen: {frozen / 1e6:.1f} of {total / 1e6:.1f} million parameters")
    batches = partial(
        StepBatches,
        [learned, learned.whole()],
        [1.0, 0.0],
        processor.tokenizer,
        config.batch_size,
        phases=plan_phases(size, learned.aspect, config),
        seed=config.seed,
        rank=rank,
        join=partial(collate_classes, names=names) if config.closed_set else None,
    )
    judge = partial(_judge, processor=processor, source=judged, names=names, most=most, config=config, device=device)
    plan = earlier or _plan(
        config,
        lambda: judge(trainer.model),
        lambda: measure_step(trainer, batches(steps=10), torch.device(device)),
        len(learned) / (config.batch_size * world),
        words,
    )
    say(plan.describe(config.batch_size * world, len(learned), len(judged)), flush=True)
    if rank == 0:
        plan.write(output / PLAN_FILE)
    loop = Loop(
        trainer,
        batches(steps=plan.steps),
        output,
        plan_loop(plan, total),
        evaluate=lambda averaged: _figures(judge(averaged)),
        keep_best=lambda averaged: _keep(output / MODEL_FOLDER, averaged, processor, most, config),
        device=device,
        resume=resume,
    )
    loop.run()
    if rank:
        return None
    draw_curves(output, output / CURVES_FILE)
    counts = judged.boxes_by_name()
    result = FinetuneResult(
        model=output / MODEL_FOLDER,
        objects={name: counts.get(name, 0) for name in names},
        before=plan.before,
        after=evaluate_folder(output / MODEL_FOLDER, judged, names, device),
        words=words,
        steps=loop.step,
        train_images=len(learned),
        validation_images=len(judged),
    )
    result.write(output / RESULT_FILE)
    return result


def _process() -> tuple[int, int]:
    """Return this process's rank and how many there are."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank(), torch.distributed.get_world_size()
    return 0, 1


def _say_nothing(*_: object, **__: object) -> None:
    """Take the place of `print` in all processes but the first."""


def _open_sources(images: Path, side: int, config: FinetuneConfig, read: ReadImage) -> Callable[..., CocoSource]:
    """Return what opens COCO files; images are kept in memory a little larger than the model sees them."""
    kept = max(640, side)
    return partial(
        CocoSource,
        images=images,
        max_side=kept,
        cached=min(2000, int(_CACHE_BYTES / (2.25 * kept**2))),
        vertical_flip=config.vertical_flip,
        quarter_turns=config.quarter_turns,
        read=read,
    )


def _size(
    processor: GroundingDinoProcessor, wanted: int | None, labels: CocoSource | None, say: Callable[..., None]
) -> dict[str, int]:
    """Return the size at which images are shown; it is said where small objects of the labels ask for a larger one.

    Without labels it is the detector's own, or what is wanted.
    """
    if wanted is not None or labels is None:
        return choose_size(processor, wanted)
    name, share = labels.smallest_class()
    size, own = choose_size(processor, None, share, labels.short_side), processor.image_processor.size["shortest_edge"]
    if size["shortest_edge"] > own:
        say(
            f"{name} is {share * own:.0f} px wide in the median at the detector's size of {own}: "
            f"it is trained and used at {size['shortest_edge']} (--size {own} for its own)"
        )
    return size


def _names(source: CocoSource, file: Path) -> tuple[str, ...]:
    """Return the class names.

    Raises:
        ValueError: A class has no box.
    """
    without = [name for name, count in source.boxes_by_name().items() if count == 0]
    if without or not source.names:
        raise ValueError(f"{file} has no box of {', '.join(without) or 'any class'}; there is nothing to learn from")
    return source.names


def _sampling(most: int) -> PromptSampling:
    """Ask mostly for everything there is, sometimes for less, now and then for nothing that is there."""
    sizes = (math.ceil(most / 4), math.ceil(most / 2), most)
    return PromptSampling(sizes, (0.2, 0.2, 0.6), nothing_present=0.05, keep_present=0.95, most=most)


def _make_trainer(
    model: GroundingModel, processor: GroundingDinoProcessor, names: tuple[str, ...], config: FinetuneConfig
) -> DenoisingTrainer:
    torch.manual_seed(config.seed)
    denoising = _DENOISING[config.denoising]
    if not config.closed_set:
        return DenoisingTrainer(model, denoising, config.text_level, config.look_forward_twice)
    classes = class_tokens_from_text(model, processor, names)
    return ClosedSetTrainer(model, classes, denoising, look_forward_twice=config.look_forward_twice)


def _labelled(source: CocoSource, names: tuple[str, ...]) -> Iterator[Labelled]:
    """Yield a source's images with the boxes of these classes alone."""
    for index in range(len(source)):
        whole = source.labelled(index)
        kept = [row for row, name in enumerate(whole.names) if name in names]
        yield Labelled(whole.image, whole.boxes_xyxy[kept], tuple(whole.names[row] for row in kept))


def evaluate_folder(folder: Path, source: CocoSource, names: tuple[str, ...], device: str = "cpu") -> Precision:
    """Evaluate a detector's folder as every command would load it, asked for all names."""

    def make(ontology: Ontology) -> GroundingDinoDetector:
        return load_grounding_dino(folder, ontology, EVALUATION, device)

    return evaluate_detector(make, _labelled(source, names), names)


def _judge(
    model: nn.Module,
    processor: GroundingDinoProcessor,
    source: CocoSource,
    names: tuple[str, ...],
    most: int,
    config: FinetuneConfig,
    device: str,
) -> Precision:
    settings = replace(EVALUATION, prompts_per_pass=most, text_level=config.text_level)
    detector = cast(GroundingModel, model)

    def make(ontology: Ontology) -> GroundingDinoDetector:
        if config.closed_set:
            classes = cast(ClassTokens, detector.class_tokens)
            return ClosedSetDetector(detector, processor, ontology, classes, settings, device)
        return GroundingDinoDetector(detector, processor, ontology, settings, device)

    return evaluate_detector(make, _labelled(source, names), names)


def _figures(precision: Precision) -> dict[str, float]:
    """Return what the loop watches, the figure that decides first; single classes only where they are few."""
    figures = {"AP": precision.ap, "AP50": precision.ap50}
    if 1 < len(precision.by_class) <= _CLASSES_SHOWN:
        figures |= {f"AP {name}": value for name, value in precision.by_class.items()}
    return figures


def _plan(
    config: FinetuneConfig,
    judge: Callable[[], Precision],
    measure: Callable[[], float],
    steps_per_epoch: float,
    words: tuple[str, ...],
) -> TrainingPlan:
    """Evaluate the start, measure a step and plan; all processes get the first one's plan."""
    rank, world = _process()
    shared: list[TrainingPlan | None] = [None]
    if rank == 0:
        before, evaluation_seconds = timed(judge)
        shared[0] = TrainingPlan.make(config, measure(), evaluation_seconds, steps_per_epoch, before, words)
    if world > 1:
        torch.distributed.broadcast_object_list(shared, src=0)
    if shared[0] is None:
        raise RuntimeError("the first process sent no plan")
    return shared[0]


def _keep(folder: Path, model: nn.Module, processor: GroundingDinoProcessor, most: int, config: FinetuneConfig) -> None:
    """Write the model aside and put it in place, so that the folder is whole or absent."""
    part, old = folder.with_name(folder.name + ".part"), folder.with_name(folder.name + ".old")
    for stale in (part, old):
        rmtree(stale, ignore_errors=True)
    write_grounding_dino(part, cast(GroundingModel, model), processor, most, config.text_level)
    if folder.exists():
        os.replace(folder, old)
    os.replace(part, folder)
    rmtree(old, ignore_errors=True)
