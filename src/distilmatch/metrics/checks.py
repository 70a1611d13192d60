"""What arrays a metric takes, and the correlations that are defined for a constant."""

from __future__ import annotations

import numpy as np
from scipy import stats

from distilmatch.config.tables import TaskConfig
from distilmatch.errors import DataError, ModelError


def checked_logits(task: TaskConfig, logits: np.ndarray, what: str) -> np.ndarray:
    """`logits`, (n, c) or (n,) for one label, as (n, c) float64.

    Raises:
        DataError: no rows, or not c logits a row.
        ModelError: logits that are NaN or infinite.
    """
    values = np.asarray(logits, dtype=np.float64)
    if values.ndim == 1 and task.num_labels == 1:
        values = values[:, None]
    if values.ndim != 2 or values.shape[1] != task.num_labels:
        raise DataError(f"{what}: expected (rows, {task.num_labels}) logits for {task.kind}, not shape {values.shape}")
    if not len(values):
        raise DataError(f"{what}: no rows to measure; give one or more")
    wrong = ~np.isfinite(values).all(axis=1)
    if wrong.any():
        raise ModelError(
            f"{what}: {int(wrong.sum())} of {len(values)} rows have NaN or infinite logits, the first is row "
            f"{int(np.argmax(wrong)) + 1}; training has diverged, or the model's weights are damaged"
        )
    return values


def _is_constant(values: np.ndarray) -> bool:
    return bool(np.ptp(values) <= 1e-13 * np.abs(values).max())


def pearson(a: np.ndarray, b: np.ndarray) -> float:
    """Pearson's correlation of two (n,) arrays; 0 where one of them is constant."""
    if len(a) < 2 or _is_constant(a) or _is_constant(b):
        return 0.0
    return float(stats.pearsonr(a, b).statistic)


def spearman(a: np.ndarray, b: np.ndarray) -> float:
    """Spearman's rank correlation of two (n,) arrays, ties at their mean rank; 0 where one of them is constant."""
    return pearson(stats.rankdata(a), stats.rankdata(b))
