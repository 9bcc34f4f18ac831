"""The operators of the plugin."""

from pipeline.review.plugin import actions, forms
from pipeline.review.plugin.action import Action, operator_classes_of

ACTIONS = (
    Action(
        "accept",
        "Accept",
        "The selected objects, or else the selected or open images, are right as they stand",
        "check_circle",
        actions.accept,
        is_for_objects=True,
    ),
    Action(
        "reject",
        "Reject",
        "The selected objects, or else all labels of the selected or open images, are wrong",
        "cancel",
        actions.reject,
        is_for_objects=True,
    ),
    Action(
        "undo",
        "Undo",
        "Take back the last step of these operators",
        "undo",
        actions.undo,
        is_for_objects=True,
    ),
    Action(
        "explain_box",
        "Explain this box",
        "What found the selected object, with which scores, and which boxes it took away",
        "help",
        actions.explain_box,
        has_output=True,
        is_for_objects=True,
    ),
    Action(
        "find_similar",
        "Find similar objects",
        "Show the labels of the view by their likeness to the selected object",
        "image_search",
        actions.similar_objects,
        is_long=True,
        is_for_objects=True,
        is_here=True,
    ),
    Action(
        "move_threshold",
        "Move threshold",
        "See what another threshold of a class would hide and bring, and apply it",
        "tune",
        actions.move_threshold,
        forms.threshold_form,
        is_long=True,
    ),
    Action(
        "find_missed",
        "Find missed objects",
        "Look for boxes just under the run's thresholds in the selected images or the view; they join 'Likely missed'",
        "search",
        actions.missed_objects,
        is_long=True,
    ),
    Action(
        "fit_thresholds",
        "Fit thresholds",
        "Find each class's threshold for a precision from what was reviewed; write them only where a file is named",
        "straighten",
        actions.fit_thresholds,
        forms.fit_form,
        has_output=True,
    ),
    Action(
        "label_selection",
        "Label selection",
        "Look for something else in the selected images or the view; what is found is proposed",
        "auto_fix_high",
        actions.label_selection,
        forms.label_form,
        is_long=True,
    ),
    Action(
        "resegment",
        "Re-segment",
        "Draw the masks of the selected boxes anew with the run's segmenter",
        "draw",
        actions.resegment_boxes,
        is_long=True,
        is_for_objects=True,
    ),
    Action(
        "export_view",
        "Export this view",
        "Write the images that are shown, with what people corrected, in any format of groundlabel",
        "download",
        actions.export_view,
        forms.export_form,
        is_long=True,
    ),
)
"""In the order of the buttons."""


def operator_classes() -> list[type]:
    """Return FiftyOne's classes of all operators."""
    return [made for action in ACTIONS for made in operator_classes_of(action)]
