"""What each operator does with FiftyOne's context: read the form, call the function, say what came of it."""

from collections.abc import Iterator
from typing import Any

from pipeline.errors import UserError
from pipeline.review.ingest import only_writer
from pipeline.review.missed import write_missed
from pipeline.review.plugin import decide
from pipeline.review.plugin.action import Outcome, Progress
from pipeline.review.plugin.below import look_below
from pipeline.review.plugin.edits import undo_last
from pipeline.review.plugin.labelling import Labelled, label_samples, parse_prompts
from pipeline.review.plugin.resegment import Resegmented, resegment
from pipeline.review.plugin.targets import (
    Selection,
    find_selection,
    open_run,
    samples_of_view,
    selected_labels,
    stored_samples,
)
from pipeline.review.plugin.thresholds import Effect, ThresholdTable
from pipeline.review.views import MISSED_VIEW
from pipeline.run_options import config_of

SELECTED, VIEW = "selected", "view"
"""What an operator on images is about: those selected (or open), or all that the App shows."""

Steps = Iterator[Progress | Outcome]


def selection_of(ctx: Any) -> Selection:
    """Return what is selected in the App."""
    return find_selection(ctx.view, ctx.selected, ctx.selected_labels or (), ctx.current_sample)


def images_of(ctx: Any) -> list[str]:
    """Return the ids of the images that an operator is about: by the form's choice, or else what is selected."""
    selection = selection_of(ctx)
    target = ctx.params.get("target") or (SELECTED if selection else VIEW)
    return list(selection.samples) if target == SELECTED else samples_of_view(ctx.view)


def _selected(ctx: Any) -> Selection:
    selection = selection_of(ctx)
    if not selection:
        raise UserError("nothing is selected: select images, patches or objects first, or open an image")
    return selection


def accept(ctx: Any) -> Steps:
    """Accept what is selected."""
    yield _decided("Accepted", decide.accept(ctx.dataset, _selected(ctx), ctx.view))


def reject(ctx: Any) -> Steps:
    """Reject what is selected."""
    yield _decided("Rejected", decide.reject(ctx.dataset, _selected(ctx), ctx.view))


def _decided(verb: str, done: decide.Decided) -> Outcome:
    parts = [plural(count, name) for count, name in ((done.labels, "label"), (done.images, "image")) if count]
    if not parts:
        return Outcome("Nothing to change: it was so already.", changed=False)
    return Outcome(f"{verb} {' of '.join(parts)}. 'Undo' takes it back.")


def undo(ctx: Any) -> Steps:
    """Take the last step back."""
    undone = undo_last(ctx.dataset, ctx.view)
    if undone is None:
        yield Outcome("There is nothing to take back.", changed=False)
        return
    left = f"; {undone.left} were changed again since and are left" if undone.left else ""
    yield Outcome(f"Taken back: {undone.title} ({plural(undone.edits, 'change')}{left}).")


def explain_box(ctx: Any) -> Steps:
    """Explain the one label that is selected."""
    from pipeline.review.plugin.explaining import explain_one

    labels = list(selected_labels(ctx.dataset, _selected(ctx)))
    yield Outcome("Explained.", changed=False, output=explain_one(open_run(ctx.dataset), labels))


def move_threshold(ctx: Any) -> Steps:
    """Apply a threshold; looks for boxes under the run's first where the form asks for that."""
    run, images = open_run(ctx.dataset), images_of(ctx)
    class_name, threshold = str(ctx.params["class_name"]), float(ctx.params["threshold"])
    if ctx.params.get("look"):
        for count in look_below(ctx.dataset, run, images):
            yield Progress(0.8 * count / len(images), f"Looking under the threshold: {count} images")
    for step in ThresholdTable(ctx.dataset, run, images, class_name).apply(threshold, ctx.view):
        if isinstance(step, Effect):
            yield Outcome(f"Threshold of {class_name} is {threshold:.2f}: {describe_effect(step)}.")
        else:
            yield Progress(0.9, f"Drawing masks: {step} images")


def describe_effect(effect: Effect) -> str:
    """Return "3 labels vanish, 1 comes back, 5 boxes appear, 2 stay because people accepted or corrected them"."""
    parts = [f"{plural(effect.vanish, 'label')} rejected"]
    parts += [f"{effect.come_back} shown again"] if effect.come_back else []
    parts += [f"{plural(effect.appear, 'new proposal')}"]
    parts += [f"{effect.kept} under it stay, as a person accepted or corrected them"] if effect.kept else []
    return ", ".join(parts)


def label_selection(ctx: Any) -> Steps:
    """Label images with the prompts of the form."""
    run, images = open_run(ctx.dataset), images_of(ctx)
    ontology = parse_prompts(str(ctx.params.get("prompts") or ""))
    typed = {name: ctx.params[name] for name in ("box_threshold", "text_threshold") if ctx.params.get(name) is not None}
    config = config_of(run).merged(typed)
    yield Progress(0.0, "Loading the models")
    for step in label_samples(ctx.dataset, run, images, ontology, config):
        if isinstance(step, Labelled):
            unreadable = f", {plural(step.unreadable, 'image')} could not be read" if step.unreadable else ""
            yield Outcome(
                f"{plural(step.found, 'object')} found in {plural(step.images, 'image')}, {step.proposed} of them new: "
                f"they are in the field 'proposals'{unreadable}.",
                changed=step.proposed > 0,
            )
        else:
            yield Progress(step / len(images), f"{step} of {plural(len(images), 'image')}")


def resegment_boxes(ctx: Any) -> Steps:
    """Segment what is selected."""
    run, selection = open_run(ctx.dataset), _selected(ctx)
    yield Progress(0.0, "Loading the segmenter")
    for step in resegment(ctx.dataset, run, selection, ctx.view):
        if isinstance(step, Resegmented):
            empty = f"; in {plural(step.empty, 'box')} nothing was found" if step.empty else ""
            yield Outcome(f"{plural(step.drawn, 'mask')} drawn{empty}. 'Undo' takes it back.", changed=step.drawn > 0)
        else:
            yield Progress(step / len(selection.samples), f"{step} of {plural(len(selection.samples), 'image')}")


def export_view(ctx: Any) -> Steps:
    """Export the images."""
    from pipeline.export.summary import describe
    from pipeline.review.plugin.exporting import export_images

    images = {sample["image_id"] for sample in stored_samples(ctx.dataset, images_of(ctx))}
    yield Progress(0.1, f"Exporting {plural(len(images), 'image')}")
    names = ("output", "format", "images")
    output, format_name, how = (str(ctx.params[name]) for name in names)
    written = export_images(
        open_run(ctx.dataset), images, output, format_name, how, overwrite=bool(ctx.params.get("overwrite"))
    )
    yield Outcome(" ".join(describe(written)), changed=False)


def missed_objects(ctx: Any) -> Steps:
    """Look for boxes under the run's thresholds in the images, and show the queue of those that miss something."""
    run, images = open_run(ctx.dataset), images_of(ctx)
    yield Progress(0.0, "Loading the detector")
    for count in look_below(ctx.dataset, run, images):
        yield Progress(count / len(images), f"{count} of {plural(len(images), 'image')}")
    with only_writer(ctx.dataset.name):
        found = write_missed(ctx.dataset, run)
    shows = found and not ctx.delegated and ctx.dataset.has_saved_view(MISSED_VIEW)
    queue = MISSED_VIEW if shows else None
    yield Outcome(f"{plural(found, 'image')} of the run with boxes just under the threshold.", found > 0, view=queue)


def similar_objects(ctx: Any) -> Steps:
    """Show the labels of the view by their likeness to the selected object."""
    from pipeline.review.plugin.similar import Similar, find_similar

    asked, images = list(selected_labels(ctx.dataset, _selected(ctx))), samples_of_view(ctx.view)
    yield Progress(0.0, "Loading the detector")
    for step in find_similar(ctx.dataset, open_run(ctx.dataset), asked, images):
        if isinstance(step, Similar):
            shown = plural(len(step.label_ids), "object")
            said = f"{shown} of {step.compared}, the most similar first."
            yield Outcome(said, changed=False, view=step.view)
        else:
            yield Progress(step / len(images), f"{step} of {plural(len(images), 'image')}")


def fit_thresholds(ctx: Any) -> Steps:
    """Find thresholds; writes them where the form names a file."""
    from pipeline.review.plugin.fitting import fit_thresholds as fit

    said, table = fit(open_run(ctx.dataset), float(ctx.params["precision"]), str(ctx.params.get("file") or ""))
    yield Outcome(said, changed=False, output=f"{said}\n\n{table}")


def plural(count: int, noun: str) -> str:
    """Return "1 image", "2 images", "2 boxes"."""
    ending = "" if count == 1 else "es" if noun.endswith("x") else "s"
    return f"{count} {noun}{ending}"
