"""Bounds in bytes: what they leave out is never among what was asked for, to the last bit of what is kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distilmatch.config.tables import TaskConfig
from distilmatch.engine.kernels.native_module import native_module, runs_native
from distilmatch.engine.scan import Blocks
from distilmatch.engine.scorer import Scorer

from .models import make_model, make_sides

pytestmark = pytest.mark.skipif(not runs_native(), reason="this CPU does not run the kernels")

ASKED = ("logit", 0, [])


def head_of(weights: np.ndarray, bias: float, use_bounds: bool, use_gelu: bool = False, products: int = 0) -> Any:
    head = native_module().FeedForwardHead(use_gelu, weights, np.array([bias], dtype=np.float32), products)
    head.use_bounds = use_bounds
    return head


def best_of(head: Any, left: np.ndarray, right: np.ndarray, k: int, threads: int, cuts: list[int]) -> Any:
    """The best of blocks of right texts, one after another into the same heaps."""
    best = native_module().TopK(len(left), k)
    edges = [0, *cuts, len(right)]
    for start, stop in zip(edges, edges[1:], strict=False):
        head.top_k(left, right[start:stop], *ASKED, best, None, 0, start, threads)
    return best.best()


def above_of(
    head: Any, left: np.ndarray, right: np.ndarray, threshold: float, threads: int
) -> dict[tuple[int, int], float]:
    rows, scores = head.above(left, right, *ASKED, threshold, 0, 0, threads)
    return {(int(a), int(b)): float(score) for (a, b), score in zip(rows, scores, strict=True)}


def numbers(rng: np.random.Generator, kind: str, rows: int, hidden: int) -> np.ndarray:
    """(rows, hidden) of a kind that a grid could be wrong on."""
    found = rng.standard_normal((rows, hidden))
    if kind == "outliers":
        found *= np.exp(3 * rng.standard_normal((rows, 1)))
    elif kind == "columns":
        found *= 10.0 ** rng.integers(-6, 6, hidden)
    elif kind == "constant":
        found[:, ::2] = -1.5
    elif kind == "few":
        found = np.round(found)
    elif kind == "near":  # all texts nearly alike
        found = found[:1] + 1e-4 * found
    return found.astype(np.float32)


KINDS = ["usual", "outliers", "columns", "constant", "few", "near"]


@settings(max_examples=60, deadline=None)
@given(
    kinds=st.tuples(st.sampled_from(KINDS), st.sampled_from(KINDS)),
    hidden=st.sampled_from([16, 48, 64, 256]),
    counts=st.tuples(st.integers(64, 150), st.integers(64, 1_300)),
    k=st.integers(1, 70),
    threads=st.integers(1, 3),
    shift=st.sampled_from([0.0, -2.0, 3.0]),
    use_gelu=st.booleans(),
    products=st.sampled_from([0, 0, 16, 80]),
    seed=st.integers(0, 10_000),
)
def test_the_same_with_bounds(
    kinds: tuple[str, str],
    hidden: int,
    counts: tuple[int, int],
    k: int,
    threads: int,
    shift: float,
    use_gelu: bool,
    products: int,
    seed: int,
) -> None:
    rng = np.random.default_rng(seed)
    left = numbers(rng, kinds[0], counts[0], hidden + products) + np.float32(shift)
    right = numbers(rng, kinds[1], counts[1], hidden + products)
    weights = rng.standard_normal((1, hidden)).astype(np.float32)
    weights[0, rng.random(hidden) < 0.2] = 0
    weights[0, rng.random(hidden) < 0.1] = 1e-39
    bounded, full = (head_of(weights, 0.3, use_bounds, use_gelu, products) for use_bounds in (True, False))
    cuts = [64, 200] if counts[1] > 300 else []
    for found, expected in zip(
        best_of(bounded, left, right, k, threads, cuts), best_of(full, left, right, k, 1, []), strict=True
    ):
        np.testing.assert_array_equal(found, expected)
    expected_scores = best_of(full, left, right, min(k, len(right)), 1, [])[0]
    for threshold in (float(np.median(expected_scores[:, -1])), float(expected_scores.max()), -np.inf, np.inf):
        assert above_of(bounded, left, right, threshold, threads) == above_of(full, left, right, threshold, 1)
    assert full.left_out == 0


@pytest.mark.parametrize("use_gelu", [False, True])
@pytest.mark.parametrize("k", [1, 10])
def test_most_pairs_are_left_out(k: int, use_gelu: bool) -> None:
    rng = np.random.default_rng(0)
    left, right = numbers(rng, "usual", 300, 64), numbers(rng, "usual", 30_000, 64)
    head = head_of(rng.standard_normal((1, 64)).astype(np.float32), 0.0, True, use_gelu)
    best_of(head, left, right, k, 1, [])
    assert 0.9 < head.left_out / (300 * 30_000) < 1


@pytest.mark.parametrize("number", [np.nan, np.inf, 3e38])
@pytest.mark.parametrize("side", [0, 1])
def test_what_is_not_finite_is_named_all_the_same(number: float, side: int) -> None:
    rng = np.random.default_rng(1)
    sides = [numbers(rng, "usual", 100, 32), numbers(rng, "usual", 2_000, 32)]
    sides[side][71] = number
    weights = np.full((1, 32), 2.0, dtype=np.float32)
    told = []
    for use_bounds in (True, False):
        with pytest.raises(FloatingPointError) as error:
            best_of(head_of(weights, 0.0, use_bounds), *sides, 3, 1, [])
        told.append(error.value.args)
    assert told[0] == told[1]


@pytest.mark.parametrize("products", [0, 48])
def test_pairs_by_row_numbers_and_all_pairs_agree(products: int) -> None:
    rng = np.random.default_rng(2)
    left, right = (numbers(rng, "usual", count, 32 + products) for count in (70, 90))
    weights = rng.standard_normal((1, 32)).astype(np.float32)
    head = head_of(weights, 0.5, True, products=products)
    hidden = np.maximum(left[:, None, :32].astype(np.float64) + right[None, :, :32], 0)
    expected = hidden @ weights[0] + 0.5 + left[:, 32:].astype(np.float64) @ right[:, 32:].T
    rows = np.stack(np.unravel_index(np.arange(70 * 90), (70, 90)), 1).astype(np.int64)
    logits = np.empty((len(rows), 1), dtype=np.float32)
    head.score(left, right, rows, logits, 2)
    np.testing.assert_allclose(logits[:, 0].reshape(70, 90), expected, atol=1e-4)
    scores, found = best_of(head, left, right, 90, 2, [])
    np.testing.assert_allclose(scores, np.take_along_axis(expected, found, 1), atol=1e-4)
    assert (np.sort(found, 1) == np.arange(90)).all()


@pytest.mark.parametrize("activation", ["relu", "gelu"])
@pytest.mark.parametrize("head", ["feed_forward", "feed_forward_compared"])
def test_a_job_says_how_many_pairs_it_skipped(tiny_encoder: Path, head: str, activation: str) -> None:
    model = make_model(tiny_encoder, head, TaskConfig(kind="binary"), head_activation=activation)
    sides = make_sides(model, 80, 3_000)
    scorer = Scorer(model, kernel="native")
    found = scorer.best(*sides, 2)
    assert 0 < scorer.kernel.skipped_pairs < 80 * 3_000
    expected = Scorer(model, kernel="torch").best(*sides, 2)
    np.testing.assert_allclose(found.ranked, expected.ranked, atol=1e-3)
    assert np.mean(found.rows == expected.rows) > 0.95


def test_calls_grow_while_they_are_short_and_find_little() -> None:
    blocks = Blocks(columns=10, pairs_a_call=1_000, most_pairs=4_000)
    for found in (None, 5):
        assert [blocks.next_call(pairs, found, 0.1) for pairs in (1_000, 2_000, 4_000)] == [2_000, 4_000, 4_000]
        assert blocks.next_call(2_000, found, 3.0) == 2_000
        assert [blocks.next_call(pairs, found, 5.0) for pairs in (4_000, 2_000, 1_000)] == [2_000, 1_000, 1_000]
    assert [blocks.next_call(pairs, 2**21, 0.1) for pairs in (4_000, 2_000, 1_000)] == [2_000, 1_000, 1_000]
