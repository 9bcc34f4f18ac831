"""A tiny SAM small enough to build and train in a test."""

from models.sam.tiny_network import TinySamConfig

SMALL = TinySamConfig(
    image_size=64,
    stem_channels=8,
    stage_channels=(8, 8, 16, 16),
    stage_blocks=(1, 1, 1, 1),
    prompt_dim=16,
    cells=8,
    heads=2,
    depth=1,
    mlp_dim=16,
)
