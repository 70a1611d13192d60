"""How far a metric could lie from its value by the luck of the sample: percentile bootstrap intervals.

Rows are drawn with replacement; for ranking, whole queries are, since rows of one query are not independent.

Shape legend: n rows; c labels; q queries; m metrics; r resamples.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from distilmatch.config.tables import TaskConfig
from distilmatch.metrics import task_metrics

Intervals = dict[str, tuple[float, float]]

_LEVEL = 0.95


def resampled_intervals(
    metrics: Callable[[np.ndarray], Mapping[str, float]], rows: int, *, resamples: int, seed: int
) -> Intervals:
    """95 % intervals of everything that `metrics` gives.

    Args:
        metrics: from (n,) int64 row numbers, repeats among them, to named values.
        rows: n.
        resamples: r; 0 gives no intervals.
        seed: of the draws.

    Returns:
        (low, high) by name; a name that is not defined on at least half of the resamples is left out.
    """
    generator = np.random.default_rng(seed)
    drawn: dict[str, list[float]] = {}
    for _ in range(resamples):
        try:
            values = metrics(generator.integers(0, rows, rows))
        except ValueError:
            # A draw on which the metric is not defined, such as one without a positive row.
            continue
        for name, value in values.items():
            if np.isfinite(value):
                drawn.setdefault(name, []).append(value)
    return {name: _interval(np.array(values)) for name, values in drawn.items() if 2 * len(values) >= resamples}


def query_intervals(
    task: TaskConfig, gold: np.ndarray, logits: np.ndarray, queries: np.ndarray, *, resamples: int, seed: int
) -> Intervals:
    """95 % intervals of ranking metrics, which are means over queries: each query is measured once, then drawn.

    Args:
        gold, logits, queries: (n,), (n, c) and (n,), as `task_metrics` takes them.
        resamples: r; 0 gives no intervals.
    """
    if resamples == 0:
        return {}
    order = np.argsort(queries, kind="stable")
    cuts = np.flatnonzero(np.diff(queries[order])) + 1
    groups = [group for group in np.split(order, cuts) if (gold[group] > 0).any()]
    measured = [task_metrics(task, gold[group], logits[group], queries[group]) for group in groups]
    values = {name: np.array([each[name] for each in measured]) for name in measured[0]} if measured else {}
    draws = np.random.default_rng(seed).integers(0, len(groups), (resamples, len(groups)))
    return {name: _interval(each[draws].mean(1)) for name, each in values.items() if np.isfinite(each).all()}


def _interval(values: np.ndarray) -> tuple[float, float]:
    low, high = np.quantile(values, [(1 - _LEVEL) / 2, (1 + _LEVEL) / 2])
    return float(low), float(high)
