"""Train a box refiner alone, when the detector is done: on what it finds in images that it looks at once.

A refiner needs many more steps than the detector, and of the detector no more than the boxes, the queries that found
them and the backbone's first maps. The first two are kept, so that a step takes a fraction of the detector's time.
"""

import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from models.grounding_dino.box_refiner import BoxRefiner, read_fine_maps
from models.grounding_dino.features import GroundingModel
from models.grounding_dino.forward import encode_image, encode_text, predict_coarsely
from models.training.batches import StepBatches
from models.training.loop import LoopConfig
from models.training.muon import Muon, split_matrices
from models.training.refining import RefinerSamples, add_noisy_copies, find_samples, refine_samples, refiner_losses

_WARM_UP = 100


@dataclass(frozen=True, eq=False)
class FoundImage:
    """An image and the objects in it that the detector finds.

    Attributes:
        pixels: (3, H, W) float16, normalised.
        samples: Of this image alone, without noisy copies; may be empty.
    """

    pixels: Tensor
    samples: RefinerSamples


@torch.no_grad()
def find_boxes(model: GroundingModel, batches: StepBatches) -> list[FoundImage]:
    """Let the detector look at all images of some batches."""
    cast(nn.Module, model).eval()
    found = []
    for batch in DataLoader(batches, batch_size=None, num_workers=1):
        image = encode_image(model, batch.pixel_values.contiguous(memory_format=torch.channels_last))
        text = encode_text(model, batch.input_ids, batch.token_mask)
        samples = find_samples(*predict_coarsely(model, image, text), batch.targets)
        for index, pixels in enumerate(batch.pixel_values):
            own = samples.images == index
            parts = (samples.boxes[own], samples.queries[own], samples.truth[own])
            found.append(
                FoundImage(pixels.half(), RefinerSamples(torch.zeros(len(parts[0]), dtype=torch.long), *parts))
            )
    return found


def join_images(images: Sequence[FoundImage]) -> tuple[Tensor, RefinerSamples]:
    """Return images of one size as (B, 3, H, W) float32, with the samples of all."""
    pixels = torch.stack([image.pixels for image in images]).float()
    parts = [image.samples for image in images]
    places = torch.cat([part.images + index for index, part in enumerate(parts)])
    boxes, queries, truth = (
        torch.cat([getattr(part, name) for part in parts]) for name in ("boxes", "queries", "truth")
    )
    return pixels.contiguous(memory_format=torch.channels_last), RefinerSamples(places, boxes, queries, truth)


def train_refiner(
    model: GroundingModel,
    refiner: BoxRefiner,
    images: Sequence[FoundImage],
    steps: int,
    batch_size: int = 4,
    learning_rate: float = 5e-3,
    seed: int = 0,
    log_every: int = 100,
) -> None:
    """Train a refiner in place, by Muon at a falling rate.

    Args:
        model: The detector that found the boxes; its backbone stays as it is.
        refiner: Any refiner for it.
        images: What it found; batches are of one image size.
        steps: How many.
        batch_size: Images a step.
        learning_rate: Peak, at the end of a short warm-up.
        seed: Of batches and noise.
        log_every: Steps between printed lines.

    Raises:
        ValueError: There is no image.
    """
    if not images:
        raise ValueError("a box refiner needs images to learn from")
    alike = defaultdict[torch.Size, list[FoundImage]](list)
    for image in images:
        alike[image.pixels.shape].append(image)
    groups = list(alike.values())
    shares = np.array([len(group) for group in groups]) / len(images)
    backbone = model.model.backbone.conv_encoder.model
    matrices, others = split_matrices(refiner)
    optimiser = Muon([{"params": matrices, "matrices": True}, {"params": others}], learning_rate)
    rates = LoopConfig(steps, warmup=_WARM_UP, decay_from=0.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, rates.rate_factor)
    rng = np.random.default_rng(seed)
    noise = torch.Generator().manual_seed(seed)
    started = time.monotonic()
    for step in range(steps):
        group = groups[int(rng.choice(len(groups), p=shares))]
        chosen = rng.choice(len(group), size=min(batch_size, len(group)), replace=False)
        pixels, samples = join_images([group[index] for index in chosen])
        with torch.no_grad():
            fine = read_fine_maps(backbone, pixels)
        losses = refiner_losses(refine_samples(refiner, fine, add_noisy_copies(samples, noise)))
        optimiser.zero_grad()
        torch.stack(list(losses.values())).sum().backward()
        optimiser.step()
        schedule.step()
        if step % log_every == 0:
            figures = ", ".join(f"{name} {loss.item():.4f}" for name, loss in losses.items())
            print(f"refiner {step}/{steps} {figures}", flush=True)
    print(f"trained the refiner in {(time.monotonic() - started) / 60:.1f} minutes", flush=True)
