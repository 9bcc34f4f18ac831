"""Segmenters: Segment Anything by its original package and by transformers, and a tiny one of our own."""
