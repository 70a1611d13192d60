"""From a score to the probability of a match: fitted by log loss, measured by the expected calibration error.

Two forms. Platt scaling is the sigmoid of a scale and a shift of the logit (Platt 1999, section 2.2); without the shift it is
temperature scaling (Guo et al. 2017, section 4.2). Isotonic regression is the non-decreasing function that is nearest to the
labels (Zadrozny and Elkan 2002), between its knots a straight line. Both keep the order of the scores.

Shape legend: n rows; k knots; b bins.
"""

from __future__ import annotations

import math
from typing import Literal, Self

import numpy as np
from pydantic import model_validator
from scipy.special import expit, log_expit
from sklearn.isotonic import IsotonicRegression

from distilmatch.config.base import FrozenConfig
from distilmatch.errors import DataError

Method = Literal["platt", "isotonic"]
METHODS: tuple[Method, ...] = ("platt", "isotonic")
BINS = 15  # as of Guo et al. 2017, section 3
FOLDS = 5

_STEPS, _ENOUGH = 100, 1e-10
_RIDGE = 1e-12


class Calibration(FrozenConfig):
    """What turns a logit into the probability of a match.

    Attributes:
        method: "platt", the sigmoid of `scale` times the logit plus `shift`; or "isotonic".
        logits, probabilities: of isotonic regression: k knots, rising, between which it is straight; beyond them it is flat.
    """

    method: Method
    scale: float = 1.0
    shift: float = 0.0
    logits: tuple[float, ...] = ()
    probabilities: tuple[float, ...] = ()

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.scale < 0:
            raise ValueError("`scale` is below 0, which would turn the order of the scores around")
        knots = len(self.logits)
        if knots != len(self.probabilities) or (self.method == "isotonic") != bool(knots):
            raise ValueError("isotonic regression needs as many `logits` as `probabilities`, Platt scaling has none")
        rising = np.all(np.diff(self.logits) > 0) and np.all(np.diff(self.probabilities) >= 0)
        if knots and not (rising and self.probabilities[0] > 0 and self.probabilities[-1] < 1):
            raise ValueError("the knots must rise, with `probabilities` between 0 and 1")
        return self

    def __call__(self, logits: np.ndarray) -> np.ndarray:
        """(n,) float64 probabilities of (n,) logits."""
        values = np.asarray(logits, dtype=np.float64)
        if self.method == "platt":
            return np.asarray(expit(self.scale * values + self.shift))
        return np.interp(values, self.logits, self.probabilities)

    def limit(self, probability: float) -> float:
        """The largest logit whose probability is not above `probability`: a logit above it has a higher one.

        Infinite where all logits, or none, have a higher one.
        """
        if self.method == "platt":
            if probability <= 0 or probability >= 1:
                return -math.inf if probability <= 0 else math.inf
            wanted = math.log(probability) - math.log1p(-probability)
            if self.scale > 0:
                return (wanted - self.shift) / self.scale
            return -math.inf if self.shift > wanted else math.inf
        above = int(np.searchsorted(self.probabilities, probability, side="right"))
        if above in (0, len(self.probabilities)):
            return -math.inf if above == 0 else math.inf
        low, high = self.probabilities[above - 1 : above + 1]
        share = (probability - low) / (high - low)
        return self.logits[above - 1] + share * (self.logits[above] - self.logits[above - 1])


class ReliabilityBin(FrozenConfig):
    """Rows of like probability: how many there are, their mean probability, and how many of them really match."""

    rows: int
    probability: float
    matches: float


def fit_platt(gold: np.ndarray, logits: np.ndarray) -> Calibration:
    """The scale (0 or more) and shift of the least log loss, by Newton's method with halved steps (Lin, Lin and Weng 2007).

    Targets are Platt's, (p + 1) / (p + 2) of p matches and 1 / (q + 2) of q others, so that separated scores get no infinite
    scale.

    Args:
        gold: (n,) labels; from 0.5 on one is a match.
        logits: (n,) finite logits.

    Raises:
        DataError: no rows, or arrays that do not fit.
    """
    positive, values = _checked(gold, logits)
    matches = int(positive.sum())
    targets = np.where(positive, (matches + 1) / (matches + 2), 1 / (len(values) - matches + 2))
    centre, spread = float(values.mean()), float(values.std()) or 1.0
    inputs = np.stack([(values - centre) / spread, np.ones(len(values))])  # (2, n), of one size whatever the logits are
    start = float(np.log(targets.mean() / (1 - targets.mean())))
    best = _newton(inputs, targets, np.array([0.0, start]))
    if best[0] < 0:
        best = np.array([0.0, start])  # the best that keeps the order of the scores
    scale = float(best[0]) / spread
    return Calibration(method="platt", scale=scale, shift=float(best[1]) - scale * centre)


def _newton(inputs: np.ndarray, targets: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """(2,) weights of the least log loss of the sigmoid of their sum over (2, n) inputs."""
    loss = _cross_entropy(targets, weights @ inputs)
    for _ in range(_STEPS):
        probabilities = expit(weights @ inputs)
        slope = inputs @ (probabilities - targets)
        if np.abs(slope).max() < _ENOUGH * len(targets):
            break
        curvature = (inputs * (probabilities * (1 - probabilities))) @ inputs.T + _RIDGE * np.eye(2)
        step = np.linalg.solve(curvature, slope)
        size = 1.0
        while size > 1e-10 and _cross_entropy(targets, (weights - size * step) @ inputs) > loss:
            size /= 2
        weights = weights - size * step
        before, loss = loss, _cross_entropy(targets, weights @ inputs)
        if not loss < before:
            break
    return weights


def _cross_entropy(targets: np.ndarray, logits: np.ndarray) -> float:
    return -float(np.mean(targets * log_expit(logits) + (1 - targets) * log_expit(-logits)))


def fit_isotonic(gold: np.ndarray, logits: np.ndarray) -> Calibration:
    """Isotonic regression, its probabilities kept 1 / (n + 2) away from 0 and 1, where one wrong row would cost an infinite
    log loss; arguments and errors as of `fit_platt`.
    """
    positive, values = _checked(gold, logits)
    room = 1 / (len(values) + 2)
    fitted = IsotonicRegression(y_min=room, y_max=1 - room, out_of_bounds="clip").fit(
        values, positive.astype(np.float64)
    )
    return Calibration(
        method="isotonic",
        logits=tuple(fitted.X_thresholds_.tolist()),
        probabilities=tuple(np.maximum.accumulate(fitted.y_thresholds_).tolist()),
    )


def fit(method: Method, gold: np.ndarray, logits: np.ndarray) -> Calibration:
    """A calibration of a method; arguments and errors as of `fit_platt`."""
    return fit_platt(gold, logits) if method == "platt" else fit_isotonic(gold, logits)


def held_out_probabilities(
    method: Method, gold: np.ndarray, logits: np.ndarray, *, seed: int, queries: np.ndarray | None = None
) -> np.ndarray:
    """(n,) probabilities, each from a fit on the other folds: what a calibration does on rows that it was not fitted on.

    Five folds (as many as there are rows or queries, where those are fewer) of like shares of matches; the rows of a query are
    in one fold. A single row or query is fitted on itself.

    Args:
        gold, logits: as of `fit_platt`.
        seed: of the folds.
        queries: (n,) the query of each row; None where rows stand alone.
    """
    positive, values = _checked(gold, logits)
    folds = _folds(positive, seed, queries)
    probabilities = np.empty(len(values))
    for fold in np.unique(folds):
        held = folds == fold
        others = ~held if not held.all() else held
        probabilities[held] = fit(method, positive[others], values[others])(values[held])
    return probabilities


def _folds(positive: np.ndarray, seed: int, queries: np.ndarray | None) -> np.ndarray:
    # Groups in random order, those with the most matches first, are dealt out in turn.
    of = np.arange(len(positive)) if queries is None else np.unique(queries, return_inverse=True)[1]
    matches = np.bincount(of, weights=positive)
    order = np.random.default_rng(seed).permutation(len(matches))
    folds = np.empty(len(matches), dtype=np.int64)
    folds[order[np.argsort(-matches[order], kind="stable")]] = np.arange(len(matches)) % FOLDS
    return folds[of]


def log_loss(gold: np.ndarray, probabilities: np.ndarray) -> float:
    """The mean negative logarithm of the probability of what (n,) labels say, in nats."""
    positive, values = _checked(gold, probabilities)
    said = np.where(positive, values, 1 - values)
    return float(-np.mean(np.log(np.maximum(said, np.finfo(np.float64).tiny))))


def reliability(
    gold: np.ndarray, probabilities: np.ndarray, *, bins: int = BINS, equal_mass: bool = False
) -> tuple[ReliabilityBin, ...]:
    """Rows by their probability of a match, bins without a row left out.

    Args:
        gold: (n,) labels; from 0.5 on one is a match.
        probabilities: (n,) between 0 and 1.
        bins: b.
        equal_mass: bins of as equal numbers of rows as ties allow; else of equal width, the upper end of each its own.

    Raises:
        DataError: no rows, or arrays that do not fit.
    """
    positive, values = _checked(gold, probabilities)
    if equal_mass:
        lowest = np.searchsorted(np.sort(values), values)  # rows of one probability have one place
        places = lowest * bins // len(values)
    else:
        places = np.clip(np.ceil(values * bins).astype(np.int64) - 1, 0, bins - 1)
    rows = np.bincount(places, minlength=bins)
    sums = np.bincount(places, weights=values, minlength=bins)
    matches = np.bincount(places, weights=positive, minlength=bins)
    return tuple(
        ReliabilityBin(rows=int(count), probability=float(total / count), matches=float(hits / count))
        for count, total, hits in zip(rows, sums, matches, strict=True)
        if count
    )


def expected_calibration_error(
    gold: np.ndarray, probabilities: np.ndarray, *, bins: int = BINS, equal_mass: bool = False
) -> float:
    """The mean distance between the probability of a match and the share of matches, over bins weighted by their rows
    (Guo et al. 2017, equation 3; 15 bins of equal width, as there).

    There the probability is that of the predicted class; here it is that of a match, whichever class is predicted. With
    `equal_mass` bins hold equal numbers of rows. Arguments and errors as of `reliability`.
    """
    return error_of(reliability(gold, probabilities, bins=bins, equal_mass=equal_mass))


def error_of(table: tuple[ReliabilityBin, ...]) -> float:
    """`expected_calibration_error` of a reliability table."""
    rows = sum(each.rows for each in table)
    return sum(each.rows * abs(each.probability - each.matches) for each in table) / rows


def _checked(gold: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    labels, values = np.asarray(gold, dtype=np.float64), np.asarray(scores, dtype=np.float64)
    if labels.ndim != 1 or labels.shape != values.shape or not len(labels):
        raise DataError(
            f"calibration: expected one gold label and one score a row, not shapes {labels.shape} and {values.shape}"
        )
    if not (np.isfinite(labels).all() and np.isfinite(values).all()):
        raise DataError("calibration: a gold label or a score is no finite number: leave such rows out first")
    return labels >= 0.5, values
