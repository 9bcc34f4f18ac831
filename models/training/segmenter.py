"""Train the tiny SAM from nothing: `python -m models.training.segmenter --output DIR`."""

import argparse
import csv
import math
import os
import time
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import torch

from models.sam.tiny import TinySamSegmenter, save_tiny_sam
from models.sam.tiny_network import TinySam, TinySamConfig
from models.training.scenes import SceneConfig
from models.training.segmenter_batch import SegmenterRecipe, collate, draw_samples
from models.training.segmenter_data import Photo, photo_files, read_photos
from models.training.segmenter_eval import evaluate_segmenter
from models.training.segmenter_loss import SegmenterLoss, segmenter_loss

LOG_COLUMNS = ("step", "seconds", "loss", "dice", "bce", "quality", "iou")


def learning_rate_factor(step: int, progress: float, recipe: SegmenterRecipe) -> float:
    """Return the share of the highest learning rate: linear warm-up, then a cosine from 1 to .01.

    Args:
        step: Steps done.
        progress: Share of the schedule that is done, in [0, 1].
        recipe: Holds the warm-up.
    """
    cosine = 0.01 + 0.99 * (1 + math.cos(math.pi * min(progress, 1.0))) / 2
    return cosine * min(1.0, (step + 1) / recipe.warm_up)


class SegmenterTrainer:
    """The network, its average, the optimiser and where they stand.

    Args:
        recipe: How to train.
        config: The network's shape.
        photos: The training side of the photos; may be empty.
        scenes: What the scenes are made of.
    """

    def __init__(
        self, recipe: SegmenterRecipe, config: TinySamConfig, photos: tuple[Photo, ...], scenes: SceneConfig
    ) -> None:
        torch.manual_seed(recipe.seed)
        self.recipe, self.photos, self.scenes = recipe, photos, scenes
        self.network = TinySam(config).to(memory_format=torch.channels_last)
        self.average = deepcopy(self.network).eval().requires_grad_(False)
        trained = [weight for weight in self.network.parameters() if weight.requires_grad]
        self.optimiser = torch.optim.AdamW(trained, recipe.learning_rate, weight_decay=recipe.weight_decay)
        self.step = 0
        self.seconds = 0.0

    def train_step(self, progress: float | None = None) -> SegmenterLoss:
        """Do one step.

        Args:
            progress: Share of the schedule that is done; None for what the recipe's steps say.

        Returns:
            The losses before the step.
        """
        started = time.perf_counter()
        done = self.step / self.recipe.steps if progress is None else progress
        rate = self.recipe.learning_rate * learning_rate_factor(self.step, done, self.recipe)
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        samples = draw_samples(self.step, self.recipe, self.photos, self.scenes)
        rng = np.random.default_rng((self.recipe.seed, self.step, self.recipe.images))
        batch = collate(samples, self.network, self.recipe.boxes, rng)
        self.network.train()
        features = self.network.image_encoder(batch.images.contiguous(memory_format=torch.channels_last))
        pixels = batch.pixels.contiguous(memory_format=torch.channels_last)
        logits, quality = self.network.decode(features, batch.image_index, batch.boxes_xyxy, pixels)
        loss = segmenter_loss(logits, quality, batch.targets)
        self.optimiser.zero_grad(set_to_none=True)
        torch.autograd.backward(loss.total)
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), self.recipe.clip)
        self.optimiser.step()
        self._update_average()
        self.step += 1
        self.seconds += time.perf_counter() - started
        return SegmenterLoss(*(part.detach() for part in loss))

    @torch.no_grad()
    def _update_average(self) -> None:
        # Young averages follow faster, or the first thousand steps would be the random start.
        decay = min(self.recipe.ema, (1 + self.step) / (10 + self.step))
        current = self.network.state_dict()
        for name, value in self.average.state_dict().items():
            if value.is_floating_point():
                value.lerp_(current[name], 1 - decay)
            else:
                value.copy_(current[name])

    def save(self, path: Path) -> None:
        """Write a checkpoint, whole or not at all."""
        path.parent.mkdir(parents=True, exist_ok=True)
        state: dict[str, Any] = {
            "network": self.network.state_dict(),
            "average": self.average.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "step": self.step,
            "seconds": self.seconds,
        }
        part = path.with_suffix(".part")
        torch.save(state, part)
        os.replace(part, path)

    def load(self, path: Path) -> None:
        """Go on from a checkpoint: the next losses are those of an unbroken run.

        Raises:
            FileNotFoundError: There is no such file.
        """
        state = torch.load(path, weights_only=True)
        self.network.load_state_dict(state["network"])
        self.average.load_state_dict(state["average"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.step, self.seconds = state["step"], state["seconds"]


def train_segmenter(
    output: Path,
    photos: Path | None,
    recipe: SegmenterRecipe,
    config: TinySamConfig,
    minutes: float | None = None,
    resume: bool = False,
    log_every: int = 50,
    save_every: int = 500,
) -> TinySam:
    """Train a tiny SAM and keep its averaged weights.

    Args:
        output: Folder for model.safetensors, config.json, checkpoint.pt and log.csv.
        photos: COCO folder with photos; None trains on scenes alone.
        recipe: How to train.
        config: The network's shape.
        minutes: Time after which the schedule is to be over, even with fewer steps; None for no such limit, which
            makes the weights a function of the recipe alone.
        resume: Go on from the checkpoint in `output`, where there is one.
        log_every: Steps between lines of the log, each the mean since the line before.
        save_every: Steps between checkpoints.

    Returns:
        The averaged network, in evaluation mode.

    Raises:
        FileNotFoundError: The photo folder has no instances.json.
    """
    output.mkdir(parents=True, exist_ok=True)
    pictures = read_photos(photos, held_out=False) if photos else ()
    backgrounds = photo_files(photos, held_out=False) if photos else ()
    trainer = SegmenterTrainer(recipe, config, pictures, SceneConfig(size=config.image_size, photos=backgrounds))
    checkpoint = output / "checkpoint.pt"
    if resume and checkpoint.is_file():
        trainer.load(checkpoint)
    log = output / "log.csv"
    before = _logged(log, trainer.step)
    with log.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerows([list(LOG_COLUMNS), *before])
        recent: list[SegmenterLoss] = []
        while True:
            spent = trainer.seconds / 60 / minutes if minutes else 0.0
            progress = max(trainer.step / recipe.steps, spent)
            if progress >= 1:
                break
            recent.append(trainer.train_step(progress))
            if trainer.step % log_every == 0:
                means = torch.stack([torch.stack(list(parts)) for parts in recent]).mean(dim=0).tolist()
                writer.writerow([trainer.step, f"{trainer.seconds:.1f}", *(f"{mean:.4f}" for mean in means)])
                stream.flush()
                recent = []
            if trainer.step % save_every == 0:
                trainer.save(checkpoint)
                save_tiny_sam(trainer.average, output)
    trainer.save(checkpoint)
    save_tiny_sam(trainer.average, output)
    return trainer.average


def _logged(log: Path, step: int) -> list[list[str]]:
    """Read the lines of a log up to a step: what an interrupted run wrote after its checkpoint is done again."""
    if not log.is_file():
        return []
    with log.open(newline="", encoding="utf-8") as stream:
        return [row for row in csv.reader(stream) if row and row[0].isdigit() and int(row[0]) <= step]


def main() -> None:
    """Parse the options, train, and print how the result does."""
    parser = argparse.ArgumentParser(prog="python -m models.training.segmenter", description=__doc__)
    parser.add_argument("--output", type=Path, required=True, help="folder for weights, checkpoint and log")
    parser.add_argument("--photos", type=Path, help="COCO folder with photos to train on besides scenes")
    parser.add_argument("--steps", type=int, default=SegmenterRecipe.steps, help="steps of the schedule")
    parser.add_argument("--minutes", type=float, help="end the schedule after this time, even with fewer steps")
    parser.add_argument("--threads", type=int, default=1, help="torch threads")
    parser.add_argument("--seed", type=int, default=SegmenterRecipe.seed)
    parser.add_argument("--resume", action="store_true", help="go on from the checkpoint in the output folder")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    recipe = SegmenterRecipe(steps=options.steps, seed=options.seed)
    network = train_segmenter(
        options.output, options.photos, recipe, TinySamConfig(), minutes=options.minutes, resume=options.resume
    )
    for report in evaluate_segmenter(TinySamSegmenter(network), options.photos):
        print(report, flush=True)


if __name__ == "__main__":
    main()
