"""One batch from paths to records, with stub models."""

import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as PillowImage

from models.detections import Detections
from models.interfaces import Detector, Image, Segmenter
from models.masks import decode_mask
from models.ontology import Ontology
from models.zoo import load_detector, load_segmenter
from pipeline import annotator as annotator_module
from pipeline.annotator import Annotator, ModelsFailedError
from pipeline.config import FilterSettings, TileSettings
from pipeline.records import AnnotatedImage, FailedImage
from pipeline.sources import ImageRef, find_images
from tests.stub_models import (
    ONTOLOGY,
    RAISE,
    RAISE_IN_SEGMENTER,
    StubDetector,
    StubSegmenter,
    save_image,
)


@pytest.fixture
def detector() -> StubDetector:
    return StubDetector()


@pytest.fixture
def annotator(detector: StubDetector) -> Iterator[Annotator]:
    made = Annotator(detector, StubSegmenter(), ONTOLOGY, FilterSettings(), batch_size=3)
    yield made
    made.close()


@pytest.fixture(scope="module")
def bundled() -> tuple[Detector, Segmenter]:
    detector = load_detector(
        "tiny", Ontology.from_names("red circle"), box_threshold=0.02, text_threshold=0.0, device="cpu"
    )
    return detector, load_segmenter("tiny-sam", device="cpu")


def refs_in(folder: Path) -> tuple[ImageRef, ...]:
    return find_images(folder).refs


def test_records_and_timings_in_order(tmp_path: Path, annotator: Annotator) -> None:
    for row in range(5):
        save_image(tmp_path / f"{row}.png", green=row % 2 == 1)
    (tmp_path / "3.png").write_bytes(b"")
    refs = refs_in(tmp_path)
    done = annotator(refs, str(tmp_path))
    assert [(record.image_id, record.path) for record in done.records] == list(refs)
    assert [timing.image_id for timing in done.timings] == [ref.image_id for ref in refs]
    assert done.records[3] == FailedImage(*refs[3], "empty file (0 bytes)")
    first = done.records[1]
    assert isinstance(first, AnnotatedImage)
    assert first.class_names == ("red thing", "green thing")
    assert first.image_hw == (12, 16)
    assert np.array_equal(np.argwhere(decode_mask(first.instances.masks[1]))[0], [0, 8])
    assert done.timings[1].seconds_decode > 0
    assert not done.drops


def test_no_images(annotator: Annotator) -> None:
    assert annotator([], "/").records == []


def test_batches_are_of_one_size_each(tmp_path: Path, annotator: Annotator, detector: StubDetector) -> None:
    for row in range(8):
        save_image(tmp_path / f"{row}.png", hw=(12, 16) if row % 2 else (16, 12))
    assert len(annotator(refs_in(tmp_path), str(tmp_path)).records) == 8
    assert sorted(detector.batches) == [1, 1, 3, 3]


def test_waiting_images_are_bounded(
    tmp_path: Path, annotator: Annotator, detector: StubDetector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(annotator_module, "HELD_BYTES", 2 * 12 * 16 * 3 - 1)
    for row in range(3):
        save_image(tmp_path / f"{row}.png")
    assert len(annotator(refs_in(tmp_path), str(tmp_path)).records) == 3
    assert detector.batches == [2, 1]


def test_one_bad_image_fails_alone(tmp_path: Path, annotator: Annotator) -> None:
    save_image(tmp_path / "0.png")
    save_image(tmp_path / "1.png", RAISE)
    save_image(tmp_path / "2.png", RAISE_IN_SEGMENTER)
    done = annotator(refs_in(tmp_path), str(tmp_path))
    assert isinstance(done.records[0], AnnotatedImage)
    assert [record.reason for record in done.records if isinstance(record, FailedImage)] == [
        "detector: ValueError: this image is not to my taste",
        "segmenter: RuntimeError: no mask for this one",
    ]


def test_models_that_fail_on_everything_are_an_error(tmp_path: Path, annotator: Annotator) -> None:
    for row in range(4):
        save_image(tmp_path / f"{row}.png", RAISE)
    (tmp_path / "broken.png").touch()
    with pytest.raises(ModelsFailedError, match="failed on each of 4 images: detector: ValueError"):
        annotator(refs_in(tmp_path), str(tmp_path))


def test_only_broken_files_are_rows(tmp_path: Path, annotator: Annotator) -> None:
    for row in range(3):
        (tmp_path / f"{row}.png").touch()
    done = annotator(refs_in(tmp_path), str(tmp_path))
    assert all(isinstance(record, FailedImage) for record in done.records)
    assert len(done.records) == 3


def test_drops_are_counted(tmp_path: Path, detector: StubDetector) -> None:
    save_image(tmp_path / "0.png", green=True)
    made = Annotator(detector, StubSegmenter(), ONTOLOGY, FilterSettings(max_box_share=0.4))
    done = made(refs_in(tmp_path), str(tmp_path))
    assert done.drops == {"large: red thing": 1, "large: green thing": 1}
    made.close()


def test_stop_leaves_out_what_was_not_reached(tmp_path: Path) -> None:
    for row in range(6):
        save_image(tmp_path / f"{row}.png")
    reached = threading.Event()

    class Slow(StubDetector):
        def __call__(self, images: Sequence[Image]) -> list[Detections]:
            reached.set()
            time.sleep(0.05)
            return super().__call__(images)

    made = Annotator(Slow(), StubSegmenter(), ONTOLOGY, batch_size=1)
    threading.Thread(target=lambda: (reached.wait(5), made.stop())).start()
    done = made(refs_in(tmp_path), str(tmp_path))
    assert 1 <= len(done.records) < 6
    assert all(isinstance(record, AnnotatedImage) for record in done.records)
    assert made(refs_in(tmp_path), str(tmp_path)).records == []
    made.close()


def test_two_batches_at_once(tmp_path: Path, annotator: Annotator) -> None:
    for row in range(12):
        save_image(tmp_path / f"{row:02}.png")
    refs = refs_in(tmp_path)
    results: dict[int, int] = {}

    def label(half: int) -> None:
        done = annotator(refs[half * 6 : half * 6 + 6], str(tmp_path))
        results[half] = sum(isinstance(record, AnnotatedImage) for record in done.records)

    threads = [threading.Thread(target=label, args=(half,)) for half in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert results == {0: 6, 1: 6}


@pytest.mark.parametrize("hw", [(1, 5000), (5000, 1), (3, 3), (1, 1), (2, 700)])
@pytest.mark.parametrize("tiles", [None, TileSettings(512)])
def test_extreme_sides_give_a_row(
    tmp_path: Path, bundled: tuple[Detector, Segmenter], hw: tuple[int, int], tiles: TileSettings | None
) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (*hw, 3), dtype=np.uint8)
    PillowImage.fromarray(pixels).save(tmp_path / "odd.png")
    made = Annotator(*bundled, Ontology.from_names("red circle"), tiles=tiles)
    (record,) = made(refs_in(tmp_path), str(tmp_path)).records
    made.close()
    assert isinstance(record, AnnotatedImage), record
    assert record.image_hw == hw
    assert {mask.size for mask in record.instances.masks} <= {hw}


def test_tiles_find_what_the_whole_image_hides(tmp_path: Path) -> None:
    """An object across four tiles is one, and drops count the parts."""

    class Near(StubDetector):
        """Sees the bright region of an image that is no larger than 20 pixels."""

        def __call__(self, images: Sequence[Image]) -> list[Detections]:
            self.batches.append(len(images))
            return [self._box(image) for image in images]

        @staticmethod
        def _box(image: Image) -> Detections:
            rows, columns = np.nonzero(image[..., 0] > 100)
            if max(image.shape[:2]) > 20 or not len(rows):
                return Detections.empty((image.shape[0], image.shape[1]))
            box = [[columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]]
            return Detections((image.shape[0], image.shape[1]), box, [0.9], [1], [0])  # type: ignore[arg-type]

    pixels = np.zeros((36, 36, 3), np.uint8)
    pixels[10:26, 8:29, 0] = 250
    PillowImage.fromarray(pixels).save(tmp_path / "wide.png")
    save_image(tmp_path / "small.png")
    detector = Near()
    made = Annotator(detector, StubSegmenter(), ONTOLOGY, batch_size=3, tiles=TileSettings(20, 0.2))
    done = made(refs_in(tmp_path), str(tmp_path))
    made.close()
    small, wide = done.records
    assert isinstance(small, AnnotatedImage)
    assert isinstance(wide, AnnotatedImage)
    assert wide.instances.detections.boxes_xyxy.tolist() == [[8, 10, 29, 26]]
    assert decode_mask(wide.instances.masks[0]).sum() == 16 * 21
    assert len(small.instances) == 1
    assert detector.batches == [1, 3, 1, 1] or detector.batches == [3, 1, 1, 1]
    assert done.drops == {"merged: red thing": 3}


def test_a_batch_that_does_not_fit_the_device_is_halved(tmp_path: Path) -> None:
    class Scarce(StubDetector):
        def __call__(self, images: Sequence[Image]) -> list[Detections]:
            if len(images) > 1:
                raise MemoryError("out of memory")
            return super().__call__(images)

    for row in range(4):
        save_image(tmp_path / f"{row}.png")
    detector = Scarce()
    made = Annotator(detector, StubSegmenter(), ONTOLOGY, batch_size=4)
    done = made(refs_in(tmp_path), str(tmp_path))
    made.close()
    assert all(isinstance(record, AnnotatedImage) for record in done.records)
    assert detector.batches == [1, 1, 1, 1]
