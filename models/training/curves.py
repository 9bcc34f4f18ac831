"""Curves of a training run as a picture, from the CSV files that the loop writes."""

import csv
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

Columns = dict[str, list[float]]
_SMOOTHING = 0.8


def read_columns(path: Path) -> Columns:
    """Return a CSV file's columns as numbers, NaN where a cell is empty; no file gives no columns."""
    if not path.exists():
        return {}
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return {name: [float(row[name] or "nan") for row in rows] for name in (rows[0] if rows else {})}


def draw_curves(folder: Path, picture: Path) -> None:
    """Draw the loss terms and the accuracy of a run over its steps.

    Args:
        folder: Holds `log.csv` and, where it was evaluated, `evaluation.csv`.
        picture: The PNG file to write.

    Raises:
        ValueError: The folder's log is missing or empty.
    """
    log, evaluation = read_columns(folder / "log.csv"), read_columns(folder / "evaluation.csv")
    if not log:
        raise ValueError(f"{folder / 'log.csv'} is missing or empty; there is nothing to draw")
    figure = Figure(figsize=(10, 4), layout="constrained")
    losses, accuracy = figure.subplots(1, 2)
    for name in ("total", "focal", "l1", "giou"):
        _plot_smooth(losses, log["step"], log[name], name)
    losses.set(title="loss", xlabel="step", yscale="log")
    losses.legend()
    for name, values in evaluation.items():
        if name not in ("step", "minutes"):
            accuracy.plot(evaluation["step"], values, marker="o", markersize=3, label=name)
    accuracy.set(title="validation", xlabel="step", ylim=(0, 1))
    if evaluation:
        accuracy.legend(fontsize="small")
    for axes in (losses, accuracy):
        axes.grid(alpha=0.3)
    figure.savefig(picture, dpi=110)


def _plot_smooth(axes: Axes, steps: list[float], values: list[float], name: str) -> None:
    """Draw values faintly and their running mean over them."""
    means: list[float] = []
    for value in values:
        means.append(value if not means else _SMOOTHING * means[-1] + (1 - _SMOOTHING) * value)
    (line,) = axes.plot(steps, means, label=name)
    axes.plot(steps, values, color=line.get_color(), alpha=0.25, linewidth=0.8)
