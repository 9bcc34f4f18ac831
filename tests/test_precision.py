"""16 bits where that is safe, and what stays in 32."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from jobs.bench.precision import Difference, describe, measure
from models.convolutions import prepare_convolutions
from models.detections import Detections, Instances
from models.grounding_dino.deformable import attend_by_grid
from models.grounding_dino.detector import DetectorSettings, GroundingDinoDetector
from models.grounding_dino.forward import encode_image, encode_text, enhance, predict
from models.grounding_dino.load import read_grounding_dino
from models.grounding_dino.spans import stack_texts
from models.masks import encode_mask, mask_iou
from models.ontology import Ontology
from models.precision import Precision, add_into, check_numbers, check_precision, low_precision
from models.sam.tiny import TinySamSegmenter, load_tiny_sam, read_tiny_sam
from models.zoo import BUNDLED
from pipeline.annotator import Annotator
from pipeline.config import AnnotateConfig, FilterSettings
from pipeline.errors import UserError
from pipeline.records import AnnotatedImage
from pipeline.sources import find_images
from pipeline.store.fingerprint import fingerprint_parts
from pipeline.store.output import settings_to_config
from tests.conftest import MemoryLabels
from tests.grounding_models import PROMPTS_20, picture, pixels, text_of

ANY = DetectorSettings(box_threshold=0.0, text_threshold=0.0)
GPU = pytest.param("cuda", marks=pytest.mark.gpu)


def test_what_a_device_cannot_do_is_refused() -> None:
    assert [check_precision(name, "cpu") for name in ("fp32", "bf16")] == ["fp32", "bf16"]
    with pytest.raises(ValueError, match="fp16 needs a GPU"):
        check_precision("fp16", "cpu")
    with pytest.raises(ValueError, match="one of fp32, bf16, fp16, not 'int8'"):
        check_precision("int8", "cpu")
    with pytest.raises(UserError, match="--precision fp16 needs a GPU"):
        AnnotateConfig(precision="fp16", device="cpu")
    with pytest.raises(UserError, match="--precision half: must be auto, fp32, bf16 or fp16"):
        AnnotateConfig(precision="half")
    with pytest.raises(ArithmeticError, match="leave the range of fp16"):
        check_numbers(torch.tensor([1.0, float("nan")]), "fp16")
    assert check_numbers(torch.tensor([float("inf")]), "fp32").isinf().all()


def test_rows_depend_on_it_and_older_runs_count_as_fp32() -> None:
    def parts(**options: str) -> dict[str, object]:
        return fingerprint_parts(AnnotateConfig(**options), Ontology.from_names("car"), "d", "s")  # type: ignore[arg-type]

    assert parts(precision="fp32") == parts()
    assert "precision" not in parts()
    assert parts(precision="bf16") == parts() | {"precision": "bf16"}
    for asked, made in (("bf16", "bf16"), ("fp32", "fp32"), ("auto", "fp32")):
        settings = {"parts": parts(precision=asked), "options": {}}
        assert settings_to_config(settings, AnnotateConfig(precision="bf16")).computing_precision == made


def test_a_sum_is_in_the_precision_of_the_second_one() -> None:
    total = torch.tensor([1.0, 256.0])
    low = torch.tensor([1.0, 1.0], dtype=torch.bfloat16)
    assert add_into(low, total).tolist() == [2.0, 257.0], "257 is no bfloat16"
    full = torch.tensor([1.0, 1.0])
    assert add_into(full, total).data_ptr() == full.data_ptr()
    assert total.tolist() == [1.0, 256.0]


@pytest.mark.parametrize(("device", "precision"), [("cpu", "bf16"), pytest.param("cuda", "bf16", marks=pytest.mark.gpu),
                                                   pytest.param("cuda", "fp16", marks=pytest.mark.gpu)])  # fmt: skip
def test_features_scores_and_boxes_are_close_and_in_32_bits(
    grounding_folders: dict[str, Path], device: str, precision: Precision
) -> None:
    for folder in grounding_folders.values():
        model, processor = read_grounding_dino(folder)
        nn.Module.to(model, device)
        ids, mask, *_ = (part.to(device) for part in stack_texts([text_of(processor, PROMPTS_20[:5])], 0))
        images = pixels(2).to(device)
        with torch.inference_mode():
            text = encode_text(model, ids.expand(2, -1), mask.expand(2, -1))
            full, low = (encode_image(model, images, name) for name in ("fp32", precision))
            assert {low.tokens.dtype, low.positions.dtype, low.summary.dtype} == {torch.float32}
            change = (low.tokens - full.tokens).abs()
            # On a GPU attention is in bfloat16, too, and one feature of a random Swin changes by a fifth.
            assert (
                0 < change.max() < (0.1 if (device, precision) != ("cuda", "bf16") else 0.3) * full.tokens.abs().max()
            )
            assert change.mean() < 0.03 * full.tokens.abs().mean()
            torch.testing.assert_close(low.positions, full.positions, atol=0, rtol=0)
            one, two = enhance(model, full, text), enhance(model, full, text, precision)
            assert two.vision.dtype == two.text.dtype == torch.float32
            assert 0 < (one.vision - two.vision).abs().max() < 0.1 * one.vision.abs().max()
            assert all(part.dtype == torch.float32 for part in predict(model, low, text, precision))


@pytest.mark.parametrize("device", ["cpu", GPU])
def test_the_sampled_grid_also_works_in_16_bits(grounding_models, device: str) -> None:  # type: ignore[no-untyped-def]
    """Accelerators read by transformers' module, which then computes in low precision itself."""
    attention = grounding_models["mm-grounding-dino"].model.encoder.layers[0].deformable_layer.self_attn.to(device)
    level_hw = [(9, 7), (5, 4), (3, 2)]
    generator = torch.Generator().manual_seed(0)
    hidden, positions = (torch.randn((2, 89, 32), generator=generator).to(device) for _ in range(2))
    with torch.inference_mode():
        full = attend_by_grid(attention, hidden, positions, level_hw)
        with low_precision("bf16", device):
            low = attend_by_grid(attention, hidden, positions, level_hw)
    attention.to("cpu")
    assert 0 < (full - low.float()).abs().max() < 0.05 * full.abs().max()


def test_differences_are_counted() -> None:
    mask = np.zeros((20, 40), dtype=bool)
    mask[:10, :10] = True

    def labels(boxes: list[list[float]], scores: list[float], classes: list[int]) -> AnnotatedImage:
        found = Detections((20, 40), np.array(boxes, np.float32), np.array(scores, np.float32),
                           np.array(classes), np.zeros(len(boxes), np.int64))  # fmt: skip
        instances = Instances(found, (encode_mask(mask),) * len(boxes), found.scores)
        return AnnotatedImage.from_instances("0" * 16, "a.png", instances, Ontology.from_names("car, dog"))

    difference = Difference(seconds=2.0, full_seconds=3.0)
    near = [[0, 0, 10, 10], [20, 0, 30, 8], [30, 10, 40, 20]]
    difference.add(
        labels([[0, 0, 10, 10], [20, 0, 30, 10], [0, 10, 10, 20]], [0.9, 0.8, 0.7], [1, 1, 2]),
        labels(near, [0.8, 0.8, 0.4], [1, 1, 1]),
    )
    assert (difference.images, difference.boxes, difference.again, difference.only) == (1, 3, 1, 1)
    assert difference.score_changes == pytest.approx([0.1, 0.0], abs=1e-6)
    lines = "\n".join(describe({"bf16": difference}, "cpu"))
    assert "IoU 0.9: 0.3333; new boxes: 1" in lines
    assert "over fp32's: 1.50" in lines


@pytest.mark.parametrize("device", ["cpu", GPU])
def test_the_bundled_models_find_the_same_in_16_bits(scene_labels: Callable[..., MemoryLabels], device: str) -> None:
    labels = scene_labels(1, 160)
    annotators: dict[str, Annotator] = {}
    names: tuple[Precision, ...] = ("fp32", "bf16")
    for precision in names:
        settings = DetectorSettings(box_threshold=0.2, size=160, precision=precision)
        model = read_grounding_dino(BUNDLED / "tiny")
        detector = GroundingDinoDetector(*model, labels.ontology, settings, device)
        annotators[precision] = Annotator(
            detector, load_tiny_sam(device, precision=precision), labels.ontology, FilterSettings(nms_iou=0.5)
        )
    found = find_images(str(labels.folder))
    difference = measure(annotators, found.refs, str(found.root), warm_up=0)["bf16"]
    assert (difference.images, difference.failed) == (1, 0)
    assert difference.again == difference.boxes > 1
    assert 0 < max(difference.score_changes) < 0.1
    assert np.mean(difference.mask_ious) > 0.9
    assert difference.seconds > 0


@pytest.mark.parametrize("kind", ["mm-grounding-dino", "grounding-dino"])
def test_prepared_backbones_compute_the_same(grounding_folders: dict[str, Path], kind: str) -> None:
    """A ResNet loses its normalisations; a Swin is left alone."""
    model, _ = read_grounding_dino(grounding_folders[kind])
    generator = torch.Generator().manual_seed(0)
    for name, buffer in model.named_buffers():
        if name.endswith(("running_mean", "running_var", "normalization.weight", "normalization.bias")):
            buffer.copy_(torch.rand(buffer.shape, generator=generator) + 0.5)
    with torch.inference_mode():
        before = encode_image(model, pixels(2))
        prepare_convolutions(model.model.backbone)
        after = encode_image(model, pixels(2))
    torch.testing.assert_close(after.tokens, before.tokens, atol=1e-4, rtol=1e-4)
    weights = [module.weight for module in model.model.backbone.modules() if isinstance(module, nn.Conv2d)]
    normalised = [name for name, _ in model.model.backbone.named_buffers() if name.endswith("running_mean")]
    assert not normalised
    last = {weight.is_contiguous(memory_format=torch.channels_last) for weight in weights if weight.shape[-1] > 1}
    assert last == {kind == "mm-grounding-dino"}


def test_the_bundled_segmenter_computes_the_same_when_prepared_and_nearly_in_16_bits() -> None:
    plain, prepared = TinySamSegmenter(read_tiny_sam(BUNDLED / "tiny-sam")), load_tiny_sam()
    assert not any(isinstance(module, nn.BatchNorm2d) for module in prepared.network.modules())
    image = picture(120, 160)
    boxes = np.array([[10, 12, 90, 80], [60, 5, 140, 100]], np.float32)
    found = Detections((120, 160), boxes, *(np.ones(2, kind) for kind in (np.float32, np.int64, np.int64)))
    one, two, low = (segment(image, found) for segment in (plain, prepared, load_tiny_sam(precision="bf16")))
    np.testing.assert_allclose(one.mask_scores, two.mask_scores, atol=1e-4)
    assert 0 < abs(low.mask_scores - two.mask_scores).max() < 0.02
    assert np.diag(mask_iou(two.masks, low.masks)).min() > 0.9
    with pytest.raises(ValueError, match="in training"):
        prepare_convolutions(read_tiny_sam(BUNDLED / "tiny-sam"))
