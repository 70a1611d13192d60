"""Metrics of embeddings against their formulas written out."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from distilmatch.errors import DataError, ModelError
from distilmatch.metrics import alignment, cosine_spearman, similarity, uniformity


@given(st.integers(0, 1000), st.integers(2, 7))
def test_against_plain_loops(seed: int, n: int) -> None:
    rng = np.random.default_rng(seed)
    left, right, gold = rng.normal(size=(n, 3)), rng.normal(size=(n, 3)), rng.normal(size=n)
    one, two = ([row / np.linalg.norm(row) for row in rows] for rows in (left, right))
    near = [sum((a - b) ** 2) for a, b in zip(one, two, strict=True)]
    assert alignment(left, 5 * right) == pytest.approx(sum(near) / n)
    pairs = [math.exp(-2 * sum((one[i] - one[j]) ** 2)) for i in range(n) for j in range(n) if i != j]
    assert uniformity(left) == pytest.approx(math.log(sum(pairs) / len(pairs)))
    old, similarity._BLOCK = similarity._BLOCK, 2
    try:
        assert uniformity(left) == pytest.approx(math.log(sum(pairs) / len(pairs)))
    finally:
        similarity._BLOCK = old
    expected = stats.spearmanr([a @ b for a, b in zip(one, two, strict=True)], gold).statistic
    assert cosine_spearman(left, right, gold) == pytest.approx(expected)


def test_what_cannot_be_measured() -> None:
    ones = np.ones((2, 3))
    assert cosine_spearman(ones, ones, np.array([1.0, 2.0])) == 0.0 and uniformity(ones[:1]) == 0.0
    with pytest.raises(DataError, match="no pairs"):
        alignment(ones, np.ones((3, 3)))
    with pytest.raises(DataError, match="gold scores"):
        cosine_spearman(ones, ones, np.array([1.0, np.nan]))
    with pytest.raises(ModelError, match="row 2 is not finite"):
        uniformity(np.array([[1.0], [np.inf]]))
    with pytest.raises(DataError, match="one text or more"):
        uniformity(np.empty((0, 3)))
