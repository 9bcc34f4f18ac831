"""How many images a detector takes at once: a fixed number, or the largest that a GPU's memory holds.

The largest number is found by doubling, before an image of that size is labelled, and kept on disk for the model, its
precision, the GPU and the resized size: a run that goes on, and the next run, cut their batches as before. Importing
this module imports no torch.
"""

import contextlib
import hashlib
import json
import logging
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeAlias

from models.detections import Detections
from models.interfaces import Image
from models.out_of_memory import Halving, free_device_memory, is_out_of_memory
from models.precision import Precision
from models.zoo import model_fingerprint, pick_device

FIRST = 8
"""Images at once where nothing else is asked for, and with which the search begins."""
_MOST = 64
"""A GPU that holds more gains nothing by them."""
_SHARE = 0.8
"""Of the free memory that a batch may take; the segmenter and fragments need the rest."""
_LOG = logging.getLogger(__name__)

Detect: TypeAlias = Callable[[Sequence[Image]], list[Detections]]


class Batches:
    """Runs a detector on images in batches of one size, halved when memory runs out.

    Args:
        most: Images at once, at least 1.

    Raises:
        ValueError: It is not positive.
    """

    def __init__(self, most: int = FIRST) -> None:
        self._most = most
        self._halving = Halving(most, "images")

    def at_once(self, shape_hw: tuple[int, int], detect: Detect, images: Sequence[Image]) -> int:
        """Return how many images to collect for a batch.

        Args:
            shape_hw: The size to which they are resized.
            detect: The detector.
            images: Those that are collected so far, at least one.
        """
        return self._most

    def __call__(
        self, shape_hw: tuple[int, int], detect: Detect, images: Sequence[Image]
    ) -> Iterator[list[Detections]]:
        """Yield what is found in consecutive parts of images; see `at_once`, but there may be none."""
        return self._halving(detect, images)


class DeviceMemory(Protocol):
    """What can be said of a device's memory."""

    def free_bytes(self) -> int:
        """Return what this process could still take."""

    def extra_bytes(self, run: Callable[[], object]) -> int:
        """Run something and return the most that it took, beside what was taken before."""


class CudaMemory:
    """The memory of a GPU.

    Args:
        device: As torch names it.
    """

    def __init__(self, device: str) -> None:
        self._device = device

    def free_bytes(self) -> int:
        """Return free memory, and what torch only keeps for later."""
        import torch

        free, _ = torch.cuda.mem_get_info(self._device)
        return free + torch.cuda.memory_reserved(self._device) - torch.cuda.memory_allocated(self._device)

    def extra_bytes(self, run: Callable[[], object]) -> int:
        """Run something; see `DeviceMemory.extra_bytes`."""
        import torch

        before = torch.cuda.memory_allocated(self._device)
        torch.cuda.reset_peak_memory_stats(self._device)
        run()
        return torch.cuda.max_memory_allocated(self._device) - before


@dataclass(frozen=True)
class BatchRecord:
    """Batch sizes on disk; files that cannot be read or written are passed over.

    Attributes:
        folder: Made at the first write.
        key: Says which model, precision and GPU they are of.
    """

    folder: Path
    key: str

    def read(self, shape_hw: tuple[int, int]) -> int | None:
        """Return the batch size of a resized size, if it is known."""
        with contextlib.suppress(OSError, ValueError):
            content = json.loads(self._file(shape_hw).read_text(encoding="utf-8"))
            if isinstance(content, int) and 1 <= content <= _MOST:
                return content
        return None

    def write(self, shape_hw: tuple[int, int], count: int) -> None:
        """Keep it, whole or not at all, whoever else writes the same file now."""
        with contextlib.suppress(OSError):
            self.folder.mkdir(parents=True, exist_ok=True)
            handle, part = tempfile.mkstemp(dir=self.folder, suffix=".part")
            with os.fdopen(handle, "w", encoding="utf-8") as stream:
                stream.write(json.dumps(count))
            os.replace(part, self._file(shape_hw))

    def _file(self, shape_hw: tuple[int, int]) -> Path:
        text = json.dumps([self.key, *shape_hw])
        return self.folder / f"{hashlib.sha256(text.encode()).hexdigest()}.json"


class FoundBatches(Batches):
    """Batches as large as a device's memory holds, for each resized size by itself.

    As soon as `FIRST` images of a size are there, copies of them are tried, twice as many each time, while twice the
    memory of the last attempt is at most 80 % of what is free. Fewer images are not worth it.

    Args:
        memory: Of the device.
        record: Where sizes are kept.
    """

    def __init__(self, memory: DeviceMemory, record: BatchRecord) -> None:
        super().__init__(FIRST)
        self._memory = memory
        self._record = record
        self._found: dict[tuple[int, int], Halving] = {}

    def at_once(self, shape_hw: tuple[int, int], detect: Detect, images: Sequence[Image]) -> int:
        """Return the number of this size, which is looked for if need be; see `Batches.at_once`."""
        if shape_hw not in self._found:
            count = self._record.read(shape_hw)
            if count is None and len(images) >= FIRST:
                count = self._find(detect, images)
                if count is not None:
                    self._record.write(shape_hw, count)
                    _LOG.info("images of %d × %d pixels: %d at once", *shape_hw[::-1], count)
            if count is None:
                return FIRST
            self._found[shape_hw] = Halving(count, "images")
        return self._found[shape_hw].most

    def __call__(
        self, shape_hw: tuple[int, int], detect: Detect, images: Sequence[Image]
    ) -> Iterator[list[Detections]]:
        """Detect in images; see `Batches`. A number that turns out too large is kept smaller."""
        count = self.at_once(shape_hw, detect, images)
        halving = self._found.get(shape_hw, self._halving)
        yield from halving(detect, images)
        if shape_hw in self._found and halving.most < count:
            self._record.write(shape_hw, halving.most)

    def _find(self, detect: Detect, images: Sequence[Image]) -> int | None:
        """Return the largest number that fits; None where the images themselves cannot be looked at."""
        count = FIRST
        try:
            while True:
                batch = [images[place % len(images)] for place in range(count)]
                extra = self._memory.extra_bytes(lambda batch=batch: detect(batch))  # type: ignore[misc]
                if 2 * count > _MOST or 2 * extra > _SHARE * self._memory.free_bytes():
                    return count
                count *= 2
        except Exception as error:  # a model may raise anything; when the images are labelled it is said of which
            if not is_out_of_memory(error):
                return None
        free_device_memory()
        return max(count // 2, FIRST)


def find_batches(detector: str, precision: Precision, device: str, prompts: int) -> Batches:
    """Return batches as large as the device's memory holds; those of `FIRST` where it is no CUDA device.

    Args:
        detector: Zoo name, hub id or local folder.
        precision: That it computes in.
        device: As for `models.zoo.load_detector`.
        prompts: How many prompts it is asked for.
    """
    chosen = pick_device(device)
    if not chosen.startswith("cuda"):
        return Batches(FIRST)
    import torch

    from models.grounding_dino.text_cache import default_cache_folder

    gpu = torch.cuda.get_device_properties(chosen)
    key = json.dumps([model_fingerprint(detector), precision, gpu.name, gpu.total_memory, prompts])
    return FoundBatches(CudaMemory(chosen), BatchRecord(default_cache_folder().parent / "batch-sizes", key))
