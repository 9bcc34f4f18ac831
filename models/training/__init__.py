"""Training of grounding detectors and segmenters, and the scenes they learn from."""
