"""Metrics against values worked out by hand, scikit-learn, and slow oracles."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, ndcg_score

from distilmatch.config.tables import TaskConfig
from distilmatch.errors import DataError, ModelError
from distilmatch.metrics import agreement_metrics, main_metric, task_metrics

CLASSES = TaskConfig(kind="classification", classes=("a", "b", "c"))
BINARY = TaskConfig(kind="binary")
REGRESSION = TaskConfig(kind="regression", label_range=(1.0, 5.0))
RANKING = TaskConfig(kind="ranking")


def _logit(p: float) -> float:
    return math.log(p / (1 - p))


def test_main_metric_is_among_the_metrics_of_its_task() -> None:
    gold = np.array([0.0, 1.0, 1.0])
    for task, labels in ((CLASSES, gold), (BINARY, gold), (REGRESSION, gold + 1), (RANKING, gold)):
        logits = np.arange(3.0 * task.num_labels).reshape(3, -1)
        found = task_metrics(task, labels, logits, np.zeros(3, dtype=np.int64))
        assert main_metric(task) in found
        assert all(type(value) is float for value in found.values())
    assert [main_metric(task) for task in (CLASSES, BINARY, REGRESSION, RANKING)] == [
        "accuracy",
        "auc",
        "spearman",
        "ndcg@10",
    ]


def test_rare_matches_are_compared_by_average_precision() -> None:
    rare, common = np.array([1.0, 0, 0, 0, 0, np.nan]), np.array([1.0, 0, 0, 1])
    assert main_metric(BINARY, rare) == "average_precision"
    assert main_metric(BINARY, common) == main_metric(BINARY, np.array([np.nan])) == "auc"
    assert main_metric(REGRESSION, rare) == "spearman"


def test_classification_by_hand() -> None:
    logits = np.array([[2.0, 0, 0], [0, 2, 0], [0, 2, 0], [0, 0, 2]])
    found = task_metrics(CLASSES, np.array([0, 1, 2, 2]), logits)
    # class a: F1 1; b: precision 1/2, recall 1; c: precision 1, recall 1/2
    assert found == pytest.approx({"accuracy": 0.75, "macro_f1": (1 + 2 / 3 + 2 / 3) / 3})


def test_binary_by_hand() -> None:
    gold = np.array([1, 0, 1, 0], dtype=np.float32)
    found = task_metrics(BINARY, gold, np.array([[3.0], [1.0], [-1.0], [-2.0]]))
    # three of the four (positive, negative) pairs stand right; precision at the positives 1/1 and 2/3
    assert found == pytest.approx({"auc": 0.75, "average_precision": 5 / 6, "accuracy": 0.5, "f1": 0.5})


def test_binary_threshold_is_above_zero_and_soft_labels_count_from_a_half() -> None:
    found = task_metrics(BINARY, np.array([0.5, 0.49, 0.9]), np.array([0.0, -1.0, 1e-6]))
    assert found["accuracy"] == pytest.approx(2 / 3)
    assert found["auc"] == 1.0


def test_regression_by_hand() -> None:
    values = np.array([1.4, 3.0, 4.6])  # stretched over 1..5: sigmoids 0.1, 0.5, 0.9
    logits = np.array([[_logit(0.1)], [_logit(0.5)], [_logit(0.9)]])
    found = task_metrics(REGRESSION, values + 0.5, logits)
    assert found == pytest.approx({"spearman": 1.0, "pearson": 1.0, "rmse": 0.5})
    found = task_metrics(REGRESSION, np.array([2.0, 1.0, 3.0]), logits)
    assert found["spearman"] == pytest.approx(0.5)
    assert found["pearson"] == pytest.approx(0.5)


def test_regression_keeps_large_logits_apart() -> None:
    found = task_metrics(REGRESSION, np.array([1.0, 2.0, 3.0]), np.array([50.0, 60.0, 70.0]))
    assert found["spearman"] == pytest.approx(1.0)
    assert task_metrics(REGRESSION, np.array([1.0, 2.0, 3.0]), np.zeros(3))["spearman"] == 0.0


def test_ranking_by_hand() -> None:
    #        query 7: relevance by score 0, 2, 1       query 3: 1, 0     query 9: nothing relevant
    gold = np.array([2, 0, 1, 1, 0, 0, 0], dtype=np.float32)
    logits = np.array([[0.5], [0.9], [0.1], [2.0], [1.0], [1.0], [3.0]])
    queries = np.array([7, 7, 7, 3, 3, 9, 9])
    found = task_metrics(RANKING, gold, logits, queries)
    dcg = 2 / math.log2(3) + 1 / math.log2(4)
    ideal = 2 / math.log2(2) + 1 / math.log2(3)
    assert found["ndcg@10"] == pytest.approx((dcg / ideal + 1) / 2)
    assert found["map"] == pytest.approx(((1 / 2 + 2 / 3) / 2 + 1) / 2)
    assert found["mrr@10"] == pytest.approx((1 / 2 + 1) / 2)


def test_ranking_looks_at_ten_rows() -> None:
    gold = np.zeros(12)
    gold[10] = 1
    found = task_metrics(RANKING, gold, -np.arange(12.0), np.zeros(12, dtype=np.int64))
    assert found == pytest.approx({"ndcg@10": 0.0, "map": 1 / 11, "mrr@10": 0.0})


@given(st.integers(0, 10_000))
@settings(max_examples=60, deadline=None)
def test_ranking_equals_scikit_learn_where_no_scores_tie(seed: int) -> None:
    rng = np.random.default_rng(seed)
    queries = rng.integers(0, 5, 60)
    gold = rng.integers(0, 4, 60) * (rng.random(60) < 0.4)
    scores = rng.permutation(60).astype(float)
    ndcg, precision = [], []
    for query in np.unique(queries):
        mine = queries == query
        if mine.sum() < 2 or gold[mine].max() == 0:
            if gold[mine].max() > 0:
                return
            continue
        ndcg.append(ndcg_score([gold[mine]], [scores[mine]], k=10))
        precision.append(average_precision_score(gold[mine] > 0, scores[mine]))
    if not ndcg:
        return
    found = task_metrics(RANKING, gold, scores, queries)
    assert found["ndcg@10"] == pytest.approx(np.mean(ndcg))
    assert found["map"] == pytest.approx(np.mean(precision))


@given(st.integers(0, 10_000))
@settings(max_examples=40, deadline=None)
def test_the_order_of_the_rows_never_matters(seed: int) -> None:
    rng = np.random.default_rng(seed)
    queries, gold = rng.integers(0, 4, 40), rng.integers(0, 3, 40)
    gold[0] = 1
    scores = rng.integers(0, 3, 40).astype(float)  # many ties
    shuffled = rng.permutation(40)
    expected = task_metrics(RANKING, gold, scores, queries)
    assert task_metrics(RANKING, gold[shuffled], scores[shuffled], queries[shuffled]) == pytest.approx(expected)


def test_ties_do_not_flatter() -> None:
    found = task_metrics(RANKING, np.array([1, 0, 0, 0]), np.zeros(4), np.zeros(4, dtype=np.int64))
    assert found["mrr@10"] == 0.25 and found["map"] == 0.25


def test_agreement_by_hand() -> None:
    student = np.log(np.array([[0.5, 0.25, 0.25], [0.1, 0.8, 0.1]]))
    teacher = np.log(np.array([[0.25, 0.5, 0.25], [0.1, 0.8, 0.1]])) + 3  # a softmax ignores the shift
    found = agreement_metrics(CLASSES, student, teacher)
    kl = 0.25 * math.log(0.25 / 0.5) + 0.5 * math.log(0.5 / 0.25)
    assert found == pytest.approx({"agreement": 0.5, "kl": kl / 2})
    found = agreement_metrics(BINARY, np.array([_logit(0.2), _logit(0.4)]), np.array([_logit(0.3), _logit(0.7)]))
    assert found == pytest.approx({"spearman": 1.0, "pearson": 1.0, "mae": 0.2})
    assert agreement_metrics(RANKING, np.zeros((3, 1)), np.arange(3.0))["spearman"] == 0.0


@pytest.mark.parametrize(
    ("task", "gold", "logits", "message"),
    [
        (BINARY, [], np.zeros((0, 1)), "no rows"),
        (BINARY, [1, 1], np.zeros((2, 1)), "all 2 gold labels are positive"),
        (BINARY, [0, np.nan], np.zeros((2, 1)), "1 of 2 rows have no gold label"),
        (BINARY, [0, 1], np.zeros((2, 2)), "expected \\(rows, 1\\)"),
        (BINARY, [0, 1, 1], np.zeros((2, 1)), "expected 2 gold labels"),
        (BINARY, [0, 2], np.zeros((2, 1)), "between 0 and 1"),
        (CLASSES, [0, 3], np.zeros((2, 3)), "class indices"),
        (REGRESSION, [2, 2], np.zeros((2, 1)), "all the same"),
        (RANKING, [0, 1], np.zeros((2, 1)), "queries"),
    ],
)
def test_what_cannot_be_measured_raises(task: TaskConfig, gold: list, logits: np.ndarray, message: str) -> None:
    with pytest.raises(DataError, match=message):
        task_metrics(task, np.array(gold), logits)


def test_ranking_without_relevant_rows_raises() -> None:
    with pytest.raises(DataError, match="no query"):
        task_metrics(RANKING, np.zeros(2), np.zeros(2), np.zeros(2))
    with pytest.raises(DataError, match="0 or more"):
        task_metrics(RANKING, np.array([-1.0, 1]), np.zeros(2), np.zeros(2))


def test_scores_that_are_not_finite_raise() -> None:
    with pytest.raises(ModelError, match="1 of 2 rows have NaN"):
        task_metrics(BINARY, np.array([0, 1]), np.array([0.0, np.nan]))
    with pytest.raises(ModelError, match="teacher"):
        agreement_metrics(BINARY, np.zeros(2), np.array([0.0, np.inf]))
    with pytest.raises(DataError, match="scored 2 rows, the teacher 3"):
        agreement_metrics(BINARY, np.zeros(2), np.zeros(3))
    with pytest.raises(DataError, match="no rows"):
        agreement_metrics(BINARY, np.zeros(0), np.zeros(0))
