"""The training loop: plain PyTorch, resumable, for one process or several.

A step is a pure function of its number (batches and noise follow from the seed and the step), so an interrupted run
that is resumed goes on with the losses of an unbroken one.
"""

import csv
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader

from models.training.batches import StepBatches
from models.training.checkpoint import load_checkpoint, save_atomically
from models.training.criterion import LossWeights, grounding_loss
from models.training.forward import Batch, DenoisingTrainer, TrainingOutput
from models.training.muon import Muon, OptimiserName, matrix_names
from models.training.refining import refiner_losses


@dataclass(frozen=True)
class LoopConfig:
    """How the loop optimises.

    Attributes:
        steps: Optimiser steps.
        learning_rate: The optimiser's peak rate.
        backbone_factor: The image backbone's share of that rate.
        weight_decay: The optimiser's.
        warmup: Steps of linear warm-up.
        decay_from: Share of the steps after which the rate falls linearly.
        final_factor: Share of the rate at the end.
        clip_norm: Largest gradient norm.
        ema: Decay of the moving average of the weights; the average is what is kept.
        seed: Of batches and noise.
        save_every: Steps between checkpoints.
        evaluate_every: Steps between evaluations; 0 for the end alone.
        minutes: Stop (with a checkpoint) after this time, which the rate and what is shown follow; None for no limit.
        optimiser: `muon` brings a small model further in as many steps.
    """

    steps: int
    learning_rate: float = 6e-4
    backbone_factor: float = 0.5
    weight_decay: float = 1e-4
    warmup: int = 300
    decay_from: float = 0.65
    final_factor: float = 0.02
    clip_norm: float = 1.0
    ema: float = 0.998
    seed: int = 0
    save_every: int = 250
    evaluate_every: int = 0
    minutes: float | None = None
    optimiser: OptimiserName = "adamw"

    def share_of_time(self, minutes_spent: float) -> float:
        """Return which share of the time limit is over; 0 without one."""
        return 0.0 if self.minutes is None else minutes_spent / self.minutes

    def rate_factor(self, step: int, minutes_spent: float = 0.0) -> float:
        """Return the share of the peak rate at a step; under a time limit the time spent may be further than it."""
        if self.minutes is not None:
            done = max(step / self.steps, self.share_of_time(minutes_spent))
            fall = (done - self.decay_from) / max(1 - self.decay_from, 1e-9)
        else:
            start = self.decay_from * self.steps
            fall = (step - start) / max(self.steps - start, 1)
        decayed = 1.0 if fall <= 0 else 1 - (1 - self.final_factor) * min(fall, 1.0)
        return min((step + 1) / self.warmup, decayed) if self.warmup else decayed


def training_loss(
    runner: nn.Module,
    batch: Batch,
    noise: torch.Generator,
    device: torch.device,
    weights: LossWeights = LossWeights(),
    world_boxes: float | None = None,
) -> dict[str, Tensor]:
    """Run a `DenoisingTrainer` on a batch of its device and return the loss terms, with gradient.

    Args:
        runner: The trainer, or what wraps it.
        batch: On `device`.
        noise: Draws the denoising noise, on the CPU.
        device: On a GPU the forward pass is in bfloat16 where that is safe.
        weights: Weights of the terms; the batch's own alpha comes before theirs.
        world_boxes: See `grounding_loss`.
    """
    with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
        output: TrainingOutput = runner(batch, noise)
    losses = grounding_loss(
        output.decoded,
        output.selection,
        batch.targets,
        output.denoised,
        output.denoising,
        weights if batch.alpha is None else replace(weights, alpha=batch.alpha),
        world_boxes=world_boxes,
    )
    return losses if output.refiner is None else losses | refiner_losses(output.refiner)


Evaluate = Callable[[nn.Module], Mapping[str, float]]
"""Takes the averaged detector and returns named figures; the first one decides which model is best."""


class Loop:
    """One training run in one folder.

    Args:
        trainer: The detector with its denoising head.
        batches: The steps' batches.
        output: Folder for `checkpoint.pt` and `log.csv`.
        config: How to optimise.
        weights: Weights of the loss terms.
        evaluate: Called with the averaged detector now and then; None for never.
        keep_best: Called with the averaged detector whenever its first figure is the best so far.
        device: Where to train.
        resume: Go on from the folder's checkpoint if there is one.
    """

    def __init__(
        self,
        trainer: DenoisingTrainer,
        batches: StepBatches,
        output: Path,
        config: LoopConfig,
        weights: LossWeights = LossWeights(),
        evaluate: Evaluate | None = None,
        keep_best: Callable[[nn.Module], None] | None = None,
        device: torch.device | str = "cpu",
        resume: bool = False,
    ) -> None:
        self.config, self.weights, self.output = config, weights, output
        self.device = torch.device(device)
        self.trainer = trainer.to(self.device).to(memory_format=torch.channels_last)
        self.average = AveragedModel(self.trainer, multi_avg_fn=get_ema_multi_avg_fn(config.ema), use_buffers=False)
        self._batches, self._evaluate, self._keep_best = batches, evaluate, keep_best
        self._distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
        self._runner: nn.Module = (
            DistributedDataParallel(self.trainer, find_unused_parameters=True) if self._distributed else self.trainer
        )
        optimiser = torch.optim.AdamW if config.optimiser == "adamw" else Muon
        self._optimiser = optimiser(self._groups(), lr=config.learning_rate, weight_decay=config.weight_decay)
        self._rates = [group["lr"] for group in self._optimiser.param_groups]
        self.step, self.best, self._spent = 0, float("-inf"), 0.0
        output.mkdir(parents=True, exist_ok=True)
        if resume and (output / "checkpoint.pt").exists():
            self._load()

    def _groups(self) -> list[dict[str, Any]]:
        config = self.config
        matrices = matrix_names(self.trainer) if config.optimiser == "muon" else set[str]()
        groups = dict[tuple[bool, bool], list[nn.Parameter]]()
        for name, parameter in self.trainer.named_parameters():
            if parameter.requires_grad:
                groups.setdefault((".backbone.conv_encoder" in name, name in matrices), []).append(parameter)
        return [
            {
                "params": parameters,
                "lr": config.learning_rate * (config.backbone_factor if of_backbone else 1.0),
                "matrices": of_matrices,
            }
            for (of_backbone, of_matrices), parameters in sorted(groups.items(), key=lambda group: group[0])
        ]

    def run(self) -> Mapping[str, float]:
        """Train to the last step or the time limit; return the last evaluation's figures (empty without one)."""
        remaining = torch.utils.data.Subset(self._batches, range(self.step, self.config.steps))
        loader = DataLoader(remaining, batch_size=None, num_workers=1 if len(remaining) else 0)
        started, spent_before = time.monotonic(), self._spent
        self._batches.set_share_done(self.config.share_of_time(self._spent / 60))
        figures: Mapping[str, float] = {}
        self._runner.train()
        for batch in loader:
            terms = self.train_step(batch)
            self._spent = self._agreed(spent_before + time.monotonic() - started)
            share = self.config.share_of_time(self._spent / 60)
            self._batches.set_share_done(share)
            out_of_time = share > 1
            last = self.step == self.config.steps or out_of_time
            if self.step % 25 == 0 or last:
                self._log(terms)
            due = self.config.evaluate_every and self.step % self.config.evaluate_every == 0
            if self._evaluate is not None and self._is_first and (due or last):
                figures = self._judge()
            if self._is_first and (self.step % self.config.save_every == 0 or last):
                self._save()
            if out_of_time:
                break
        return figures

    def train_step(self, batch: Batch) -> dict[str, float]:
        """Make one optimiser step; return the loss terms, `total` among them."""
        batch = batch.to(self.device)
        noise = torch.Generator().manual_seed(self.config.seed * 1_000_003 + self.step)
        torch.manual_seed(self.config.seed * 1_000_003 + self.step)
        for group, rate in zip(self._optimiser.param_groups, self._rates, strict=True):
            group["lr"] = rate * self.config.rate_factor(self.step, self._spent / 60)
        terms = training_loss(self._runner, batch, noise, self.device, self.weights, self._world_boxes(batch))
        total = torch.stack(list(terms.values())).sum()
        self._optimiser.zero_grad()
        total.backward()
        nn.utils.clip_grad_norm_(self.trainer.parameters(), self.config.clip_norm)
        self._optimiser.step()
        self.average.update_parameters(self.trainer)
        self.step += 1
        return {"total": total.item()} | {name: term.item() for name, term in terms.items()}

    @property
    def _is_first(self) -> bool:
        return not self._distributed or torch.distributed.get_rank() == 0

    def _agreed(self, seconds: float) -> float:
        """Return the first process's clock, so that all processes stop and slow down at the same step."""
        if not self._distributed or self.config.minutes is None:
            return seconds
        clock = torch.tensor(seconds, dtype=torch.float64, device=self.device)
        torch.distributed.broadcast(clock, src=0)
        return clock.item()

    def _world_boxes(self, batch: Batch) -> float | None:
        """Return the mean number of boxes a process, as DETR normalises over processes."""
        if not self._distributed:
            return None
        count = torch.tensor(float(sum(len(target.boxes) for target in batch.targets)), device=self.device)
        torch.distributed.all_reduce(count)
        return count.item() / torch.distributed.get_world_size()

    def _averaged_detector(self) -> nn.Module:
        return cast(DenoisingTrainer, self.average.module).model

    def _judge(self) -> Mapping[str, float]:
        averaged = self._averaged_detector()
        averaged.eval()
        figures = self._evaluate(averaged) if self._evaluate else {}
        print(f"step {self.step}: " + ", ".join(f"{name} {value:.4f}" for name, value in figures.items()), flush=True)
        self._append("evaluation.csv", {"step": self.step, "minutes": round(self._spent / 60, 2), **figures})
        first = next(iter(figures.values()), self.best)
        if not first <= self.best:  # NaN counts as better, so that a validation set without objects keeps a model
            self.best = first
            if self._keep_best is not None:
                self._keep_best(averaged)
        return figures

    def _log(self, terms: Mapping[str, float]) -> None:
        if self._is_first:
            absent = dict.fromkeys((f"{name}_denoising" for name in ("focal", "l1", "giou")), 0.0)
            row = {"step": self.step, "minutes": round(self._spent / 60, 2), **absent, **terms}
            self._append("log.csv", {name: f"{value:.5g}" for name, value in row.items()})

    def _append(self, name: str, row: Mapping[str, object]) -> None:
        path = self.output / name
        fields = list(row)
        if path.exists():
            with path.open(newline="", encoding="utf-8") as existing:
                fields = next(csv.reader(existing), fields)
        fresh = not path.exists()
        with path.open("a", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, fields, restval="", extrasaction="ignore")
            if fresh:
                writer.writeheader()
            writer.writerow(row)

    def _save(self) -> None:
        state = {
            "trainer": self.trainer.state_dict(),
            "average": self.average.state_dict(),
            "optimiser": self._optimiser.state_dict(),
            "rng": torch.get_rng_state(),
            "step": self.step,
            "best": self.best,
            "spent": self._spent,
        }
        save_atomically(state, self.output / "checkpoint.pt")

    def _load(self) -> None:
        state = load_checkpoint(self.output / "checkpoint.pt")
        self.trainer.load_state_dict(state["trainer"])
        self.average.load_state_dict(state["average"])
        self._optimiser.load_state_dict(state["optimiser"])
        torch.set_rng_state(state["rng"])
        self.step, self.best, self._spent = state["step"], state["best"], state["spent"]
