"""Models that stay loaded between operators of one App, and images decoded as a run decodes them."""

import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from models.interfaces import Image, Segmenter
from models.ontology import Ontology
from pipeline.build import load_segmenter_of
from pipeline.config import AnnotateConfig
from pipeline.errors import UserError
from pipeline.explain import load_stages
from pipeline.images import UnreadableImageError, read_image
from pipeline.stages import Stages

_MOST_HELD = 3
_held: OrderedDict[Any, Any] = OrderedDict()
_lock = threading.RLock()


def stages_of(config: AnnotateConfig, ontology: Ontology) -> Stages:
    """Return detector, filters and segmenter of a config; the last ones that were asked for stay loaded.

    Raises:
        UserError: A model, prompt or option does not fit, or weights are not on this machine.
    """
    found: Stages = _hold((config, ontology), lambda: load_stages(config, ontology))
    return found


def segmenter_of(config: AnnotateConfig) -> Segmenter:
    """Return the segmenter of a config, likewise.

    Raises:
        UserError: The config has none, or its weights are not on this machine.
    """
    if config.mask == "none":
        raise UserError("the run was made with --mask none: it has no segmenter")

    key = (config.segmenter, config.device, config.multimask, config.computing_precision)
    found: Segmenter = _hold(key, lambda: load_segmenter_of(config))
    return found


def _hold(key: Any, load: Callable[[], Any]) -> Any:
    with _lock:
        if key not in _held:
            while len(_held) >= _MOST_HELD:
                _held.popitem(last=False)
            try:
                _held[key] = load()
            except (ValueError, OSError) as error:
                raise UserError(str(error)) from error
        _held.move_to_end(key)
        return _held[key]


def with_threshold(config: AnnotateConfig, ontology: Ontology, box_threshold: float) -> tuple[AnnotateConfig, Ontology]:
    """Return a config and an ontology in which one box threshold is that of all classes."""
    classes = tuple(replace(spec, box_threshold=None) for spec in ontology.classes)
    return config.merged({"box_threshold": box_threshold}), replace(ontology, classes=classes)


def read_pixels(path: str | Path, config: AnnotateConfig) -> Image | None:
    """Return an image as the models see it; None where it cannot be read."""
    try:
        return read_image(path, config.pixels)
    except UnreadableImageError:
        return None
