"""How good embeddings are by themselves: correlation with gold similarity, alignment and uniformity.

Shape legend: n pairs or texts; d width.
"""

from __future__ import annotations

import numpy as np

from distilmatch.errors import DataError, ModelError
from distilmatch.metrics.checks import spearman

_BLOCK = 1024


def unit_rows(embeddings: np.ndarray, what: str = "embeddings") -> np.ndarray:
    """(n, d) float64 rows of length one; a row of zeros stays.

    Raises:
        DataError: no rows, or another shape.
        ModelError: numbers that are not finite.
    """
    values = np.asarray(embeddings, dtype=np.float64)
    if values.ndim != 2 or not len(values):
        raise DataError(f"{what}: expected (texts, width) with one text or more, not shape {values.shape}")
    finite = np.isfinite(values).all(axis=1)
    if not finite.all():
        raise ModelError(
            f"{what}: row {int(np.argmin(finite)) + 1} is not finite ({int((~finite).sum())} such rows); training has "
            "diverged, or the model's weights are damaged"
        )
    return values / np.maximum(np.linalg.norm(values, axis=1, keepdims=True), 1e-12)


def cosines(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """(n,) float64 cosines of the rows of two (n, d) arrays."""
    if np.shape(left) != np.shape(right):
        raise DataError(f"embeddings of shapes {np.shape(left)} and {np.shape(right)} are no pairs")
    return np.einsum("nd,nd->n", unit_rows(left), unit_rows(right))


def cosine_spearman(left: np.ndarray, right: np.ndarray, gold: np.ndarray) -> float:
    """Spearman's correlation of the cosines of (n, d) pairs with their (n,) gold scores; 0 where one is constant.

    Raises:
        DataError: shapes that do not fit, or NaN in `gold`.
        ModelError: embeddings that are not finite.
    """
    scores = np.asarray(gold, dtype=np.float64)
    if scores.shape != (len(left),) or not np.isfinite(scores).all():
        raise DataError(f"{len(left)} pairs need as many gold scores, all of them numbers, not shape {scores.shape}")
    return spearman(cosines(left, right), scores)


def alignment(left: np.ndarray, right: np.ndarray) -> float:
    """The mean squared distance of (n, d) pairs that belong together, at length one (Wang and Isola 2020, section 4.1.1,
    alpha = 2); less is better.
    """
    return float(np.mean(2 - 2 * cosines(left, right)))


def uniformity(embeddings: np.ndarray) -> float:
    """`log mean exp(-2 |x - y|^2)` over all pairs of different rows, (n, d), at length one (Wang and Isola 2020, section
    4.1.2, t = 2); less is better, and 0 for one row.
    """
    rows = unit_rows(embeddings)
    if len(rows) < 2:
        return 0.0
    total = 0.0
    for start in range(0, len(rows), _BLOCK):
        squared = np.maximum(2 - 2 * rows[start : start + _BLOCK] @ rows.T, 0)
        block = np.exp(-2 * squared)
        diagonal = np.arange(len(block))
        total += float(block.sum() - block[diagonal, start + diagonal].sum())
    return float(np.log(total / (len(rows) * (len(rows) - 1))))
