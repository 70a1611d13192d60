"""One rule for equal scores, the lower row first, wherever matches are put in order."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from distilmatch.engine.kernels.native_module import NativeBestRows, runs_native
from distilmatch.engine.ranking import BestRows, best_first

few = st.sampled_from([-1.0, 0.0, 0.5, 2.0])  # so that most scores have equals


def _slow(scores: list[float], rows: list[int]) -> list[int]:
    return sorted(range(len(rows)), key=lambda i: (-scores[i], rows[i]))


@given(st.lists(few, min_size=1, max_size=30), st.randoms(use_true_random=False))
def test_the_order_is_by_score_then_row(scores: list[float], random: object) -> None:
    rows = list(range(len(scores)))
    random.shuffle(rows)  # type: ignore[attr-defined]
    expected = _slow(scores, rows)
    assert best_first(np.float32([scores]), np.array([rows]))[0].tolist() == expected
    both = best_first(np.float32(scores * 2), np.array(rows * 2), np.repeat([0, 1], len(rows)))
    assert both.tolist() == expected + [place + len(rows) for place in expected]


@pytest.mark.parametrize("best_rows", [BestRows, NativeBestRows])
@given(st.lists(few, min_size=1, max_size=40), st.integers(1, 8), st.integers(1, 40))
def test_blocks_of_scores_are_kept_in_that_order(best_rows: type, scores: list[float], k: int, cut: int) -> None:
    if best_rows is NativeBestRows and not runs_native():
        pytest.skip("no compiled kernels here")
    kept = best_rows(1, min(k, len(scores)))
    blocks = [(start, scores[start : start + cut]) for start in range(0, len(scores), cut)]
    for start, block in reversed(blocks):
        kept.add(0, torch.tensor([block]), start)
    rows = np.arange(len(scores))
    expected = best_first(np.float32(scores), rows)[: min(k, len(scores))]
    ranked, columns = kept.best()
    assert columns[0].tolist() == expected.tolist() and ranked[0].tolist() == [scores[i] for i in expected]
