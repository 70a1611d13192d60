"""Quality against gold labels, by the kind of task.

Shape legend: n rows; c labels; q queries.
"""

from __future__ import annotations

import numpy as np
from scipy.special import expit
from sklearn import metrics as sk

from distilmatch.config.tables import TaskConfig
from distilmatch.errors import DataError
from distilmatch.metrics.checks import checked_logits, pearson, spearman

_MAIN = {"classification": "accuracy", "binary": "auc", "regression": "spearman", "ranking": "ndcg@10"}
CUTOFF = 10
RARE = 0.25
"""The share of rows below which matches, or a class, are rare."""


def main_metric(task: TaskConfig, gold: np.ndarray | None = None) -> str:
    """The name of the metric by which models of a task are compared; more is better for all of them.

    Args:
        gold: (n,) labels of the rows that it is measured on, NaN where there is none. Where less than a quarter of them are
            matches it is average_precision in place of auc, which is near 1 then for models that users would tell apart.
    """
    if task.kind == "binary" and gold is not None:
        labels = np.asarray(gold, dtype=np.float64)
        labels = labels[~np.isnan(labels)]
        if len(labels) and np.mean(labels >= 0.5) < RARE:
            return "average_precision"
    return _MAIN[task.kind]


def task_metrics(
    task: TaskConfig, gold: np.ndarray, logits: np.ndarray, queries: np.ndarray | None = None
) -> dict[str, float]:
    """The metrics of a task.

    classification: accuracy and macro_f1 (mean over the classes that occur in gold or prediction) of the argmax.
    binary: auc and average_precision of the logit; accuracy and f1 at logit > 0; a soft gold label counts as 1 from
    0.5 on. regression: spearman of the logit; pearson and rmse of its sigmoid stretched over `label_range`.
    ranking: ndcg@10 (gain = relevance), map and mrr@10 (relevant = above 0), mean over the queries with a relevant
    row; of equal logits the less relevant row counts as ranked first, so that ties never flatter and the order of
    the rows never matters.

    Args:
        gold: (n,) labels, none of them NaN.
        logits: (n, c) raw logits; (n,) will do for one label.
        queries: (n,) which query a row belongs to; ranking only.

    Returns:
        plain floats by name; a correlation with constant scores is 0.

    Raises:
        DataError: no rows, shapes that do not fit, NaN in `gold`, or labels for which the metrics are not defined
            (one label only; no query with a relevant row).
        ModelError: logits that are NaN or infinite.
    """
    scores = checked_logits(task, logits, "task metrics")
    labels = np.asarray(gold, dtype=np.float64)
    if labels.shape != (len(scores),):
        raise DataError(f"task metrics: expected {len(scores)} gold labels, one a row, not shape {labels.shape}")
    if not np.isfinite(labels).all():
        missing = int((~np.isfinite(labels)).sum())
        raise DataError(f"task metrics: {missing} of {len(labels)} rows have no gold label; leave them out first")
    if task.kind == "classification":
        return _classification(labels, scores)
    if task.kind == "binary":
        return _binary(labels, scores[:, 0])
    if task.kind == "regression":
        return _regression(labels, scores[:, 0], task.label_range)
    if queries is None or np.shape(queries) != labels.shape:
        raise DataError("ranking metrics need `queries`, the number of its query for each row")
    return ranking_metrics(labels, scores[:, 0], np.asarray(queries))


def _classification(labels: np.ndarray, scores: np.ndarray) -> dict[str, float]:
    if not np.isin(labels, np.arange(scores.shape[1])).all():
        raise DataError(f"task metrics: gold labels must be class indices from 0 to {scores.shape[1] - 1}")
    classes, predicted = labels.astype(np.int64), scores.argmax(axis=1)
    return {
        "accuracy": float(sk.accuracy_score(classes, predicted)),
        "macro_f1": float(sk.f1_score(classes, predicted, average="macro", zero_division=0.0)),
    }


def _binary(labels: np.ndarray, scores: np.ndarray) -> dict[str, float]:
    if labels.min() < 0 or labels.max() > 1:
        raise DataError("task metrics: binary gold labels must lie between 0 and 1")
    positive, predicted = labels >= 0.5, scores > 0
    if positive.all() or not positive.any():
        raise DataError(
            f"task metrics: all {len(labels)} gold labels are {'positive' if positive[0] else 'negative'}; AUC needs "
            "rows of both labels"
        )
    return {
        "auc": float(sk.roc_auc_score(positive, scores)),
        "average_precision": float(sk.average_precision_score(positive, scores)),
        "accuracy": float(sk.accuracy_score(positive, predicted)),
        "f1": float(sk.f1_score(positive, predicted, zero_division=0.0)),
    }


def _regression(labels: np.ndarray, scores: np.ndarray, label_range: tuple[float, float]) -> dict[str, float]:
    if len(labels) < 2 or np.ptp(labels) == 0:
        raise DataError("task metrics: correlations need gold labels that are not all the same")
    lowest, highest = label_range
    values = lowest + expit(scores) * (highest - lowest)
    return {
        "spearman": spearman(labels, scores),  # of the logits: the sigmoid keeps their order, and large ones apart
        "pearson": pearson(labels, values),
        "rmse": float(np.sqrt(np.mean((labels - values) ** 2))),
    }


def _ranks(order: np.ndarray, queries: np.ndarray) -> np.ndarray:
    """The 1-based rank of each row within its query, where `order` lists the rows query by query, best first."""
    sorted_queries = queries[order]
    starts = np.flatnonzero(np.r_[True, sorted_queries[1:] != sorted_queries[:-1]])
    counts = np.diff(np.r_[starts, len(order)])
    ranks = np.empty(len(order), dtype=np.int64)
    ranks[order] = np.arange(len(order)) - np.repeat(starts, counts) + 1
    return ranks


def ranking_metrics(gold: np.ndarray, scores: np.ndarray, queries: np.ndarray) -> dict[str, float]:
    """ndcg@10, map and mrr@10 as `task_metrics` describes them, of (n,) relevances, scores and query numbers.

    Raises:
        DataError: no query has a relevant row, or a relevance is below 0.
    """
    if gold.min() < 0:
        raise DataError("task metrics: a graded relevance must be 0 or more")
    _, query = np.unique(queries, return_inverse=True)
    relevant = gold > 0
    judged = np.bincount(query, weights=relevant) > 0
    if not judged.any():
        raise DataError("task metrics: no query has a row with a relevance above 0, so there is nothing to rank")
    # `lexsort` takes its last key first.
    order = np.lexsort((gold, -scores, query))
    rank = _ranks(order, query)
    ideal = _ranks(np.lexsort((-gold, query)), query)

    def gain(ranks: np.ndarray) -> np.ndarray:
        discounted = np.where(ranks <= CUTOFF, gold / np.log2(ranks + 1.0), 0.0)
        return np.bincount(query, weights=discounted)

    # Relevant rows up to each row, its own included, within its query.
    sorted_hits = np.cumsum(relevant[order])
    hits = np.empty(len(gold))
    hits[order] = sorted_hits
    per_query = np.bincount(query, weights=relevant)
    hits -= np.r_[0.0, np.cumsum(per_query)[:-1]][query]

    precision = np.bincount(query, weights=np.where(relevant, hits / rank, 0.0))
    reciprocal = np.zeros(len(judged))
    np.maximum.at(reciprocal, query, np.where(relevant & (rank <= CUTOFF), 1.0 / rank, 0.0))
    return {
        f"ndcg@{CUTOFF}": float(np.mean(gain(rank)[judged] / gain(ideal)[judged])),
        "map": float(np.mean(precision[judged] / per_query[judged])),
        f"mrr@{CUTOFF}": float(np.mean(reciprocal[judged])),
    }
