"""What makes a row: a change in any of it makes other rows, so a run never mixes two fingerprints."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from models.ontology import Ontology
from pipeline.config import AnnotateConfig

LABELS_VERSION = 2
"""Raised when this package starts to make other rows from the same models, prompts and options."""

_OPTIONS = (
    *("box_threshold", "text_threshold", "nms_iou", "min_box_area", "max_box_share"),
    *("size", "prompts_per_pass"),
)
_OPTIONS_IF_USED = (
    *("agnostic_nms_iou", "max_box_area", "min_box_share", "max_aspect", "border_margin", "max_contained", "top_k"),
    *("mask", "multimask", "mask_cleanup", "largest_part", "min_mask_fill", "max_mask_fill", "min_mask_score"),
    *("tile", "tile_overlap", "tile_object", "prefilter", "precision"),
)
"""They count where they differ from their default, so that a run made before there were any is still continued."""


def fingerprint_parts(
    config: AnnotateConfig, ontology: Ontology, detector_weights: str, segmenter_weights: str
) -> dict[str, Any]:
    """Return everything that a row depends on, besides the image, as JSON-able values.

    Args:
        config: The options; those on where and how fast to run don't count.
        ontology: Its colours don't count.
        detector_weights: Hash of the detector's files.
        segmenter_weights: Hash of the segmenter's files; empty where no segmenter is used.
    """
    classes = [
        {
            "name": spec.name,
            "prompts": list(spec.prompts),
            "box_threshold": spec.box_threshold,
            "text_threshold": spec.text_threshold,
        }
        for spec in ontology.classes
    ]
    return {
        "labels_version": LABELS_VERSION,
        "detector": {"name": config.detector, "weights": detector_weights},
        "segmenter": {"name": config.segmenter, "weights": segmenter_weights},
        "classes": classes,
        "negatives": list(ontology.negatives),
        **{name: getattr(config, name) for name in _OPTIONS},
        **_used(config),
    }


def _used(config: AnnotateConfig) -> dict[str, Any]:
    """Return the options of `_OPTIONS_IF_USED` that change rows; overlap and object side don't where unused."""
    idle = {None: ("tile_overlap", "tile_object"), "auto": ()}.get(config.tile, ("tile_object",))
    values = {name: getattr(config, name) for name in _OPTIONS_IF_USED if name not in idle}
    values["prefilter"] = config.prefilter_classes
    values["precision"] = "auto" if config.computing_precision == "fp32" else config.precision
    return {name: value for name, value in values.items() if value != getattr(AnnotateConfig(), name)}


def default_row_options() -> dict[str, Any]:
    """Return the options that can count, with their defaults: what a run's parts leave out is meant so."""
    return {name: getattr(AnnotateConfig(), name) for name in (*_OPTIONS, *_OPTIONS_IF_USED)}


def parts_to_fingerprint(parts: Mapping[str, Any]) -> str:
    """Return 16 hexadecimal digits for the parts; the models count by their weights, not by their names."""
    counted = dict(parts)
    for kind in ("detector", "segmenter"):
        counted[kind] = parts[kind]["weights"]
    text = json.dumps(counted, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def describe_differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Return one line for each part that differs, "name: old → new"; empty for the same fingerprint.

    Args:
        old: Parts of the run on disk; keys that this version does not know count too.
        new: Parts of the run that is asked for.
    """
    lines = []
    for name in [*new, *(name for name in old if name not in new)]:
        before, after = old.get(name), new.get(name)
        if name in ("detector", "segmenter") and before and after:
            if before["weights"] != after["weights"]:
                lines.append(f"{name}: {_model(before)} → {_model(after)}")
        elif name == "classes" and before != after:
            lines.extend(_class_differences(before or [], after or []))
        elif before != after:
            lines.append(f"{name.replace('_', ' ')}: {_shown(before)} → {_shown(after)}")
    return lines


def _shown(value: Any) -> str:
    if value is None:
        return "default"
    return ", ".join(map(str, value)) or "none" if isinstance(value, list) else str(value)


def _model(model: Mapping[str, str]) -> str:
    return f"{model['name']} (weights {model['weights'][:8]})"


def _class_differences(old: list[dict[str, Any]], new: list[dict[str, Any]]) -> list[str]:
    before, after = ({spec["name"]: spec for spec in specs} for specs in (old, new))
    if list(before) != list(after):
        return [f"classes: {_shown(list(before))} → {_shown(list(after))}"]
    return [
        f"class {name!r}, {key.replace('_', ' ')}: {_shown(before[name].get(key))} → {_shown(after[name].get(key))}"
        for name in after
        for key in ("prompts", "box_threshold", "text_threshold")
        if before[name].get(key) != after[name].get(key)
    ]
