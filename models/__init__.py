"""Image in, numpy out: detectors, segmenters and their training.

This package knows torch and transformers; it knows no Ray, no FiftyOne and no file of a run.
Importing it is cheap: torch is imported by the modules that need it.
"""
