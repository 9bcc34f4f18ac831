"""Training in two processes: they see other images and end with the same weights."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import ray
import torch

from models.training.finetune_config import FinetuneConfig
from pipeline.engine.ray_start import start_ray
from pipeline.errors import UserError
from pipeline.training import train
from tests.tiny_training import write_scenes, write_small_detector

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module", autouse=True)
def one_ray() -> Iterator[None]:
    """Start Ray once for this file: each start costs more than the training."""
    start_ray(2)
    yield
    ray.shutdown()


def train_and_complain(settings: Mapping[str, Any], device: str) -> None:
    """Make three steps in each process, note a digest of weights, averaged weights and data, and find a mistake."""
    from models.grounding_dino.load import read_grounding_dino
    from models.training.batches import Phase, StepBatches
    from models.training.forward import DenoisingTrainer
    from models.training.loop import Loop, LoopConfig
    from models.training.sources import CocoSource

    rank = torch.distributed.get_rank()
    model, processor = read_grounding_dino(Path(settings["detector"]))
    torch.manual_seed(rank)
    trainer = DenoisingTrainer(model.requires_grad_(True))
    source = CocoSource(Path(settings["data"]), Path(settings["images"]))
    batches = StepBatches([source], [1.0], processor.tokenizer, 2, 3, [Phase(1.0, (64,))], rank=rank)
    loop = Loop(trainer, batches, Path(settings["output"]), LoopConfig(steps=3, minutes=5), device=device)
    loop.run()
    weights = torch.cat([value.flatten() for value in trainer.model.state_dict().values()])
    gradients = [value.grad.flatten() for value in trainer.parameters() if value.grad is not None]
    noted = {
        "weights": weights.double().sum().item(),
        "gradients": torch.cat(gradients).double().abs().sum().item(),
        "steps": loop.step,
        "pixels": batches[0].pixel_values.double().sum().item(),
        "world": torch.distributed.get_world_size(),
    }
    (Path(settings["output"]) / f"{rank}.json").write_text(json.dumps(noted))
    torch.distributed.barrier()
    raise ValueError("the detector does not fit")


def test_two_processes_keep_the_same_weights_and_their_complaint_is_the_users(tmp_path: Path) -> None:
    from pipeline.engine.distributed import run_on_workers

    data, detector = write_scenes(tmp_path / "data", 6), write_small_detector(tmp_path / "start")
    settings = {"detector": detector, "data": data, "images": data.parent / "images", "output": tmp_path / "out"}
    (tmp_path / "out").mkdir()
    plain = {name: str(value) for name, value in settings.items()}
    with pytest.raises(UserError, match="the detector does not fit"):
        run_on_workers(train_and_complain, plain, 2, use_gpu=False, scratch=tmp_path / "ray")
    one, two = (json.loads((tmp_path / "out" / f"{rank}.json").read_text()) for rank in range(2))
    assert (one["world"], one["steps"], two["steps"]) == (2, 3, 3)
    assert one["weights"] == two["weights"]
    assert one["gradients"] == two["gradients"] > 0
    assert one["pixels"] != two["pixels"]
    assert not (tmp_path / "ray").exists()


def test_the_command_trains_in_two_processes(tmp_path: Path) -> None:
    data, detector = write_scenes(tmp_path / "data", 6), write_small_detector(tmp_path / "start")
    result = train(
        data, str(detector), tmp_path / "tuned", FinetuneConfig(epochs=1, batch_size=2), workers=2, device="cpu"
    )
    assert result.steps == 2
    assert (result.model / "model.safetensors").exists()
