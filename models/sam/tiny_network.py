"""The tiny SAM: Segment Anything's prompt encoder and mask decoder behind a convolutional image encoder.

The image encoder runs once an image. Each box then looks at that embedding, at a finer feature map and at the
pixels themselves through a window of its own, a little larger than the box, resampled to a fixed grid: a small
object gets as many mask cells as a large one. Inside the window all is as in Segment Anything: corner embeddings,
a two-way transformer, upscaling with skips (as SAM 2 has them), a hypernetwork and an IoU head.
"""

from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import torch
from segment_anything.modeling import MaskDecoder, PromptEncoder, TwoWayTransformer
from segment_anything.modeling.mask_decoder import MLP
from torch import Tensor, nn
from torch.nn import functional
from torchvision.ops import roi_align

GEOMETRY_CHANNELS = 7


@dataclass(frozen=True)
class TinySamConfig:
    """The shape of a tiny SAM.

    Attributes:
        image_size: Side of the padded square that the image encoder sees, pixels, divisible by 32.
        stem_channels: Channels at stride 2.
        stage_channels: Channels at strides 4, 8, 16 and 32.
        stage_blocks: Residual blocks at those strides.
        prompt_dim: Channels of the embedding and of the prompts, divisible by 8.
        cells: Side of a box's window at the embedding; its mask has four times as many.
        margin: How far the window reaches beyond the box, as a share of the box's side, on each side.
        heads: Attention heads of the two-way transformer.
        depth: Layers of the two-way transformer.
        mlp_dim: Hidden channels of its feed-forward parts.
    """

    image_size: int = 256
    stem_channels: int = 24
    stage_channels: tuple[int, int, int, int] = (32, 64, 128, 160)
    stage_blocks: tuple[int, int, int, int] = (1, 2, 2, 1)
    prompt_dim: int = 64
    cells: int = 16
    margin: float = 0.125
    heads: int = 4
    depth: int = 2
    mlp_dim: int = 128

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON takes them."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> "TinySamConfig":
        """Read what `to_dict` wrote; keys that are no field are passed over."""
        known: dict[str, Any] = {name: fields[name] for name in cls.__dataclass_fields__ if name in fields}
        tuples: dict[str, Any] = {name: tuple(value) for name, value in known.items() if isinstance(value, list)}
        return cls(**{**known, **tuples})


class Features(NamedTuple):
    """What the image encoder makes of (B, 3, S, S): maps at strides 4 and 8, channels as the config has them."""

    stride4: Tensor
    stride8: Tensor


def _conv_norm(before: int, after: int, kernel: int = 3, stride: int = 1) -> nn.Sequential:
    conv = nn.Conv2d(before, after, kernel, stride, kernel // 2, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(after))


class ResidualBlock(nn.Module):
    """Two 3 x 3 convolutions with batch normalisation and a shortcut.

    Source: He et al. 2016 (Deep Residual Learning), the basic block.
    """

    def __init__(self, before: int, after: int, stride: int = 1) -> None:
        super().__init__()
        self.first = _conv_norm(before, after, stride=stride)
        self.second = _conv_norm(after, after)
        same = before == after and stride == 1
        self.shortcut = nn.Identity() if same else _conv_norm(before, after, 1, stride)

    def forward(self, maps: Tensor) -> Tensor:
        """Pass (B, before, h, w) on as (B, after, h / stride, w / stride)."""
        inner = self.second(functional.relu(self.first(maps), inplace=True))
        return functional.relu(inner + self.shortcut(maps), inplace=True)


class ConvImageEncoder(nn.Module):
    """A residual network with top-down fusion to stride 8.

    Source: Lin et al. 2017 (Feature Pyramid Networks).
    """

    def __init__(self, config: TinySamConfig) -> None:
        super().__init__()
        self.stem = nn.Sequential(_conv_norm(3, config.stem_channels, 5, 2), nn.ReLU(inplace=True))
        stages: list[nn.Module] = []
        before = config.stem_channels
        for after, blocks in zip(config.stage_channels, config.stage_blocks, strict=True):
            layers = [ResidualBlock(before, after, 2)] + [ResidualBlock(after, after) for _ in range(blocks - 1)]
            stages.append(nn.Sequential(*layers))
            before = after
        self.stages = nn.ModuleList(stages)
        self.laterals = nn.ModuleList(nn.Conv2d(width, config.prompt_dim, 1) for width in config.stage_channels[1:])
        self.fuse = _conv_norm(config.prompt_dim, config.prompt_dim)

    def forward(self, pixels: Tensor) -> Features:
        """Encode (B, 3, S, S) normalised pixels."""
        maps = [self.stem(pixels)]
        for stage in self.stages:
            maps.append(stage(maps[-1]))
        fused: Tensor | None = None
        for lateral, finer in zip(reversed(self.laterals), reversed(maps[2:]), strict=True):
            here = lateral(finer)
            fused = here if fused is None else here + functional.interpolate(fused, scale_factor=2.0)
        return Features(maps[1], functional.relu(self.fuse(fused), inplace=True))


class WindowEncoder(nn.Module):
    """Joins pixels, finer features and the embedding inside a box's window, and tells them where the box is."""

    def __init__(self, config: TinySamConfig) -> None:
        super().__init__()
        dim = config.prompt_dim
        half, quarter = dim // 2, dim // 4
        self.pixels = nn.Sequential(_conv_norm(3 + GEOMETRY_CHANNELS, quarter), nn.ReLU(inplace=True))
        self.down = _conv_norm(quarter, half, stride=2)
        self.fine = nn.Conv2d(config.stage_channels[0], half, 1)
        self.middle = ResidualBlock(half, half)
        self.deep = _conv_norm(half, dim, stride=2)
        self.place = nn.Conv2d(GEOMETRY_CHANNELS, dim, 1)
        self.blocks = nn.Sequential(ResidualBlock(dim, dim), ResidualBlock(dim, dim))

    def forward(self, pixels: Tensor, fine: Tensor, embedding: Tensor, geometry: Tensor) -> tuple[Tensor, ...]:
        """Encode windows.

        Args:
            pixels: (N, 3, 4c, 4c) normalised.
            fine: (N, C, 2c, 2c), the features of stride 4.
            embedding: (N, prompt_dim, c, c).
            geometry: (N, GEOMETRY_CHANNELS, 4c, 4c), see `window_geometry`.

        Returns:
            Maps of sides c, 2c and 4c.
        """
        finest = self.pixels(torch.cat([pixels, geometry], dim=1))
        middle = self.middle(functional.relu(self.down(finest) + self.fine(fine), inplace=True))
        coarse = embedding + self.deep(middle) + self.place(functional.avg_pool2d(geometry, 4))
        return self.blocks(functional.relu(coarse, inplace=True)), middle, finest


class SkipMaskDecoder(MaskDecoder):  # type: ignore[misc]
    """Segment Anything's mask decoder with one mask token and finer maps joined in the upscaling.

    Source: Kirillov et al. 2023 (Segment Anything), A; Ravi et al. 2024 (SAM 2), D.1 for the skips.
    """

    def __init__(self, config: TinySamConfig) -> None:
        dim = config.prompt_dim
        transformer = TwoWayTransformer(config.depth, dim, config.heads, config.mlp_dim)
        super().__init__(transformer_dim=dim, transformer=transformer, num_multimask_outputs=0, iou_head_hidden_dim=dim)
        half, quarter = dim // 2, dim // 4
        self.output_upscaling = nn.ModuleList(
            [
                nn.ConvTranspose2d(dim, half, 2, 2),
                ResidualBlock(half, half),
                nn.ConvTranspose2d(half, quarter, 2, 2),
                ResidualBlock(quarter, quarter),
            ]
        )
        self.output_hypernetworks_mlps = nn.ModuleList([MLP(dim, dim, quarter, 3)])

    def decode(self, maps: tuple[Tensor, ...], image_pe: Tensor, sparse: Tensor) -> tuple[Tensor, Tensor]:
        """Predict one mask a window.

        Args:
            maps: The three of `WindowEncoder`, prompts added.
            image_pe: (1, prompt_dim, c, c) positional encoding.
            sparse: (N, 2, prompt_dim) corner embeddings.

        Returns:
            Logits (N, 4c, 4c) and predicted IoU (N,), not clipped.
        """
        coarse, middle, finest = maps
        count, dim, side, _ = coarse.shape
        outputs = torch.cat([self.iou_token.weight, self.mask_tokens.weight])[None].expand(count, -1, -1)
        hidden, flat = self.transformer(coarse, image_pe.expand(count, -1, -1, -1), torch.cat([outputs, sparse], 1))
        widen, mix, widen_again, mix_again = self.output_upscaling
        maps_up = flat.transpose(1, 2).reshape(count, dim, side, side) + coarse
        maps_up = mix(functional.relu(widen(maps_up) + middle))
        maps_up = mix_again(functional.relu(widen_again(maps_up) + finest))
        weights = self.output_hypernetworks_mlps[0](hidden[:, 1])
        logits = torch.einsum("nc,nchw->nhw", weights, maps_up)
        return logits, self.iou_prediction_head(hidden[:, 0])[:, 0]


class TinySam(nn.Module):
    """The whole network. Boxes are pixels of the encoder's frame (the padded square)."""

    def __init__(self, config: TinySamConfig) -> None:
        super().__init__()
        self.config = config
        self.image_encoder = ConvImageEncoder(config)
        grid = (config.cells, config.cells)
        self.prompt_encoder = PromptEncoder(config.prompt_dim, grid, (4 * config.cells, 4 * config.cells), 16)
        self.window_encoder = WindowEncoder(config)
        self.mask_decoder = SkipMaskDecoder(config)
        for unused in (self.prompt_encoder.mask_downscaling, self.prompt_encoder.not_a_point_embed):
            unused.requires_grad_(False)

    def windows(self, boxes_xyxy: Tensor) -> Tensor:
        """Return the windows of boxes: (N, 4) corners, `margin` wider on each side, at least 4 pixels wide."""
        centre = (boxes_xyxy[:, :2] + boxes_xyxy[:, 2:]) / 2
        half = ((boxes_xyxy[:, 2:] - boxes_xyxy[:, :2]) * (0.5 + self.config.margin)).clamp(min=2)
        return torch.cat([centre - half, centre + half], dim=1)

    def decode(
        self, features: Features, image_index: Tensor, boxes_xyxy: Tensor, pixels: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Predict the masks of boxes inside their windows.

        Args:
            features: Of B images.
            image_index: (N,) int64, the image of each box; N may not be 0.
            boxes_xyxy: (N, 4) float32, pixels of the encoder's frame.
            pixels: (N, 3, 4c, 4c) normalised pixels of the windows.

        Returns:
            Logits (N, 4c, 4c) over the windows and predicted IoU (N,), not clipped.
        """
        cells = self.config.cells
        windows = self.windows(boxes_xyxy)
        rois = torch.cat([image_index[:, None].to(windows), windows], dim=1)

        def sample(maps: Tensor, side: int, stride: int) -> Tensor:
            # One sample a cell is enough: even in the largest window a cell is 2.5 strides wide.
            sampled: Tensor = roi_align(maps, rois, side, 1 / stride, sampling_ratio=1, aligned=True)
            return sampled

        fine, embedding = sample(features.stride4, 2 * cells, 4), sample(features.stride8, cells, 8)
        geometry = window_geometry(boxes_xyxy, windows, 4 * cells, self.config.image_size)
        coarse, middle, finest = self.window_encoder(pixels, fine, embedding, geometry)
        scale = 4 * cells / (windows[:, 2:] - windows[:, :2])
        origin = windows[:, :2]
        in_window = torch.cat([(boxes_xyxy[:, :2] - origin) * scale, (boxes_xyxy[:, 2:] - origin) * scale], dim=1)
        sparse, dense = self.prompt_encoder(points=None, boxes=in_window - 0.5, masks=None)
        image_pe = self.prompt_encoder.get_dense_pe()
        logits, quality = self.mask_decoder.decode((coarse + dense, middle, finest), image_pe, sparse)
        return logits, quality


def window_geometry(boxes_xyxy: Tensor, windows_xyxy: Tensor, side: int, image_size: int) -> Tensor:
    """Draw where a window's cells lie relative to its box.

    Args:
        boxes_xyxy: (N, 4) pixels.
        windows_xyxy: (N, 4) pixels.
        side: Cells along a window's side.
        image_size: Side of the image, pixels.

    Returns:
        (N, GEOMETRY_CHANNELS, side, side) float32: inside the box, u, v (-1 and 1 at its edges), their squares,
        and the logarithms of its width and height over the image's side.
    """
    steps = (torch.arange(side, device=boxes_xyxy.device, dtype=torch.float32) + 0.5) / side
    places = windows_xyxy[:, None, :2] + steps[None, :, None] * (windows_xyxy[:, 2:] - windows_xyxy[:, :2])[:, None]
    extents = (boxes_xyxy[:, 2:] - boxes_xyxy[:, :2]).clamp(min=1)
    centres = (boxes_xyxy[:, :2] + boxes_xyxy[:, 2:]) / 2
    relative = (places - centres[:, None]) / (extents[:, None] / 2)
    across = relative[:, None, :, 0].expand(-1, side, -1)
    down = relative[:, :, None, 1].expand(-1, -1, side)
    inside = ((across.abs() <= 1) & (down.abs() <= 1)).float()
    sizes = (extents / image_size).log()[:, :, None, None].expand(-1, -1, side, side)
    return torch.cat([torch.stack([inside, across, down, across.square(), down.square()], dim=1), sizes], dim=1)
