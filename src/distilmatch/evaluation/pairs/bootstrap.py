"""How far a metric could lie from its value by the luck of the sample: percentile bootstrap intervals.

Rows are drawn with replacement; for ranking, whole queries are, since rows of one query are not independent.

Shape legend: n rows; c labels; q queries; m metrics; r resamples.
"""

from __future__ import annotations

import numpy as np

from distilmatch.config.tables import TaskConfig
from distilmatch.metrics import task_metrics
from distilmatch.metrics.resampling import Intervals, grouped_rows, interval_of, resampled_intervals

__all__ = ["Intervals", "query_intervals", "resampled_intervals"]


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
    groups = [group for group in grouped_rows(queries) if (gold[group] > 0).any()]
    measured = [task_metrics(task, gold[group], logits[group], queries[group]) for group in groups]
    values = {name: np.array([each[name] for each in measured]) for name in measured[0]} if measured else {}
    draws = np.random.default_rng(seed).integers(0, len(groups), (resamples, len(groups)))
    return {name: interval_of(each[draws].mean(1)) for name, each in values.items() if np.isfinite(each).all()}
