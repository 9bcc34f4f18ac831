"""What this machine can compute on."""

import os
import sys
from dataclasses import dataclass


@dataclass(frozen=True)
class Device:
    """One device.

    Attributes:
        name: As torch names it: "cpu", "cuda:0", "mps".
        description: The product's name, or the number of cores.
        memory_bytes: Of the device; None where torch does not tell.
    """

    name: str
    description: str
    memory_bytes: int | None


def describe_devices() -> tuple[Device, ...]:
    """Return the accelerators that torch can use, then the processor; torch is imported."""
    import torch

    found = []
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            properties = torch.cuda.get_device_properties(index)
            found.append(Device(f"cuda:{index}", properties.name, properties.total_memory))
    if torch.backends.mps.is_available():
        found.append(Device("mps", "Apple GPU", None))
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    memory = None
    if "SC_PHYS_PAGES" in os.sysconf_names and "SC_PAGE_SIZE" in os.sysconf_names:
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return (*found, Device("cpu", f"{cores} core{'' if cores == 1 else 's'}", memory))


@dataclass(frozen=True)
class GpuUse:
    """How busy a GPU is at one moment, with all processes that use it.

    Attributes:
        percent: Of the last moments in which it computed, 0 to 100; None where the package nvidia-ml-py is missing.
        used_bytes: Of its memory.
        memory_bytes: That it has.
    """

    percent: int | None
    used_bytes: int
    memory_bytes: int


def read_gpu_use() -> GpuUse | None:
    """Return the use of this process's CUDA device; None where it has not begun to use one. Imports nothing new."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return None
    free, memory = torch.cuda.mem_get_info()
    try:
        percent = int(torch.cuda.utilization())
    except (ImportError, RuntimeError):  # torch asks the driver's library through that package
        percent = None
    return GpuUse(percent, memory - free, memory)


def use_threads(count: int) -> None:
    """Let torch use this many CPU threads in this process; torch is imported.

    Raises:
        ValueError: The count is not positive.
    """
    if count < 1:
        raise ValueError(f"threads must be at least 1, not {count}")
    import torch

    torch.set_num_threads(count)
