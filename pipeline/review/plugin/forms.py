"""The forms of the operators that need more than a click."""

from typing import Any

from pipeline.errors import UserError
from pipeline.review.plugin.actions import SELECTED, VIEW, describe_effect, images_of, plural, selection_of
from pipeline.review.plugin.targets import open_run
from pipeline.review.plugin.thresholds import LOWEST, ThresholdTable
from pipeline.reviewed.changes import ACCEPTED_TAG
from pipeline.run_options import config_of, threshold_of
from pipeline.store.run import Run

_STEP = 0.01
_HIGHEST = 0.99


def threshold_form(ctx: Any) -> Any:
    """Ask for class and threshold, and say at once what that would do."""
    import fiftyone.operators.types as types

    inputs = types.Object()
    run = _run_or_notice(ctx, inputs)
    if run is not None:
        names = [spec.name for spec in run.ontology.classes]
        inputs.enum("class_name", names, default=names[0], required=True, label="Class")
        chosen = ctx.params.get("class_name") or names[0]
        _ask_for_target(ctx, inputs)
        present = threshold_of(run, config_of(run), chosen)
        slider = types.SliderView(label="Threshold")
        limits = {"min": LOWEST, "max": _HIGHEST, "step": _STEP}
        inputs.float("threshold", default=present, required=True, view=slider, **limits)
        asked = ctx.params.get("threshold")
        table = ThresholdTable(ctx.dataset, run, images_of(ctx), chosen)
        effect = table.effect(present if asked is None else float(asked))
        inputs.view("effect", types.Notice(label=f"{describe_effect(effect)}. The run's threshold is {present:g}."))
        if table.looked_at < table.images:
            label = f"Look for boxes under the run's threshold first ({table.images - table.looked_at} images left)"
            inputs.bool("look", default=False, label=label, description="Runs the detector on them once.")
    return types.Property(inputs, view=types.View(label="Move a threshold"))


def label_form(ctx: Any) -> Any:
    """Ask for prompts and thresholds."""
    import fiftyone.operators.types as types

    inputs = types.Object()
    run = _run_or_notice(ctx, inputs)
    if run is not None:
        config = config_of(run)
        hint = "What to look for, separated by commas: red circle, blue star"
        inputs.str("prompts", required=True, label="Prompts", description=hint)
        _ask_for_target(ctx, inputs)
        for name, label in (("box_threshold", "Box threshold"), ("text_threshold", "Text threshold")):
            limits = {"min": 0.0, "max": 1.0, "step": _STEP}
            inputs.float(name, default=getattr(config, name), label=label, view=types.SliderView(), **limits)
        models = f"Detector {config.detector}, segmenter {config.segmenter if config.mask != 'none' else 'none'}. "
        count = len(images_of(ctx))
        inputs.view("count", types.Notice(label=f"{models}{plural(count, 'image')}; what is new becomes a proposal."))
    return types.Property(inputs, view=types.View(label="Label images"))


def export_form(ctx: Any) -> Any:
    """Ask for format and folder."""
    import fiftyone.operators.types as types

    from pipeline.export import FORMATS

    inputs = types.Object()
    run = _run_or_notice(ctx, inputs)
    if run is not None:
        inputs.enum("format", list(FORMATS), default="coco", required=True, label="Format")
        _ask_for_target(ctx, inputs)
        folder = f"{run.folder.resolve()}-view.{ctx.params.get('format') or 'coco'}"
        inputs.str("output", default=folder, required=True, label="Folder", description="On the machine of this App.")
        inputs.enum("images", ["link", "copy", "none"], default="link", required=True, label="Image files")
        inputs.bool("overwrite", default=False, label="Replace an earlier export in this folder")
        count = len(images_of(ctx))
        inputs.view("count", types.Notice(label=f"{plural(count, 'image')}, with what people corrected."))
    return types.Property(inputs, view=types.View(label="Export images"))


def fit_form(ctx: Any) -> Any:
    """Ask for the precision, and for a file where the thresholds shall be written."""
    import fiftyone.operators.types as types

    inputs = types.Object()
    if _run_or_notice(ctx, inputs) is not None:
        limits = {"min": 0.5, "max": _HIGHEST, "step": _STEP}
        label = "Share of a class's labels that should be right"
        inputs.float("precision", default=0.95, required=True, label=label, view=types.SliderView(), **limits)
        hint = "On the machine of this App; its comments stay. Without one the thresholds are only shown."
        inputs.str("file", label="Ontology file that gets the thresholds", description=hint)
        accepted = len(ctx.dataset.match_tags(ACCEPTED_TAG))
        inputs.view("count", types.Notice(label=f"Judged by {plural(accepted, 'accepted image')}."))
    return types.Property(inputs, view=types.View(label="Fit thresholds"))


def _run_or_notice(ctx: Any, inputs: Any) -> Run | None:
    """Return the run of the dataset; without one the form says so and cannot be sent."""
    import fiftyone.operators.types as types

    try:
        return open_run(ctx.dataset)
    except UserError as error:
        inputs.view("problem", types.Error(label=str(error))).invalid = True
        return None


def _ask_for_target(ctx: Any, inputs: Any) -> None:
    """Ask whether the selection or the whole view is meant, where there is a selection."""
    import fiftyone.operators.types as types

    selection = selection_of(ctx)
    if selection:
        choices = types.RadioGroup(orientation="horizontal")
        choices.add_choice(SELECTED, label=f"Selected: {plural(len(selection.samples), 'image')}")
        choices.add_choice(VIEW, label="All that the App shows")
        inputs.enum("target", choices.values(), default=SELECTED, label="Images", view=choices)
