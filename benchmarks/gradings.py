"""How a set is graded: functions of gold labels, scores and queries, with whatever they choose chosen on dev.

Scores are fp32 or fp64. Of equal scores the less relevant row counts as ranked first, so that ties never flatter.

Shape legend: n rows; c labels; q queries; k matches kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from sklearn.metrics import average_precision_score

from distilmatch.metrics.checks import pearson, spearman


@dataclass(frozen=True, kw_only=True)
class Answers:
    """(n,) gold labels of a split, (n, c) scores of a model, and (n,) which query each row belongs to."""

    gold: np.ndarray
    scores: np.ndarray
    queries: np.ndarray

    @property
    def one(self) -> np.ndarray:
        """(n,) float64 scores of a model with one label."""
        assert self.scores.ndim == 1 or self.scores.shape[1] == 1
        return self.scores.reshape(len(self.scores)).astype(np.float64)


Grading = Callable[[Answers, Answers], dict[str, float]]
"""Of the answers on dev, by which thresholds are chosen, and those that are graded."""


def accuracy(dev: Answers, graded: Answers) -> dict[str, float]:
    """The share of rows whose highest score is of the right class."""
    return {"accuracy": float((graded.scores.argmax(1) == graded.gold).mean())}


def correlations(dev: Answers, graded: Answers) -> dict[str, float]:
    """Spearman's correlation over all pairs; 0 of constant scores."""
    return {"spearman": spearman(graded.gold, graded.one)}


def similarity(dev: Answers, graded: Answers) -> dict[str, float]:
    """Spearman's and Pearson's correlation over all pairs, the latter of the scores as they are."""
    return {"spearman": spearman(graded.gold, graded.one), "pearson": pearson(graded.gold, graded.one)}


def matches(dev: Answers, graded: Answers) -> dict[str, float]:
    """F1 at the threshold that is best on dev, the threshold, and the average precision, which needs none."""
    threshold = best_threshold(dev.gold, dev.one)
    return {
        "f1": f1_at(graded.gold, graded.one, threshold),
        "average_precision": float(average_precision_score(graded.gold >= 0.5, graded.one)),
        "threshold": threshold,
    }


def answers(dev: Answers, graded: Answers) -> dict[str, float]:
    """MAP and MRR over the questions that have a right and a wrong answer, without a cut-off.

    The usual figures of answer selection leave out questions without a right answer, for which neither is defined, and
    those whose answers are all right, which any order ranks perfectly.
    """
    return {
        "map": over_queries(graded, average_precision, both_labels),
        "mrr": over_queries(graded, reciprocal_rank, both_labels),
    }


def graded_search(dev: Answers, graded: Answers) -> dict[str, float]:
    """Spearman over all pairs, and nDCG@10 with the gain relevance - 1 over the queries whose rows differ in grade.

    The grades begin at 1, "irrelevant". A query of one grade has one nDCG in any order.
    """
    gained = Answers(gold=graded.gold - 1, scores=graded.scores, queries=graded.queries)
    return correlations(dev, graded) | {"ndcg10": over_queries(gained, ndcg, two_grades)}


def reranking(dev: Answers, graded: Answers) -> dict[str, float]:
    """nDCG@10 with the gain relevance, and MAP, over the queries with a relevant row."""
    return {
        "ndcg10": over_queries(graded, ndcg, any_relevant),
        "map": over_queries(graded, average_precision, any_relevant),
    }


def over_queries(graded: Answers, metric: Callable[[np.ndarray], float], counts: Callable[[np.ndarray], bool]) -> float:
    """The mean of a metric of (m,) gold labels, best ranked first, over the queries whose labels count.

    Raises:
        ValueError: no query counts.
    """
    order = np.lexsort((graded.gold, -graded.one, graded.queries))
    gold, queries = graded.gold[order].astype(np.float64), graded.queries[order]
    lists = np.split(gold, np.flatnonzero(np.diff(queries)) + 1)
    values = [metric(own) for own in lists if counts(own)]
    if not values:
        raise ValueError("no query has rows that this metric could tell apart")
    return float(np.mean(values))


def both_labels(gold: np.ndarray) -> bool:
    """Whether a query has a relevant row and an irrelevant one."""
    return bool((gold > 0).any() and (gold <= 0).any())


def two_grades(gold: np.ndarray) -> bool:
    """Whether a query's rows differ in grade."""
    return bool(np.ptp(gold) > 0)


def any_relevant(gold: np.ndarray) -> bool:
    """Whether a query has a relevant row."""
    return bool((gold > 0).any())


def average_precision(ranked: np.ndarray) -> float:
    """The mean over relevant rows of the share of relevant ones down to it."""
    relevant = ranked > 0
    precisions = np.cumsum(relevant) / np.arange(1, len(ranked) + 1)
    return float(precisions[relevant].mean())


def reciprocal_rank(ranked: np.ndarray) -> float:
    """One over the rank of the first relevant row."""
    return 1.0 / (1 + int(np.argmax(ranked > 0)))


def ndcg(ranked: np.ndarray, cutoff: int = 10) -> float:
    """NDCG (Järvelin and Kekäläinen 2002) with the label as gain, down to `cutoff`."""
    discounts = 1 / np.log2(np.arange(2, 2 + min(cutoff, len(ranked))))
    best = np.sort(ranked)[::-1][:cutoff] @ discounts
    return float(ranked[:cutoff] @ discounts / best)


def best_threshold(gold: np.ndarray, scores: np.ndarray) -> float:
    """The threshold with the highest F1, half way between two neighbouring scores; of several the highest one.

    Args:
        gold: (n,) labels, positive from 0.5 on.
        scores: (n,); a row counts as a match above the threshold.
    """
    order = np.argsort(-scores, kind="stable")
    ranked, hits = scores[order], np.cumsum(gold[order] >= 0.5)
    last = np.r_[ranked[1:] != ranked[:-1], True]  # equal scores fall on one side
    f1 = np.where(last, 2 * hits / (np.arange(1, len(ranked) + 1) + hits[-1]), -1.0)
    at = int(np.argmax(f1))
    below = ranked[at + 1] if at + 1 < len(ranked) else ranked[at] - 1.0
    return float((ranked[at] + below) / 2)


def f1_at(gold: np.ndarray, scores: np.ndarray, threshold: float) -> float:
    """F1 of the rows above a threshold; 0 where none is right."""
    positive, predicted = gold >= 0.5, scores > threshold
    right = int((positive & predicted).sum())
    return 2 * right / max(1, int(positive.sum()) + int(predicted.sum()))


def recall_at(best: Sequence[Sequence[int]], known: Iterable[tuple[int, int]], k: int) -> float:
    """The share of known (left, right) matches among the `k` best rights of their lefts.

    Args:
        best: of each left its rights, best first; fewer than `k` will do.
    """
    pairs = list(known)
    return sum(right in best[left][:k] for left, right in pairs) / len(pairs)
