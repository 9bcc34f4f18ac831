"""Segment Anything by its original package: the published .pth checkpoints and fine-tuned ones of that layout."""

import hashlib
import pickle
from pathlib import Path

import torch
from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, Sam, TwoWayTransformer
from torch import Tensor, nn

from models.precision import Precision
from models.sam.preprocess import PIXEL_MEAN, PIXEL_STD
from models.sam.square import SquareSegmenter

OFFICIAL = {
    "sam_vit_b_01ec64.pth": (375_042_383, "ec2df62732614e57411cdcf32a23ffdf28910380d03139ee0f4fcbe91eb8c912"),
    "sam_vit_l_0b3195.pth": (1_249_524_607, "3adcc4315b642a4d2101128f611684e8734c41232a17c648ed1693702a49a622"),
    "sam_vit_h_4b8939.pth": (2_564_550_879, "a7bf3b02f3ebf1267aba913ff637d9a2d5c33d3173bb679e46d9f338c26f262e"),
}
"""Size in bytes and SHA-256 of the published files. (The digits in their names begin the MD5.)"""

DECODER_HEADS = 8
"""Heads of the two-way transformer in every published SAM; weights do not tell it."""


class OriginalSam(SquareSegmenter):
    """A `segment_anything` model as a segmenter; see `SquareSegmenter` for the options."""

    def __init__(
        self,
        sam: Sam,
        device: str = "cpu",
        boxes_per_chunk: int = 64,
        multimask: bool = False,
        precision: Precision = "fp32",
    ) -> None:
        super().__init__(sam.image_encoder.img_size, device, boxes_per_chunk, multimask, precision)
        self.sam = sam.to(self.device).eval()

    def encode(self, pixels: Tensor) -> Tensor:
        """Return the embedding; see `SquareSegmenter.encode`."""
        embedding: Tensor = self.sam.image_encoder(pixels)
        return embedding

    def decode(self, embedding: Tensor, boxes_xyxy: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits and predicted IoU; see `SquareSegmenter.decode`."""
        sparse, dense = self.sam.prompt_encoder(points=None, boxes=boxes_xyxy, masks=None)
        logits, quality = self.sam.mask_decoder(
            image_embeddings=embedding,
            image_pe=self.sam.prompt_encoder.get_dense_pe(),
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
            multimask_output=self.multimask,
        )
        return logits, quality


def check_official(path: Path) -> None:
    """Compare the SHA-256 of a file that has a published name or size.

    A flipped bit loads without a word; this is the only place where it is seen.

    Raises:
        ValueError: The file is none of the published ones although its name or size says so.
    """
    size = path.stat().st_size
    named = OFFICIAL.get(path.name)
    sized = next((entry for entry in OFFICIAL.values() if entry[0] == size), None)
    if named is not None and named[0] != size:
        raise ValueError(f"{path} has {size} bytes, the published file {named[0]}: download it again or rename it")
    expected = named or sized
    if expected is None:
        return
    with path.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    if digest != expected[1]:
        raise ValueError(f"{path} is damaged: its SHA-256 is {digest}, not {expected[1]}; download it again")


def _count(state: dict[str, Tensor], prefix: str) -> int:
    return len({name[len(prefix) :].split(".")[0] for name in state if name.startswith(prefix)})


def build_sam(state: dict[str, Tensor]) -> Sam:
    """Build the model that a state dict belongs to, whatever its size, and load it.

    Args:
        state: As `segment_anything` names its parameters.

    Returns:
        The model, in evaluation mode.

    Raises:
        KeyError: A parameter that tells a size is missing.
        RuntimeError: The parameters do not fit together.

    Source: segment_anything/build_sam.py, _build_sam.
    """
    patch = state["image_encoder.patch_embed.proj.weight"]
    width, patch_size = patch.shape[0], patch.shape[-1]
    grid = state["image_encoder.pos_embed"].shape[1]
    depth = _count(state, "image_encoder.blocks.")
    tables = [state[f"image_encoder.blocks.{block}.attn.rel_pos_h"] for block in range(depth)]
    reach = [(len(table) + 1) // 2 for table in tables]
    windowed = [cells for cells in reach if cells != grid]
    image_encoder = ImageEncoderViT(
        img_size=grid * patch_size,
        patch_size=patch_size,
        embed_dim=width,
        depth=depth,
        num_heads=width // tables[0].shape[1],
        mlp_ratio=state["image_encoder.blocks.0.mlp.lin1.weight"].shape[0] / width,
        out_chans=state["image_encoder.neck.0.weight"].shape[0],
        norm_layer=_layer_norm,
        use_rel_pos=True,
        window_size=windowed[0] if windowed else 0,
        global_attn_indexes=tuple(block for block, cells in enumerate(reach) if cells == grid),
    )
    dim = state["mask_decoder.iou_token.weight"].shape[1]
    transformer = TwoWayTransformer(
        depth=_count(state, "mask_decoder.transformer.layers."),
        embedding_dim=dim,
        num_heads=DECODER_HEADS,
        mlp_dim=state["mask_decoder.transformer.layers.0.mlp.lin1.weight"].shape[0],
    )
    mask_decoder = MaskDecoder(
        transformer_dim=dim,
        transformer=transformer,
        num_multimask_outputs=state["mask_decoder.mask_tokens.weight"].shape[0] - 1,
        iou_head_depth=_count(state, "mask_decoder.iou_prediction_head.layers."),
        iou_head_hidden_dim=state["mask_decoder.iou_prediction_head.layers.0.weight"].shape[0],
    )
    channels = state["prompt_encoder.mask_downscaling.3.weight"].shape[0]
    prompt_encoder = PromptEncoder(dim, (grid, grid), (grid * patch_size, grid * patch_size), channels)
    sam = Sam(image_encoder, prompt_encoder, mask_decoder, list(PIXEL_MEAN), list(PIXEL_STD))
    sam.load_state_dict(state)
    return sam.eval()


def _layer_norm(width: int) -> nn.LayerNorm:
    return nn.LayerNorm(width, eps=1e-6)


def load_original_sam(
    path: str | Path,
    device: str = "cpu",
    boxes_per_chunk: int = 64,
    multimask: bool = False,
    precision: Precision = "fp32",
) -> OriginalSam:
    """Load a checkpoint of the original package: vit_b, vit_l, vit_h, or a fine-tuned or smaller one.

    Args:
        path: A .pth file.
        device: "cpu", "cuda" or what torch takes.
        boxes_per_chunk: Boxes decoded at once, at least 1.
        multimask: Keep the best of three masks a box.
        precision: What the image encoder computes in.

    Returns:
        The segmenter.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is damaged or no SAM checkpoint, or boxes_per_chunk is not positive.
    """
    path = Path(path)
    if not path.is_file():
        names = ", ".join(OFFICIAL)
        raise FileNotFoundError(
            f"{path} does not exist; put one of {names} there, "
            "from https://github.com/facebookresearch/segment-anything#model-checkpoints"
        )
    check_official(path)
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        sam = build_sam(state)
    except (pickle.UnpicklingError, EOFError, RuntimeError, OSError) as error:
        raise ValueError(f"{path} is damaged or no checkpoint of Segment Anything: {error}") from error
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{path} is no checkpoint of Segment Anything: {error} is missing or of the wrong kind"
        ) from error
    return OriginalSam(sam, device, boxes_per_chunk, multimask, precision)
