"""Rows drawn anew, with replacement, and the percentile intervals that the draws give (Efron and Tibshirani 1993, section 13.3).

Rows of one query are not independent: where there are queries, whole queries are drawn.

Shape legend: n rows; m drawn rows; r resamples.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import numpy as np

Interval = tuple[float, float]
Intervals = dict[str, Interval]

LEVEL = 0.95


def drawn_rows(rows: int, *, resamples: int, seed: int, queries: np.ndarray | None = None) -> Iterator[np.ndarray]:
    """Resamples, one after another, as (m,) int64 row numbers, repeats among them.

    Args:
        rows: n.
        resamples: r.
        seed: of the draws.
        queries: (n,) the query of each row; then m differs from draw to draw. None draws n rows.
    """
    generator = np.random.default_rng(seed)
    if queries is None:
        for _ in range(resamples):
            yield generator.integers(0, rows, rows)
        return
    groups = grouped_rows(queries)
    for _ in range(resamples):
        yield np.concatenate([groups[number] for number in generator.integers(0, len(groups), len(groups))])


def grouped_rows(queries: np.ndarray) -> list[np.ndarray]:
    """The row numbers of each query, in the order of the queries' numbers."""
    order = np.argsort(queries, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(np.asarray(queries)[order])) + 1)


def interval_of(values: np.ndarray) -> Interval:
    """What the middle 95 % of (r,) values lie between."""
    low, high = np.quantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def resampled_intervals(
    metrics: Callable[[np.ndarray], Mapping[str, float]],
    rows: int,
    *,
    resamples: int,
    seed: int,
    queries: np.ndarray | None = None,
) -> Intervals:
    """95 % intervals of everything that `metrics` gives.

    Args:
        metrics: from (m,) int64 row numbers, repeats among them, to named values.
        rows: n.
        resamples: r; 0 gives no intervals.
        seed: of the draws.
        queries: as of `drawn_rows`.

    Returns:
        (low, high) by name; a name that is not defined on at least half of the resamples is left out.
    """
    drawn: dict[str, list[float]] = {}
    for chosen in drawn_rows(rows, resamples=resamples, seed=seed, queries=queries):
        try:
            values = metrics(chosen)
        except ValueError:
            # A draw on which the metric is not defined, such as one without a positive row.
            continue
        for name, value in values.items():
            if np.isfinite(value):
                drawn.setdefault(name, []).append(value)
    return {name: interval_of(np.array(values)) for name, values in drawn.items() if 2 * len(values) >= resamples}
