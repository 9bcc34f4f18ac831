"""From a score to the chance that the box is right: two kinds of map, and which of them predicts better."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import isotonic_regression, minimize
from scipy.special import expit, logit

from pipeline.calibration.thresholds import JudgedBoxes

LEAST_FOR_ISOTONIC = 200
"""Judged boxes below which only temperature is tried: steps of few boxes follow chance."""
_LEAST_OF_A_KIND = 10
"""Right boxes, and wrong ones, that isotonic regression needs."""
_FOLDS = 5
_EDGE = 1e-6
"""Scores are kept this far from 0 and 1, where the logarithm of the odds ends."""


class ScoreMap(Protocol):
    """A map that never falls."""

    @property
    def method(self) -> str:
        """Its name."""

    def __call__(self, scores: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the chance to be right for each score, (N,) in (0, 1)."""

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON has it."""


@dataclass(frozen=True)
class Temperature:
    """Odds divided by a temperature and shifted: sigmoid(logit(score) / temperature + shift).

    `slope` is 1 / temperature, so that 0 can stand for scores that say nothing.
    """

    slope: float
    shift: float
    method: str = "temperature"

    def __call__(self, scores: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the chance to be right for each score."""
        return np.asarray(expit(self.slope * _log_odds(scores) + self.shift), np.float64)

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        return asdict(self)


@dataclass(frozen=True)
class Isotonic:
    """Steps that never fall, joined by straight lines; below the first and above the last score it is level."""

    scores: tuple[float, ...]
    chances: tuple[float, ...]
    method: str = "isotonic"

    def __call__(self, scores: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the chance to be right for each score."""
        return np.asarray(np.interp(scores, self.scores, self.chances), np.float64)

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        return asdict(self)


@dataclass(frozen=True)
class ChosenMap:
    """A map and why it was chosen.

    Attributes:
        score_map: The map.
        losses: Held-out log loss by method, and of the raw score ("raw"); empty where there was too little to hold out.
    """

    score_map: ScoreMap
    losses: Mapping[str, float]


def fit_temperature(scores: NDArray[np.float64], right: NDArray[np.bool_]) -> Temperature:
    """Fit temperature and shift by maximum likelihood.

    Args:
        scores: (N,) in [0, 1], N at least 1.
        right: (N,); all may be right, or none.

    Source: Guo et al. 2017, "On Calibration of Modern Neural Networks"; targets that stay off 0 and 1 and the shift
    as in Platt 1999, "Probabilistic Outputs for Support Vector Machines".
    """
    positives, negatives = int(right.sum()), int((~right).sum())
    targets = np.where(right, (positives + 1) / (positives + 2), 1 / (negatives + 2))
    odds = _log_odds(scores)

    def loss(values: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        raw = values[0] * odds + values[1]
        gap = expit(raw) - targets
        likelihood = np.logaddexp(0, raw) - targets * raw
        return float(likelihood.mean()), np.array([(gap * odds).mean(), gap.mean()])

    start = np.array([1.0, 0.0])
    found = minimize(loss, start, jac=True, method="L-BFGS-B", bounds=[(0, None), (None, None)])
    return Temperature(float(found.x[0]), float(found.x[1]))


def fit_isotonic(scores: NDArray[np.float64], right: NDArray[np.bool_]) -> Isotonic:
    """Fit steps that never fall; boxes of equal scores are one point.

    Args:
        scores: (N,), N at least 1.
        right: (N,).

    Returns:
        Chances stay 1 / (N + 2) off 0 and 1, because N boxes cannot say "never".
    """
    points, rows, counts = np.unique(scores, return_inverse=True, return_counts=True)
    shares = np.bincount(rows, weights=right) / counts
    steps = isotonic_regression(shares, weights=counts).x
    edges = np.flatnonzero(np.append(True, steps[1:] != steps[:-1]) | np.append(steps[1:] != steps[:-1], True))
    margin = 1 / (len(scores) + 2)
    chances = np.clip(steps[edges], margin, 1 - margin)
    return Isotonic(tuple(points[edges].tolist()), tuple(chances.tolist()))


def choose_map(boxes: JudgedBoxes) -> ChosenMap:
    """Fit the map that predicts held-out boxes better; images are held out, not boxes.

    Args:
        boxes: Of one class, at least one.
    """
    right = int(boxes.right.sum())
    if len(boxes) < LEAST_FOR_ISOTONIC or min(right, len(boxes) - right) < _LEAST_OF_A_KIND:
        return ChosenMap(fit_temperature(boxes.scores, boxes.right), {})
    _, places = np.unique(boxes.images, return_inverse=True)
    folds = places % _FOLDS
    fits: dict[str, Callable[[NDArray[np.float64], NDArray[np.bool_]], ScoreMap]] = {
        "temperature": fit_temperature,
        "isotonic": fit_isotonic,
    }
    held_out = {name: np.zeros(len(boxes)) for name in fits}
    for fold in np.unique(folds):
        out = folds == fold
        if out.all():
            return ChosenMap(fit_temperature(boxes.scores, boxes.right), {})
        for name, fit in fits.items():
            held_out[name][out] = fit(boxes.scores[~out], boxes.right[~out])(boxes.scores[out])
    losses = {"raw": log_loss(boxes.scores, boxes.right)}
    losses |= {name: log_loss(chances, boxes.right) for name, chances in held_out.items()}
    best = min(fits, key=lambda name: losses[name])
    return ChosenMap(fits[best](boxes.scores, boxes.right), losses)


def log_loss(chances: NDArray[np.float64], right: NDArray[np.bool_]) -> float:
    """Return the mean surprise at what was right, in nats; (N,) each, N at least 1."""
    safe = np.clip(chances, _EDGE, 1 - _EDGE)
    return float(-np.where(right, np.log(safe), np.log1p(-safe)).mean())


def _log_odds(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(logit(np.clip(scores, _EDGE, 1 - _EDGE)), np.float64)
