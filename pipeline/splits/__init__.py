"""Splits into training, validation and test: an image keeps its side, and what belongs together stays together."""

from pipeline.splits.sides import SIDES, Split, SplitImage, SplitSettings, assign_sides, parse_shares, split_images

__all__ = ["SIDES", "Split", "SplitImage", "SplitSettings", "assign_sides", "parse_shares", "split_images"]
