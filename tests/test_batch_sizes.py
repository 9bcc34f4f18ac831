"""Batch sizes: fixed ones, and those that a device's memory decides."""

import logging
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image as PillowImage

from models.batch_sizes import FIRST, Batches, BatchRecord, CudaMemory, FoundBatches, find_batches
from models.boxes_only import BoxesOnly
from models.detections import Detections
from models.interfaces import Image
from models.ontology import Ontology
from models.zoo import load_detector
from pipeline.annotator import Annotator
from pipeline.build import assemble
from pipeline.config import AnnotateConfig
from pipeline.records import AnnotatedImage
from pipeline.sources import find_images
from tests.stub_models import ONTOLOGY, StubDetector

SHAPE = (40, 50)
IMAGE = np.zeros((40, 50, 3), np.uint8)


class Gpu:
    """A device with room for some images, and a detector on it that notes what it is given."""

    def __init__(self, room: int, honest: bool = True) -> None:
        self.room = room
        self.honest = honest
        self.batches: list[int] = []

    def detect(self, images: Sequence[Image]) -> list[Detections]:
        self.batches.append(len(images))
        if len(images) > self.room:
            raise torch.OutOfMemoryError
        return [Detections.empty((40, 50)) for _ in images]

    def free_bytes(self) -> int:
        return 1000 * self.room

    def extra_bytes(self, run: Callable[[], object]) -> int:
        run()
        return 790 * self.batches[-1] if self.honest else 1


@pytest.mark.parametrize(("room", "tried", "found"), [(4, [8], 8), (8, [8], 8), (31, [8, 16], 16),
                                                      (32, [8, 16, 32], 32), (999, [8, 16, 32, 64], 64)])  # fmt: skip
def test_sizes_double_until_memory_is_short(tmp_path: Path, room: int, tried: list[int], found: int) -> None:
    gpu = Gpu(room)
    batches = FoundBatches(gpu, BatchRecord(tmp_path / "sizes", "a"))
    assert batches.at_once(SHAPE, gpu.detect, [IMAGE] * (FIRST - 1)) == FIRST
    assert gpu.batches == [], "few images are not worth a search"
    assert batches.at_once(SHAPE, gpu.detect, [IMAGE] * FIRST) == found
    assert batches.at_once(SHAPE, gpu.detect, [IMAGE] * 9) == found
    assert gpu.batches == tried
    again, other = (FoundBatches(gpu, BatchRecord(tmp_path / "sizes", key)) for key in ("a", "b"))
    assert again.at_once(SHAPE, gpu.detect, [IMAGE]) == found, "known before the first image, as in the first run"
    assert other.at_once(SHAPE, gpu.detect, [IMAGE]) == again.at_once((9, 9), gpu.detect, [IMAGE]) == FIRST


def test_a_number_that_was_too_large_is_kept_smaller(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    gpu, record = Gpu(20, honest=False), BatchRecord(tmp_path, "a")
    batches = FoundBatches(gpu, record)
    with caplog.at_level(logging.INFO):
        assert batches.at_once(SHAPE, gpu.detect, [IMAGE] * FIRST) == 16, "32 ran out of memory"
    assert "50 × 40 pixels: 16 at once" in caplog.text
    gpu.room = 5
    assert sum(len(part) for part in batches(SHAPE, gpu.detect, [IMAGE] * 16)) == 16
    assert record.read(SHAPE) == batches.at_once(SHAPE, gpu.detect, [IMAGE]) == 4
    assert [*batches(SHAPE, gpu.detect, [])] == []


def test_what_cannot_be_looked_at_or_kept_stops_nothing(tmp_path: Path) -> None:
    def broken(images: Sequence[Image]) -> list[Detections]:
        raise RuntimeError("a damaged image")

    gpu = Gpu(99)
    batches = FoundBatches(gpu, BatchRecord(tmp_path / "sizes", "a"))
    gpu.batches.append(0)
    assert batches.at_once(SHAPE, broken, [IMAGE] * FIRST) == FIRST
    assert not (tmp_path / "sizes").exists()
    (tmp_path / "file").touch()
    assert FoundBatches(gpu, BatchRecord(tmp_path / "file", "a")).at_once(SHAPE, gpu.detect, [IMAGE] * FIRST) == 64
    record = BatchRecord(tmp_path / "sizes", "a")
    record.write(SHAPE, 16)
    (damaged,) = (tmp_path / "sizes").glob("*.json")
    for text in ("", "0", "[16]", "1e9"):
        damaged.write_text(text)
        assert record.read(SHAPE) is None


def test_an_annotator_waits_for_as_many_as_were_found(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    for row in range(20):
        PillowImage.fromarray(IMAGE).save(tmp_path / "photos" / f"{row}.png")
    found = find_images(str(tmp_path / "photos"))

    def label() -> tuple[list[int], list[bool]]:
        detector, gpu = StubDetector(), Gpu(16)
        gpu.batches = detector.batches
        annotator = Annotator(
            detector, BoxesOnly(), ONTOLOGY, batch_size=FoundBatches(gpu, BatchRecord(tmp_path / "sizes", "a"))
        )
        done = annotator(found.refs, str(found.root))
        annotator.close()
        return detector.batches, [isinstance(record, AnnotatedImage) for record in done.records]

    assert label() == ([8, 16, 16, 4], [True] * 20)
    assert label() == ([16, 4], [True] * 20), "a later run cuts the same batches, and does not search"


def test_without_a_gpu_auto_is_the_default() -> None:
    config = AnnotateConfig(batch_size="auto", device="cpu")
    assert (config.images_at_once, AnnotateConfig().images_at_once, AnnotateConfig(batch_size="3").images_at_once) == (
        FIRST, FIRST, 3,
    )  # fmt: skip
    assert AnnotateConfig().merged({"batch_size": 5}).images_at_once == 5
    assert type(find_batches("tiny", "fp32", "cpu", 2)) is Batches
    annotator = assemble(config, ONTOLOGY, StubDetector(), BoxesOnly())
    assert annotator.stages.at_once(SHAPE, [IMAGE]) == FIRST
    annotator.close()


@pytest.mark.gpu
def test_a_gpu_says_what_a_batch_takes(tmp_path: Path) -> None:
    detector = load_detector("tiny", Ontology.from_names("red circle"), device="cuda")
    memory = CudaMemory("cuda")
    image = np.zeros((288, 288, 3), np.uint8)
    few, many = (memory.extra_bytes(lambda n=n: detector([image] * n)) for n in (8, 16))  # type: ignore[misc]
    assert 1.5 * few < many < 2.5 * few
    assert memory.free_bytes() > 2 * many
    batches = FoundBatches(memory, BatchRecord(tmp_path, "a"))
    assert batches.at_once((288, 288), detector, [image] * FIRST) == 64
