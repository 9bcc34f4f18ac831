"""Several training processes by Ray Train, which starts them and joins them by torch.distributed.

The training loop in them is plain PyTorch. On GPUs they talk by NCCL, a GPU each; on the processor by Gloo.
"""

import os
import shutil
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import ray
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer, get_device

from pipeline.engine.actors import default_threads
from pipeline.engine.ray_start import start_ray
from pipeline.errors import UserError

Work = Callable[[Mapping[str, Any], str], None]
"""Takes the settings and the process's device, such as `cpu` or `cuda:0`."""
_TIMEOUT_SECONDS = 3600


def run_on_workers(work: Work, settings: Mapping[str, Any], workers: int, use_gpu: bool, scratch: Path) -> None:
    """Run a function in several processes that are joined by torch.distributed, and wait for all of them.

    Args:
        work: An importable function.
        settings: Its first argument: plain values.
        workers: How many processes.
        use_gpu: Give each a GPU.
        scratch: A folder for Ray Train's own files; removed at the end.

    Raises:
        UserError: There are fewer GPUs than workers, or a worker found something wrong in what the user gave.
        RuntimeError: A worker failed otherwise.
    """
    owned = not ray.is_initialized()
    if owned:
        start_ray(max(workers, os.cpu_count() or 1))
    try:
        gpus = int(ray.cluster_resources().get("GPU", 0))  # type: ignore[no-untyped-call]
        if use_gpu and gpus < workers:
            raise UserError(f"{workers} workers want a GPU each, and there are {gpus}; use fewer, or --device cpu")
        trainer = TorchTrainer(
            partial(_work, work, use_gpu, default_threads(workers)),
            train_loop_config=dict(settings),
            torch_config=TorchConfig(backend="nccl" if use_gpu else "gloo", timeout_s=_TIMEOUT_SECONDS),
            scaling_config=ScalingConfig(num_workers=workers, use_gpu=use_gpu),
            run_config=RunConfig(
                name="train", storage_path=str(scratch.absolute()), failure_config=FailureConfig(max_failures=0)
            ),
        )
        try:
            trainer.fit()
        except Exception as error:  # Ray Train wraps a worker's error in its own, of several kinds
            raise _explain(error) from error
    finally:
        if owned:
            ray.shutdown()
        shutil.rmtree(scratch, ignore_errors=True)


def _work(work: Work, use_gpu: bool, threads: int, settings: dict[str, Any]) -> None:
    from models.devices import use_threads

    use_threads(threads)
    work(settings, str(get_device()) if use_gpu else "cpu")


def _explain(error: BaseException) -> Exception:
    """Return the exception to raise for one of Ray Train's: a worker's word on the user's input counts."""
    failures = getattr(error, "worker_failures", None) or {}
    causes = [*failures.values(), error]
    for cause in causes:
        inner = getattr(cause, "_base_exc", None) or getattr(cause, "cause", None) or cause
        if isinstance(inner, ValueError | OSError):
            return UserError(str(inner))
    return RuntimeError(f"a training process failed: {causes[0]}")
