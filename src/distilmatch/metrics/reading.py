"""How a model's logits are read where a threshold, or a calibrated probability, is asked for.

Shape legend: n rows; c labels.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import expit

from distilmatch.config.tables import TaskConfig
from distilmatch.errors import ConfigError
from distilmatch.metrics.calibration import Calibration
from distilmatch.metrics.decisions import Decision, check_decides, match_logits
from distilmatch.metrics.thresholds import threshold_asked


@dataclass(frozen=True, kw_only=True)
class Reading:
    """Which match logits are matches, and which probabilities they are.

    Attributes:
        task: binary, or a classification of two classes, whose second counts as a match.
        limit: a row whose match logit is above it is a match; None where no threshold was asked for.
        calibration: None reads the match logit by its sigmoid.
    """

    task: TaskConfig
    limit: float | None = None
    calibration: Calibration | None = None

    @classmethod
    def of(
        cls, task: TaskConfig, threshold: float | str | None, calibrated: bool, decision: Callable[[], Decision]
    ) -> Reading:
        """The reading that a user asks for.

        Args:
            threshold: "best_f1", "precision=0.95", "recall=0.9", or a number from 0 to below 1: a probability, the calibrated one
                where `calibrated` says so.
            calibrated: read probabilities by the decision's calibration.
            decision: gives the model's decision; called only where it is needed.

        Raises:
            ConfigError: a task that does not say match or no match, no such name, a number out of range, or no decision.
        """
        check_decides(task, "calibration" if threshold is None else "a threshold")
        asked = None if threshold is None else threshold_asked(threshold)
        if not (calibrated or isinstance(asked, str)):
            return cls(task=task, limit=None if asked is None else _limit_of(asked, None))
        made = decision()
        if made.task.kind != task.kind or made.task.classes != task.classes:
            raise ConfigError("the decision was made for another task, or for classes in another order: make it anew")
        calibration = made.calibration if calibrated else None
        if isinstance(asked, str):
            return cls(task=task, limit=made.threshold(asked).logit, calibration=calibration)
        return cls(task=task, limit=None if asked is None else _limit_of(asked, calibration), calibration=calibration)

    def matches(self, logits: np.ndarray) -> np.ndarray:
        """(n,) bool, of (n, c) raw logits: which rows are above the threshold."""
        assert self.limit is not None
        return match_logits(self.task, logits) > self.limit if len(logits) else np.zeros(0, dtype=bool)

    def probabilities(self, logits: np.ndarray) -> np.ndarray:
        """(n,) float32 probabilities of a match, of (n, c) raw logits."""
        if not len(logits):
            return np.zeros(0, dtype=np.float32)
        return self.of_match_logits(match_logits(self.task, logits))

    def of_match_logits(self, values: np.ndarray) -> np.ndarray:
        """(n,) float32 probabilities of (n,) match logits."""
        read = expit(np.asarray(values, dtype=np.float64)) if self.calibration is None else self.calibration(values)
        return np.asarray(read, dtype=np.float32)

    @property
    def fp32_limit(self) -> float | None:
        """`limit` as the largest fp32 number that is not above it: fp32 logits are above both, or above neither."""
        if self.limit is None or math.isinf(self.limit):
            return self.limit
        rounded = np.float32(self.limit)
        return float(rounded if float(rounded) <= self.limit else np.nextafter(rounded, np.float32(-np.inf)))

    def facts(self) -> list[Any]:
        """JSON-like values that say how it reads, for a job's fingerprint."""
        shown = None if self.limit is None else repr(self.limit)
        return [shown, None if self.calibration is None else self.calibration.to_dict()]


def _limit_of(threshold: float, calibration: Calibration | None) -> float:
    if not 0 <= threshold < 1:
        raise ConfigError(
            f"the threshold is {threshold:g}; scores are between 0 and 1: give 0 or more, and less than 1"
        )
    if calibration is not None:
        return calibration.limit(threshold)
    return -math.inf if threshold == 0 else math.log(threshold) - math.log1p(-threshold)
