"""The plot of a calibration: precision over recall, and the chance to be right over the score, class by class."""

import io

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pipeline.calibration.calibrate import Calibration, ClassCalibration
from pipeline.proof.plots import BLUE, FAINT, INK, STYLE

MOST_CLASSES = 12
"""Classes that are drawn: those with the most judged boxes."""
_BINS = 10
_GREEN = "#15803d"


def draw_calibration(calibration: Calibration) -> bytes:
    """Return the plot as a PNG; a row a class, with the most judged boxes first."""
    shown = sorted(calibration.classes, key=lambda one: -len(one.boxes))[:MOST_CLASSES]
    with rc_context(STYLE):
        figure = Figure(figsize=(8.6, 0.8 + 2.5 * max(len(shown), 1)), layout="constrained")
        axes = figure.subplots(max(len(shown), 1), 2, squeeze=False)
        for (left, right), one in zip(axes, shown, strict=False):
            _draw_precision(left, one, calibration.precision)
            _draw_chances(right, one)
        if not shown:
            axes[0][0].set_axis_off()
            axes[0][1].set_axis_off()
        stream = io.BytesIO()
        figure.savefig(stream, format="png", dpi=110, metadata={"Software": None})
    return stream.getvalue()


def _draw_precision(axes: Axes, one: ClassCalibration, asked: float) -> None:
    found = one.threshold
    objects = int(one.boxes.right.sum()) + one.boxes.missed
    axes.axhline(asked, color=FAINT, linewidth=1)
    if objects and len(one.boxes):
        axes.plot(one.curve.right / objects, one.curve.precision, color=BLUE, linewidth=1.6)
    if found.score is not None:
        share = found.precision
        axes.errorbar(
            [found.recall],
            [share.value],
            yerr=[[share.value - share.low], [share.high - share.value]],
            fmt="o",
            color=_GREEN,
            capsize=3,
            label=f"from {one.proposed:.3f}",
        )
        axes.legend(frameon=False, fontsize=9, loc="lower left")
    axes.set(xlabel="recall", ylabel="precision", xlim=(0, 1.02), ylim=(0, 1.04))
    axes.set_title(f"{one.name}: {len(one.boxes)} judged, {found.finding}", fontsize=11, loc="left")


def _draw_chances(axes: Axes, one: ClassCalibration) -> None:
    axes.plot([0, 1], [0, 1], "--", color=FAINT, linewidth=1)
    places = np.minimum((one.boxes.scores * _BINS).astype(np.int64), _BINS - 1)
    for place in np.unique(places):
        mine = places == place
        axes.plot(one.boxes.scores[mine].mean(), one.boxes.right[mine].mean(), "o", color=INK, markersize=4)
    if one.chosen is not None:
        scores = np.linspace(one.boxes.scores.min(), one.boxes.scores.max(), 200)
        axes.plot(scores, one.chosen.score_map(scores), color=BLUE, linewidth=1.6, label=one.chosen.score_map.method)
        axes.legend(frameon=False, fontsize=9, loc="upper left")
    axes.set(xlabel="score", ylabel="share right", xlim=(0, 1.02), ylim=(0, 1.04))
