"""Grading functions beside slow, obvious ones on random input with ties."""

from __future__ import annotations

import math

import numpy as np
import pytest
from benchmarks.gradings import Answers
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import f1_score

from benchmarks import gradings

ROWS = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3), st.integers(0, 4)), min_size=2, max_size=40)


def _answers(rows: list[tuple[int, int, int]]) -> Answers:
    gold, scores, queries = (np.array(column) for column in zip(*rows, strict=True))
    return Answers(gold=gold, scores=scores[:, None].astype(np.float32), queries=queries)


def _ranked(rows: list[tuple[int, int, int]], query: int) -> list[int]:
    # The labels of a query, best score first; of equal scores the lower label first.
    return [gold for _, gold in sorted((-score, gold) for gold, score, own in rows if own == query)]


def _slow_ap(ranked: list[int]) -> float:
    found = [sum(x > 0 for x in ranked[: i + 1]) / (i + 1) for i, label in enumerate(ranked) if label > 0]
    return sum(found) / len(found)


def _slow_ndcg(ranked: list[int]) -> float:
    def gain(labels: list[int]) -> float:
        return sum(label / math.log2(place + 2) for place, label in enumerate(labels[:10]))

    return gain(ranked) / gain(sorted(ranked, reverse=True))


@given(ROWS)
def test_answers_are_graded_where_a_right_and_a_wrong_one_stand(rows: list[tuple[int, int, int]]) -> None:
    lists = [_ranked(rows, query) for query in {row[2] for row in rows}]
    lists = [own for own in lists if any(x > 0 for x in own) and any(x == 0 for x in own)]
    if not lists:
        with pytest.raises(ValueError, match="no query"):
            gradings.answers(_answers(rows), _answers(rows))
        return
    found = gradings.answers(_answers(rows), _answers(rows))
    assert found["map"] == pytest.approx(np.mean([_slow_ap(own) for own in lists]))
    first = [next(i for i, label in enumerate(own) if label > 0) for own in lists]
    assert found["mrr"] == pytest.approx(np.mean([1 / (1 + i) for i in first]))


@given(ROWS)
def test_the_gain_of_a_grade_is_what_it_is_above_one(rows: list[tuple[int, int, int]]) -> None:
    rows = [(gold + 1, score, query) for gold, score, query in rows]
    lists = [[label - 1 for label in _ranked(rows, query)] for query in {row[2] for row in rows}]
    lists = [own for own in lists if len(set(own)) > 1]
    if lists:
        found = gradings.graded_search(_answers(rows), _answers(rows))
        assert found["ndcg10"] == pytest.approx(np.mean([_slow_ndcg(own) for own in lists]))


@given(ROWS)
def test_reranking_counts_queries_with_a_relevant_row(rows: list[tuple[int, int, int]]) -> None:
    lists = [own for query in {row[2] for row in rows} if any(own := _ranked(rows, query))]
    if lists:
        found = gradings.reranking(_answers(rows), _answers(rows))
        assert found["ndcg10"] == pytest.approx(np.mean([_slow_ndcg(own) for own in lists]))
        assert found["map"] == pytest.approx(np.mean([_slow_ap(own) for own in lists]))


@given(st.lists(st.tuples(st.booleans(), st.integers(-3, 3)), min_size=1, max_size=30))
def test_no_threshold_is_better_than_the_best(rows: list[tuple[bool, int]]) -> None:
    gold, scores = (np.array(column, dtype=float) for column in zip(*rows, strict=True))
    found = gradings.f1_at(gold, scores, gradings.best_threshold(gold, scores))
    tried = [gradings.f1_at(gold, scores, threshold) for threshold in np.arange(-4, 4, 0.5) + 0.25]
    assert found == pytest.approx(max(tried))
    for threshold in (-1.5, 0.5):
        expected = f1_score(gold > 0, scores > threshold, zero_division=0.0)
        assert gradings.f1_at(gold, scores, threshold) == pytest.approx(expected)


def test_the_threshold_comes_from_dev_alone() -> None:
    dev = Answers(gold=np.array([1, 0]), scores=np.array([3.0, 1.0]), queries=np.zeros(2))
    test = Answers(gold=np.array([1, 0, 1]), scores=np.array([1.5, 0.0, 2.5]), queries=np.zeros(3))
    found = gradings.matches(dev, test)
    assert found["threshold"] == 2.0
    assert found["f1"] == pytest.approx(2 / 3)  # one of two is above it
    assert found["average_precision"] == 1.0


@given(st.lists(st.permutations(range(6)), min_size=1, max_size=5), st.integers(1, 6))
def test_recall_at_k(best: list[list[int]], k: int) -> None:
    known = [(left, right) for left in range(len(best)) for right in range(0, 6, left + 2)]
    hits = [right for left, right in known if right in list(best[left])[:k]]
    assert gradings.recall_at(best, known, k) == pytest.approx(len(hits) / len(known))
    assert gradings.recall_at(best, known, 6) == 1.0


def test_classes_and_correlations() -> None:
    own = Answers(gold=np.array([0, 1, 1]), scores=np.array([[2.0, 1], [0, 3], [5, 4]]), queries=np.zeros(3))
    assert gradings.accuracy(own, own)["accuracy"] == pytest.approx(2 / 3)
    line = Answers(gold=np.array([0.0, 1, 2]), scores=np.array([[0.0], [1], [8]]), queries=np.zeros(3))
    assert gradings.similarity(line, line)["spearman"] == pytest.approx(1.0)
    assert gradings.correlations(line, Answers(gold=line.gold, scores=np.ones((3, 1)), queries=line.queries)) == {
        "spearman": 0.0
    }
