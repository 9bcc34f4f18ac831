"""The plots of a report, as SVG that needs nothing from anywhere else."""

import base64
import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from pipeline.proof.clicks import Clicks
from pipeline.proof.coco_scores import Scores
from pipeline.proof.confusion import BACKGROUND
from pipeline.proof.intervals import Difference
from pipeline.proof.mistakes import MISTAKES, Mistakes
from pipeline.proof.pictures import COLORS
from pipeline.proof.score_calibration import BINS, Calibration

MOST_CELLS = 20
"""Classes in the picture of the confusion matrix."""
INK, FAINT, BLUE = "#1f2933", "#c3cad3", "#2563eb"
_SHOWN_IOUS = (0.5, 0.75, 0.9)
STYLE: Any = {
    "font.size": 11,
    "font.family": "DejaVu Sans",
    "axes.edgecolor": "#8a94a3",
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "text.color": INK,
    "xtick.color": "#52606d",
    "ytick.color": "#52606d",
    "svg.hashsalt": "groundlabel",
}


def _svg(figure: Figure) -> str:
    """Return a figure as a data URI; the same bytes for the same figure."""
    stream = io.BytesIO()
    with rc_context(STYLE):
        figure.savefig(stream, format="svg", bbox_inches="tight", metadata={"Date": None})
    return "data:image/svg+xml;base64," + base64.b64encode(stream.getvalue()).decode("ascii")


def _axes(width: float, height: float, columns: int = 1) -> tuple[Figure, list[Axes]]:
    with rc_context(STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        made = figure.subplots(1, columns, squeeze=False)
    return figure, list(made[0])


def plot_precision_recall(scores: Mapping[str, Scores]) -> str:
    """Draw precision over recall: each class at IoU .5 in grey, the mean over classes at .5, .75 and .9."""
    kinds = [kind for kind in scores if kind != "boundaries"]
    figure, made = _axes(5.2 * len(kinds), 3.7, len(kinds))
    for axes, kind in zip(made, kinds, strict=True):
        one = scores[kind]
        known = (one.precision > -1).all((0, 1))
        for row in np.flatnonzero(known):
            axes.plot(one.recalls, one.precision[0, :, row], color=FAINT, linewidth=0.8)
        for level, style in zip(_SHOWN_IOUS, ("-", "--", ":"), strict=True):
            place = int(np.argmin(np.abs(one.matches.thresholds - level)))
            mean = one.precision[place][:, known].mean(1)
            axes.plot(one.recalls, mean, style, color=BLUE, linewidth=2, label=f"mean, IoU {level:g}")
        axes.set(xlabel="recall", ylabel="precision", xlim=(0, 1), ylim=(0, 1.02), title=kind)
        axes.plot([], [], color=FAINT, label="one class, IoU 0.5")
        axes.legend(framealpha=0.9, edgecolor="white", fontsize=9, loc="upper right")
    return _svg(figure)


def plot_mistakes(mistakes: Mapping[str, Mistakes]) -> str:
    """Draw what each kind of mistake costs."""
    figure, made = _axes(5.2 * len(mistakes), 2.7, len(mistakes))
    most = max(cost for one in mistakes.values() for cost in one.costs.values()) * 100
    for axes, (kind, one) in zip(made, mistakes.items(), strict=True):
        costs = [one.costs[name] * 100 for name in MISTAKES]
        colors = ["#{:02x}{:02x}{:02x}".format(*COLORS[name]) for name in MISTAKES]
        bars = axes.barh(MISTAKES, costs, color=colors)
        labels = [f"{cost:.1f}  ({one.counts[name]})" for name, cost in zip(MISTAKES, costs, strict=True)]
        axes.bar_label(bars, labels, padding=4, fontsize=9)
        axes.invert_yaxis()
        axes.set(xlabel="AP50 points lost (how many)", title=kind, xlim=(0, most * 1.3 or 1))
    return _svg(figure)


def plot_calibration(calibration: Calibration) -> str:
    """Draw the share of right labels over their score."""
    figure, (axes,) = _axes(4.9, 3.5)
    lows = [one.low for one in calibration.bins]
    shares = [one.share_right for one in calibration.bins]
    bars = axes.bar(lows, shares, width=1 / BINS * 0.92, align="edge", color=BLUE, alpha=0.8)
    axes.bar_label(bars, [str(one.labels) for one in calibration.bins], fontsize=8, padding=2)
    axes.plot([0, 1], [0, 1], "--", color="#52606d", linewidth=1.2, label="score = chance to be right")
    axes.set(xlabel="score", ylabel="share of labels that are right", xlim=(0, 1), ylim=(0, 1.08))
    axes.legend(frameon=False, fontsize=9, loc="upper left")
    return _svg(figure)


def plot_confusion(matrix: NDArray[np.int64], names: Sequence[str]) -> str:
    """Draw the confusion matrix of the classes with the most confusions, rows as shares."""
    wrong = matrix.copy()
    np.fill_diagonal(wrong, 0)
    most = np.argsort(-(wrong.sum(0) + wrong.sum(1))[:-1], kind="stable")[:MOST_CELLS]
    shown = [*sorted(most.tolist()), len(names)]
    part = matrix[np.ix_(shown, shown)]
    shares = part / np.maximum(matrix[shown].sum(1, keepdims=True), 1)
    titles = [*names, BACKGROUND]
    side = 2.2 + 0.38 * len(shown)
    figure, (axes,) = _axes(side + 0.6, side)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    ticks = range(len(shown))
    axes.set_xticks(ticks, [titles[row] for row in shown], rotation=60, ha="right", fontsize=9)
    axes.set_yticks(ticks, [titles[row] for row in shown], fontsize=9)
    for row, column in zip(*np.nonzero(part), strict=True):
        color = "white" if shares[row, column] > 0.55 else INK
        axes.text(column, row, str(part[row, column]), ha="center", va="center", fontsize=8, color=color)
    axes.set(xlabel="labelled as", ylabel="is")
    return _svg(figure)


def plot_clicks(clicks: Clicks, min_score: float) -> str:
    """Draw the clicks over the score below which labels would be thrown away."""
    figure, (axes,) = _axes(4.9, 3.2)
    axes.axhline(clicks.from_nothing, color="#52606d", linestyle="--", linewidth=1.2, label="from nothing")
    levels = [choice.min_score for choice in clicks.choices]
    axes.plot(levels, [choice.clicks for choice in clicks.choices], "o-", color=BLUE, markersize=4, label="from labels")
    axes.axvline(min_score, color=FAINT, linewidth=1)
    axes.set(xlabel="lowest score that is kept", ylabel="clicks")
    axes.set_ylim(0, max([clicks.from_nothing, *(choice.clicks for choice in clicks.choices)]) * 1.12)
    axes.legend(frameon=False, fontsize=9, loc="lower right")
    return _svg(figure)


def plot_comparison(figures: Mapping[str, Difference]) -> str:
    """Draw how much higher each figure is here, with its interval."""
    figure, (axes,) = _axes(7.6, 0.9 + 0.38 * len(figures))
    for place, one in enumerate(figures.values()):
        color = "#52606d" if not one.told_apart else ("#15803d" if one.change.value > 0 else "#b91c1c")
        axes.plot([one.change.low * 100, one.change.high * 100], [place, place], color=color, linewidth=2)
        axes.plot(one.change.value * 100, place, "o", color=color, markersize=6)
    axes.axvline(0, color=INK, linewidth=1)
    axes.set_yticks(range(len(figures)), list(figures))
    axes.invert_yaxis()
    axes.set(xlabel="points higher than the others (95 % interval)")
    return _svg(figure)
