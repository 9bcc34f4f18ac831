"""Grounding DINO: text prompts and an image in, boxes with a class each out."""
