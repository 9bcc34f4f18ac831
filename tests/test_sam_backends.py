"""Both Segment Anything backends on small random weights: they agree, and they refuse what they cannot read."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image as PillowImage
from safetensors.torch import load_file, save_file
from segment_anything import SamPredictor, sam_model_registry
from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, Sam, TwoWayTransformer
from segment_anything.utils.transforms import ResizeLongestSide
from torch import Tensor
from transformers import SamConfig, SamImageProcessor, SamModel
from transformers.models.sam.image_processing_pil_sam import SamImageProcessorPil

from models.detections import Detections
from models.masks import decode_mask, mask_iou
from models.precision import Precision
from models.sam import original
from models.sam.hf import HfSam, load_hf_sam
from models.sam.original import OriginalSam, build_sam, load_original_sam
from models.sam.preprocess import PIXEL_MEAN, PIXEL_STD, normalise, pad_to_square, resize_longest_side, scale_boxes

DIM, SIDE, PATCH = 32, 128, 16

RENAMED = (
    ("image_encoder", "vision_encoder"),
    ("blocks.", "layers."),
    ("neck.0", "neck.conv1"),
    ("neck.1", "neck.layer_norm1"),
    ("neck.2", "neck.conv2"),
    ("neck.3", "neck.layer_norm2"),
    ("patch_embed.proj", "patch_embed.projection"),
    (".norm", ".layer_norm"),
    ("mask_downscaling.0", "mask_embed.conv1"),
    ("mask_downscaling.1", "mask_embed.layer_norm1"),
    ("mask_downscaling.3", "mask_embed.conv2"),
    ("mask_downscaling.4", "mask_embed.layer_norm2"),
    ("mask_downscaling.6", "mask_embed.conv3"),
    ("point_embeddings", "point_embed"),
    ("pe_layer.positional_encoding_gaussian_matrix", "shared_embedding.positional_embedding"),
    ("output_upscaling.0", "upscale_conv1"),
    ("output_upscaling.1", "upscale_layer_norm"),
    ("output_upscaling.3", "upscale_conv2"),
)
"""Parts of parameter names, in `segment_anything` and in transformers."""


def to_transformers(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename a `segment_anything` state dict to transformers' layout."""
    renamed = {}
    for name, value in state.items():
        if name.startswith("pixel_"):
            continue
        for before, after in RENAMED:
            name = name.replace(before, after)
        if re.search(r"output_hypernetworks_mlps|iou_prediction_head", name):
            last = max(int(other.split(".")[-2]) for other in state if other.startswith("mask_decoder.iou_prediction"))
            place = int(name.split(".")[-2])
            part = "proj_in" if place == 0 else "proj_out" if place == last else f"layers.{place - 1}"
            name = re.sub(r"layers\.\d+", part, name)
        renamed[name] = value
    renamed["shared_image_embedding.positional_embedding"] = renamed[
        "prompt_encoder.shared_embedding.positional_embedding"
    ]
    return renamed


def small_sam(seed: int = 0) -> Sam:
    """Build a small random SAM with weights large enough for masks that depend on image and box."""
    torch.manual_seed(seed)
    grid = SIDE // PATCH
    sam = Sam(
        ImageEncoderViT(
            img_size=SIDE, patch_size=PATCH, embed_dim=DIM, depth=2, num_heads=4, out_chans=DIM, use_rel_pos=True,
            norm_layer=lambda width: torch.nn.LayerNorm(width, eps=1e-6), window_size=6, global_attn_indexes=(1,),
        ),
        PromptEncoder(DIM, (grid, grid), (SIDE, SIDE), 16),
        MaskDecoder(transformer_dim=DIM, transformer=TwoWayTransformer(2, DIM, 8, 64), iou_head_hidden_dim=48),
        list(PIXEL_MEAN),
        list(PIXEL_STD),
    )  # fmt: skip
    with torch.no_grad():
        for name, weight in sam.named_parameters():
            if "norm" not in name and "neck.1" not in name and "neck.3" not in name:
                weight.add_(0.05 * torch.randn_like(weight))
        sam.mask_decoder.iou_prediction_head.layers[-1].bias.fill_(0.5)
    return sam.eval()


def small_hf(state: dict[str, Tensor]) -> SamModel:
    config = SamConfig(
        vision_config={
            "hidden_size": DIM, "output_channels": DIM, "num_hidden_layers": 2, "num_attention_heads": 4,
            "image_size": SIDE, "patch_size": PATCH, "window_size": 6, "global_attn_indexes": [1],
            "num_pos_feats": DIM // 2, "initializer_range": 0.05,
        },
        prompt_encoder_config={"hidden_size": DIM, "image_size": SIDE, "patch_size": PATCH, "mask_input_channels": 16},
        mask_decoder_config={"hidden_size": DIM, "mlp_dim": 64, "iou_head_hidden_dim": 48},
    )  # fmt: skip
    model = SamModel(config)
    model.load_state_dict(to_transformers(state))
    return model


def picture(height: int, width: int) -> NDArray[np.uint8]:
    """Draw smooth random colours."""
    noise = np.random.default_rng(3).integers(0, 256, (7, 9, 3), dtype=np.uint8)
    return np.array(PillowImage.fromarray(noise).resize((width, height), PillowImage.Resampling.BICUBIC))


def boxes_of(image_hw: tuple[int, int], boxes: list[list[float]]) -> Detections:
    ones = np.ones(len(boxes))
    return Detections(image_hw, np.array(boxes, np.float32).reshape(-1, 4), ones, ones, ones)  # type: ignore[arg-type]


BOXES = [[10, 12, 90, 80], [60, 5, 140, 100], [-5, 30, 200, 95], [100, 60, 118, 90], [20, 20, 24, 95]]


@pytest.fixture(scope="module")
def sam() -> Sam:
    return small_sam()


@pytest.mark.parametrize("image_hw", [(100, 150), (150, 100), (64, 64), (300, 260)])
def test_backends_agree_on_the_same_weights(sam: Sam, image_hw: tuple[int, int]) -> None:
    image, detections = picture(*image_hw), boxes_of(image_hw, BOXES)
    first = OriginalSam(sam)(image, detections)
    second = HfSam(small_hf(sam.state_dict()))(image, detections)
    areas = np.array([decode_mask(rle).mean() for rle in first.masks])
    assert ((areas > 0.02) & (areas < 0.98)).all(), "the masks must say something"
    assert np.diag(mask_iou(first.masks, second.masks)).min() >= 0.999
    np.testing.assert_allclose(first.mask_scores, second.mask_scores, atol=1e-4)
    assert len(set(first.mask_scores.tolist())) == len(BOXES)


@pytest.mark.parametrize(
    ("device", "precision"),
    [("cpu", "bf16"), *(pytest.param("cuda", name, marks=pytest.mark.gpu) for name in ("bf16", "fp16"))],
)
def test_image_encoders_in_16_bits_draw_nearly_the_same(sam: Sam, device: str, precision: Precision) -> None:
    image, detections = picture(100, 150), boxes_of((100, 150), BOXES)
    full = OriginalSam(sam, device)(image, detections)
    hf = small_hf(sam.state_dict())
    for low in (OriginalSam(sam, device, precision=precision), HfSam(hf, device, precision=precision)):
        found = low(image, detections)
        assert np.diag(mask_iou(full.masks, found.masks)).mean() > 0.95
        assert 0 < abs(full.mask_scores - found.mask_scores).max() < 0.1
    sam.to("cpu")


@pytest.mark.parametrize("image_hw", [(100, 150), (150, 100)])
def test_original_is_what_the_package_itself_says(sam: Sam, image_hw: tuple[int, int]) -> None:
    image, detections = picture(*image_hw), boxes_of(image_hw, BOXES)
    predictor = SamPredictor(sam)
    predictor.set_image(image)
    boxes = predictor.transform.apply_boxes(detections.boxes_xyxy, image_hw)
    masks, scores, _ = predictor.predict_torch(
        None, None, boxes=torch.from_numpy(boxes.astype(np.float32)), multimask_output=False
    )
    found = OriginalSam(sam, boxes_per_chunk=2)(image, detections)
    for rle, mask in zip(found.masks, masks[:, 0].numpy(), strict=True):
        assert (decode_mask(rle) != mask).mean() < 1e-3
    np.testing.assert_allclose(found.mask_scores, scores[:, 0].clamp(0, 1).numpy(), atol=1e-5)


@pytest.mark.parametrize("backend", [OriginalSam, HfSam])
def test_multimask_is_the_best_of_the_packages_three(backend: type) -> None:
    image, detections, sam = picture(100, 150), boxes_of((100, 150), BOXES), small_sam()
    predictor = SamPredictor(sam)
    predictor.set_image(image)
    boxes = predictor.transform.apply_boxes(detections.boxes_xyxy, (100, 150)).astype(np.float32)
    _, scores, _ = predictor.predict_torch(None, None, boxes=torch.from_numpy(boxes), multimask_output=True)
    with torch.no_grad():  # equal means, so that now one mask is the best and now another
        sam.mask_decoder.iou_prediction_head.layers[-1].bias[1:] += 0.5 - scores.mean(dim=0)
    masks, scores, _ = predictor.predict_torch(None, None, boxes=torch.from_numpy(boxes), multimask_output=True)
    best = scores.argmax(dim=1)
    assert len(set(best.tolist())) > 1, "the choice must say something"
    found = backend(sam if backend is OriginalSam else small_hf(sam.state_dict()), multimask=True)(image, detections)
    for row, rle in enumerate(found.masks):
        assert (decode_mask(rle) != masks[row, best[row]].numpy()).mean() < 1e-3
    np.testing.assert_allclose(found.mask_scores, scores.amax(dim=1).clamp(0, 1).numpy(), atol=1e-4)


@pytest.mark.parametrize("backend", [OriginalSam, HfSam])
def test_a_device_without_memory_for_all_boxes_gets_fewer(
    sam: Sam, backend: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    image, detections = picture(90, 120), boxes_of((90, 120), BOXES)
    segmenter = backend(sam if backend is OriginalSam else small_hf(sam.state_dict()))
    whole, decode = segmenter(image, detections), segmenter.decode

    def scarce(embedding: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
        if len(boxes) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return decode(embedding, boxes)

    monkeypatch.setattr(segmenter, "decode", scarce)
    assert np.diag(mask_iou(whole.masks, segmenter(image, detections).masks)).min() >= 0.999


def test_chunks_do_not_change_masks_and_the_encoder_runs_once(sam: Sam, monkeypatch: pytest.MonkeyPatch) -> None:
    image, detections = picture(90, 120), boxes_of((90, 120), BOXES)
    whole, parts = OriginalSam(sam), OriginalSam(sam, boxes_per_chunk=2)
    calls = []
    encode = parts.encode
    monkeypatch.setattr(parts, "encode", lambda pixels: calls.append(1) or encode(pixels))
    assert np.diag(mask_iou(whole(image, detections).masks, parts(image, detections).masks)).min() >= 0.999
    assert calls == [1]
    assert len(parts(image, boxes_of((90, 120), []))) == 0
    assert calls == [1], "without boxes the image is not looked at"


def test_one_box_is_like_many(sam: Sam) -> None:
    image = picture(90, 120)
    segmenter = OriginalSam(sam)
    alone = segmenter(image, boxes_of((90, 120), BOXES[:1]))
    assert len(alone) == 1
    assert mask_iou(alone.masks, segmenter(image, boxes_of((90, 120), BOXES)).masks)[0, 0] >= 0.999


def test_scores_are_clipped(sam: Sam) -> None:
    bold = small_sam()
    with torch.no_grad():
        bold.mask_decoder.iou_prediction_head.layers[-1].bias.fill_(9.0)
    assert OriginalSam(bold)(picture(50, 60), boxes_of((50, 60), BOXES[:2])).mask_scores.tolist() == [1.0, 1.0]


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((50, 60), np.uint8), "must be"),
        (np.zeros((50, 60, 4), np.uint8), "must be"),
        (np.zeros((50, 60, 3), np.float32), "must be"),
        (np.zeros((60, 50, 3), np.uint8), "detections are of an image"),
    ],
)
def test_wrong_images_are_refused(sam: Sam, image: NDArray[np.uint8], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        OriginalSam(sam)(image, boxes_of((50, 60), BOXES))


@pytest.mark.parametrize("backend", [OriginalSam, HfSam])
def test_no_boxes_a_chunk_is_refused(sam: Sam, backend: type) -> None:
    model = sam if backend is OriginalSam else small_hf(sam.state_dict())
    with pytest.raises(ValueError, match="boxes_per_chunk"):
        backend(model, boxes_per_chunk=0)


@pytest.mark.parametrize("image_hw", [(100, 151), (151, 100), (64, 64), (40, 33), (1, 90)])
def test_preprocessing_is_that_of_both_packages(image_hw: tuple[int, int]) -> None:
    image = picture(*image_hw)
    resize = ResizeLongestSide(SIDE)
    resized = resize_longest_side(image, SIDE)
    if min(image_hw) > 1:
        np.testing.assert_array_equal(resized, resize.apply_image(image))
    boxes = np.array(BOXES, np.float32)
    np.testing.assert_allclose(scale_boxes(boxes, image_hw, SIDE), resize.apply_boxes(boxes, image_hw), rtol=1e-6)
    ours = pad_to_square(normalise(resized), SIDE).numpy()
    options = {"size": {"longest_edge": SIDE}, "pad_size": {"height": SIDE, "width": SIDE}}
    for processor, tolerance in ((SamImageProcessorPil(**options), 1e-5), (SamImageProcessor(**options), 0.03)):
        if min(image_hw) > 1:
            theirs = np.asarray(processor(image, return_tensors="np")["pixel_values"][0])
            assert np.abs(theirs - ours).max() <= tolerance


def test_checkpoint_round_trip(sam: Sam, tmp_path: Path) -> None:
    path = tmp_path / "small.pth"
    torch.save(sam.state_dict(), path)
    image, detections = picture(90, 120), boxes_of((90, 120), BOXES)
    expected, found = OriginalSam(sam)(image, detections), load_original_sam(path, boxes_per_chunk=3)(image, detections)
    assert np.diag(mask_iou(expected.masks, found.masks)).min() >= 0.999


@pytest.mark.parametrize("size", ["vit_b", "vit_l", "vit_h"])
def test_published_sizes_are_recognised_by_their_weights(size: str) -> None:
    with torch.device("meta"):
        published = sam_model_registry[size]()
        built = build_sam(published.state_dict())
    assert str(built) == str(published)
    blocks = [(block.window_size, block.attn.num_heads) for block in published.image_encoder.blocks]
    assert [(block.window_size, block.attn.num_heads) for block in built.image_encoder.blocks] == blocks
    assert built.image_encoder.img_size == 1024


@pytest.mark.parametrize("content", [b"", b"no checkpoint", b"PK\x03\x04 half a zip"])
def test_damaged_checkpoints_are_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "broken.pth"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"broken\.pth is (damaged|no checkpoint)"):
        load_original_sam(path)


def test_other_checkpoints_are_named(sam: Sam, tmp_path: Path) -> None:
    path = tmp_path / "other.pth"
    torch.save({"weight": torch.zeros(3)}, path)
    with pytest.raises(ValueError, match="no checkpoint of Segment Anything"):
        load_original_sam(path)
    torch.save([1, 2], path)
    with pytest.raises(ValueError, match="no checkpoint of Segment Anything"):
        load_original_sam(path)
    state = sam.state_dict()
    del state["mask_decoder.output_upscaling.0.weight"]
    torch.save(state, path)
    with pytest.raises(ValueError, match=r"other\.pth"):
        load_original_sam(path)


def test_pickled_code_is_not_run(tmp_path: Path) -> None:
    path = tmp_path / "evil.pth"
    torch.save({"call": pytest.fail}, path)
    with pytest.raises(ValueError, match=r"evil\.pth"):
        load_original_sam(path)


def test_missing_checkpoint_says_where_to_get_one(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"sam_vit_b_01ec64\.pth"):
        load_original_sam(tmp_path / "none.pth")


def test_published_files_are_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    named = tmp_path / "sam_vit_b_01ec64.pth"
    named.write_bytes(b"x" * 10)
    with pytest.raises(ValueError, match="10 bytes"):
        load_original_sam(named)
    monkeypatch.setitem(original.OFFICIAL, named.name, (10, "0" * 64))
    with pytest.raises(ValueError, match="SHA-256"):
        load_original_sam(named)
    renamed = named.rename(tmp_path / "mine.pth")
    with pytest.raises(ValueError, match="SHA-256"):
        load_original_sam(renamed)


def test_transformers_folder_round_trip(sam: Sam, tmp_path: Path) -> None:
    model = small_hf(sam.state_dict())
    model.save_pretrained(tmp_path)
    image, detections = picture(90, 120), boxes_of((90, 120), BOXES)
    expected, found = HfSam(model)(image, detections), load_hf_sam(tmp_path)(image, detections)
    assert np.diag(mask_iou(expected.masks, found.masks)).min() >= 0.999


def test_transformers_folder_errors(sam: Sam, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"config\.json and model\.safetensors"):
        load_hf_sam(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"config\.json and model\.safetensors"):
        load_hf_sam(tmp_path / "none")
    model = small_hf(sam.state_dict())
    model.save_pretrained(tmp_path)
    weights = tmp_path / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="no usable Segment Anything"):
        load_hf_sam(tmp_path)
    weights.write_bytes(whole)
    config = tmp_path / "config.json"
    config.write_text(config.read_text().replace('"model_type": "sam",', '"model_type": "bert",'))
    with pytest.raises(ValueError, match="'bert'"):
        load_hf_sam(tmp_path)
    config.write_text("{")
    with pytest.raises(ValueError, match="damaged"):
        load_hf_sam(tmp_path)


def test_transformers_refuses_missing_weights(sam: Sam, tmp_path: Path) -> None:
    small_hf(sam.state_dict()).save_pretrained(tmp_path)
    weights = tmp_path / "model.safetensors"
    state = load_file(weights)
    del state["mask_decoder.upscale_conv1.weight"]
    save_file(state, weights, metadata={"format": "pt"})
    with pytest.raises(ValueError, match="upscale_conv1"):
        load_hf_sam(tmp_path)
