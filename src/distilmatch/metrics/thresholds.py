"""Where to cut a score: the threshold of the best F1, of a wanted precision, of a wanted recall.

A row counts as a match where its score is above the threshold. A threshold lies midway between two different scores that were
seen, so that rows of one score are always on one side of it, in whatever order they stand.

Shape legend: n rows; m different scores.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from distilmatch.arguments import real_number
from distilmatch.errors import ConfigError, DataError, did_you_mean

BEST_F1 = "best_f1"
_WANTED = ("precision", "recall")
NAMES = (BEST_F1, "precision=P", "recall=R")
"""What a threshold can be called; P and R are shares such as 0.95."""


@dataclass(frozen=True, kw_only=True)
class Cut:
    """A threshold and what it gives on the rows that it was chosen on."""

    threshold: float
    precision: float
    recall: float
    f1: float


@dataclass(frozen=True)
class Cuts:
    """Every threshold that tells rows apart, the highest first: the precision-recall curve.

    Attributes:
        thresholds: (m,) float64, falling; the k-th keeps the rows of the k + 1 highest scores. The last one keeps all.
        true_positives, predicted: (m,) matches, and rows, above each.
        positives: matches in all.
    """

    thresholds: np.ndarray
    true_positives: np.ndarray
    predicted: np.ndarray
    positives: float

    @classmethod
    def of(cls, gold: np.ndarray, scores: np.ndarray, weights: np.ndarray | None = None) -> Cuts:
        """The curve of labels and scores.

        Args:
            gold: (n,) labels; from 0.5 on one is a match.
            scores: (n,) finite; a higher one is a better match.
            weights: (n,) how often each row counts; None is once.

        Raises:
            DataError: no rows, arrays of different lengths, scores that are no numbers, or no match.
        """
        labels, values = np.asarray(gold, dtype=np.float64), np.asarray(scores, dtype=np.float64)
        if labels.ndim != 1 or labels.shape != values.shape or not len(labels):
            raise DataError(
                f"thresholds: expected one gold label and one score a row, not shapes {labels.shape} and {values.shape}"
            )
        if not (np.isfinite(labels).all() and np.isfinite(values).all()):
            raise DataError("thresholds: a gold label or a score is no finite number: leave such rows out first")
        return cls.sorted(*_steps(labels >= 0.5, values, np.ones(len(values)) if weights is None else weights))

    @classmethod
    def sorted(cls, levels: np.ndarray, matches: np.ndarray, rows: np.ndarray) -> Cuts:
        """The curve of what is counted by score already.

        Args:
            levels: (m,) different scores, falling.
            matches, rows: (m,) how many of each there are; scores without a row are passed over.

        Raises:
            DataError: no match.
        """
        seen = rows > 0
        levels, matches, rows = levels[seen], matches[seen], rows[seen]
        if not matches.sum() > 0:
            raise DataError("thresholds: no row is a match, so that neither precision nor recall is defined")
        return cls(_midways(levels), np.cumsum(matches), np.cumsum(rows), float(matches.sum()))

    @cached_property
    def precision(self) -> np.ndarray:
        """(m,) share of the rows above each threshold that are matches."""
        return np.asarray(self.true_positives / self.predicted)

    @cached_property
    def recall(self) -> np.ndarray:
        """(m,) share of the matches that are above each threshold."""
        return np.asarray(self.true_positives / self.positives)

    @cached_property
    def f1(self) -> np.ndarray:
        """(m,) harmonic mean of the two."""
        return np.asarray(2 * self.true_positives / (self.predicted + self.positives))

    def at(self, place: int) -> Cut:
        """The threshold at a place of the curve."""
        return Cut(
            threshold=float(self.thresholds[place]),
            precision=float(self.precision[place]),
            recall=float(self.recall[place]),
            f1=float(self.f1[place]),
        )

    def best_f1(self) -> Cut:
        """The threshold of the highest F1; of equal ones the highest threshold."""
        return self.at(int(np.argmax(self.f1)))

    def for_precision(self, wanted: float) -> Cut | None:
        """Of the thresholds whose precision is `wanted` or more the one of the highest recall, of equal ones the highest.

        None where no threshold has that precision.
        """
        enough = self.precision >= wanted
        return self.at(int(np.argmax(np.where(enough, self.true_positives, -1)))) if enough.any() else None

    def for_recall(self, wanted: float) -> Cut:
        """Of the thresholds whose recall is `wanted` or more the one of the highest precision, of equal ones the lowest."""
        best = np.where(self.recall >= wanted, self.precision, -1.0)
        return self.at(len(best) - 1 - int(np.argmax(best[::-1])))

    def named(self, name: str) -> Cut | None:
        """The threshold of a name of `NAMES`; None where a wanted precision is never reached.

        Raises:
            ConfigError: there is no such name.
        """
        kind, wanted = parsed_name(name)
        if kind == BEST_F1:
            return self.best_f1()
        return self.for_precision(wanted) if kind == "precision" else self.for_recall(wanted)

    def table(self, steps: int = 200) -> list[Cut]:
        """The answers of `best_f1` and, for every wanted share in `steps`, of `for_precision` and `for_recall`; the highest
        threshold first.

        None of them is beaten by another threshold in precision and in recall, so that from one to the next precision falls
        and recall rises.
        """
        shares = np.arange(1, steps + 1) / steps
        answers = [self.best_f1(), *map(self.for_precision, shares), *map(self.for_recall, shares)]
        by_threshold = {cut.threshold: cut for cut in answers if cut is not None}
        return [by_threshold[threshold] for threshold in sorted(by_threshold, reverse=True)]


def _steps(positive: np.ndarray, values: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    levels, where = np.unique(values, return_inverse=True)
    rows = np.bincount(where, weights=weights, minlength=len(levels))
    matches = np.bincount(where, weights=weights * positive, minlength=len(levels))
    return levels[::-1], matches[::-1], rows[::-1]


def _midways(levels: np.ndarray) -> np.ndarray:
    """(m,) midway between each score and the next lower one; the last just below the lowest, in fp32."""
    high, low = levels[:-1], levels[1:]
    between = low + (high - low) / 2
    between = np.where(between < high, between, low)  # neighbouring floating numbers have nothing between them
    below = np.nextafter(np.float32(levels[-1]), np.float32(-np.inf), dtype=np.float32)
    return np.append(between, min(float(below), np.nextafter(levels[-1], -np.inf)))


def parsed_name(name: str) -> tuple[str, float]:
    """What a name asks for: "best_f1", "precision" or "recall", and the wanted share (0 of the first).

    Raises:
        ConfigError: it is no name of a threshold.
    """
    kind, equals, number = name.strip().partition("=")
    if kind == BEST_F1 and not equals:
        return BEST_F1, 0.0
    try:
        wanted = float(number)
    except ValueError:
        wanted = math.nan
    if kind in _WANTED and 0 < wanted <= 1:
        return kind, wanted
    raise ConfigError(
        f"no threshold is called {name!r}: give best_f1, precision=0.95 or recall=0.9 (any share above 0, up to 1), or a "
        f"number{did_you_mean(kind, (BEST_F1, *_WANTED))}"
    )


def threshold_asked(value: float | str) -> float | str:
    """A threshold as a user gives it: a number, also as text, or a name.

    Raises:
        ConfigError: it is neither.
    """
    if not isinstance(value, str):
        return real_number("threshold", value)
    try:
        return real_number("threshold", float(value))
    except ValueError:
        parsed_name(value)
        return value.strip()
