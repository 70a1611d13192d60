"""Simple baselines that the package computes itself: what a teacher or a student must beat to be worth its cost.

Each gives logits as a teacher does, so that the task's metrics are taken of it in the same way. What has to be fitted is
fitted on the gold labels of the train table; the labels of the table that is scored are never read.

Shape legend: n rows of the scored table; m rows of the train table that are fitted on; f features; c labels.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from scipy.special import logit
from sentence_transformers import CrossEncoder, SentenceTransformer
from sklearn.linear_model import LogisticRegression

from distilmatch.config.tables import TaskConfig
from distilmatch.errors import ConfigError, DataError
from distilmatch.metrics import MetricFunction, own_metrics, task_metrics
from distilmatch.pretrained.sentence import load_sentence_encoder
from distilmatch.runtime import Precision
from distilmatch.teachers.lexical import LexicalScores, unit_of
from distilmatch.teachers.untrained import untrained_scores
from distilmatch.types import TupleTable

WORDS, LETTERS, BM25 = "TF-IDF words", "TF-IDF letters", "BM25"
COSINE, MAXSIM = "encoder cosine", "encoder MaxSim"
FEATURES = "simple features"
_CONSTANT = {
    "classification": "largest class",
    "binary": "largest class",
    "regression": "mean label",
    "ranking": "random order",
}
_BY_ORDER = {"auc", "average_precision", "spearman", "ndcg@10", "map", "mrr@10"}
_TEXT_ROWS = 100_000  # rows of the train table whose texts say how rare a term is
_FIT_ROWS, ENCODED_ROWS = 20_000, 2_000  # rows that a regression is fitted on; those of features of an encoder
_WEAK_PENALTY = 10.0
_RARE = 1e-6  # the probability of a class that no train row has


def simple_baselines(
    train: TupleTable | None,
    table: TupleTable,
    task: TaskConfig,
    *,
    base_model: str | Path | CrossEncoder | SentenceTransformer | None = None,
    max_length: int = 128,
    device: str | None = None,
    precision: Precision = "fp32",
    seed: int = 0,
) -> dict[str, np.ndarray]:
    """Logits of the baselines for each row of `table`, by name.

    - "largest class", of binary tasks and of classes; "mean label" of a regression; "random order" of a ranking.
    - "TF-IDF words" and "BM25", of words, and "TF-IDF letters", of three characters in a row: see `LexicalScores`; terms are
      counted in the texts of `train`, without one in those of `table`. Of texts without spaces BM25 is of characters too,
      and there is no "TF-IDF words".
    - "encoder cosine" and "encoder MaxSim", with a `base_model`: see `untrained_scores`.
    - "simple features": all of these scores and the lengths of the texts together.

    How a score becomes logits: for a ranking it is taken as it is. Else a logistic regression of the gold labels (for a
    regression scaled to 0 to 1) is fitted on `train`, on that one score or on all features; of a binary task it is shifted
    so that 0 is the threshold with the best F1 on `train`. A score that falls where the label rises is turned round by it.
    Without gold labels in `train` a score keeps its order alone: only metrics of the order can be taken (`trusted`), and
    what has to be fitted is left out; of classes nothing is left.

    Args:
        train: m rows with gold labels, of which 20,000 are fitted on (2,000 where an encoder reads them), drawn by `seed`.
        table: n rows; its gold labels are not read.
        base_model: the encoder that the teacher or the student starts from, by name or loaded.
        max_length: tokens a text for the encoder.
        device: of a model by name.

    Returns:
        (n, c) float32 raw logits by name.

    Raises:
        ConfigError: rows of more than two texts, or no such folder.
        DataError: gold labels that do not fit the task.
        ModelError: `base_model` cannot be loaded, or has no transformer.
    """
    for each in (train, table):
        if each is not None and each.sides != 2:
            raise ConfigError(f"the simple baselines compare two texts, and a row has {each.sides}: leave them out")
    random = np.random.default_rng(seed)
    learnt = None if train is None else _labelled(train, task)
    source = table if train is None else train
    lexical = _Lexical(source.take(_drawn(len(source), _TEXT_ROWS, random)))
    rows = None
    if learnt is not None:
        rows = learnt.take(_drawn(len(learnt), _FIT_ROWS if base_model is None else ENCODED_ROWS, random))
    tables = [table] if rows is None else [table, rows]
    scored = [lexical.scores(each) for each in tables]
    if base_model is not None:
        named = isinstance(base_model, str | Path)
        encoder = load_sentence_encoder(base_model, device=device) if named else base_model  # type: ignore[arg-type]
        for scores, each in zip(scored, tables, strict=True):
            found = untrained_scores(encoder, each, max_length=max_length, precision=precision)
            scores |= {COSINE: found["cosine"], MAXSIM: found["maxsim"]}
    if learnt is None or rows is None:
        by_order = {} if task.kind == "classification" else {name: _standard(one) for name, one in scored[0].items()}
        return (_random_order(table, random) if task.kind == "ranking" else {}) | by_order
    logits = _random_order(table, random) if task.kind == "ranking" else _constant(learnt, len(table), task)
    for name, score in scored[0].items():
        known = scored[1][name][:, None]
        logits[name] = _standard(score) if task.kind == "ranking" else _fitted(known, rows, score[:, None], task)
    logits[FEATURES] = _fitted(_features(scored[1], rows), rows, _features(scored[0], table), task)
    return logits


def baseline_metrics(
    train: TupleTable,
    dev: TupleTable,
    task: TaskConfig,
    *,
    base_model: str | Path | CrossEncoder | SentenceTransformer | None = None,
    metrics: Mapping[str, MetricFunction] | None = None,
    max_length: int = 128,
    device: str | None = None,
    precision: Precision = "fp32",
    seed: int = 0,
) -> dict[str, dict[str, float]]:
    """The task's metrics of each simple baseline on the rows of `dev` that have a gold label.

    Args:
        train: what the baselines are fitted on.
        metrics: the user's own, by name; one that fails on a baseline, such as a correlation with a constant, is left out.
        base_model, max_length, device, precision, seed: as of `simple_baselines`.

    Returns:
        by the baseline's name, plain floats by the metric's (see `task_metrics`); without gold labels in `train` only metrics
        of the order.

    Raises:
        DataError: no row of `dev` has a gold label, or labels for which the metrics are not defined.
        ConfigError, ModelError: as of `simple_baselines`.
    """
    if dev.gold is None or np.isnan(dev.gold).all():
        raise DataError("the baselines are measured on gold labels, and the dev table has none: name the label column")
    measured = dev.take(~np.isnan(dev.gold))
    assert measured.gold is not None
    logits = simple_baselines(
        train,
        measured,
        task,
        base_model=base_model,
        max_length=max_length,
        device=device,
        precision=precision,
        seed=seed,
    )
    can_fit = has_labels(train)
    queries = measured.queries if task.kind == "ranking" else None
    found = {}
    for name, values in logits.items():
        all_of_it = task_metrics(task, measured.gold, values, queries)
        own = safe_own_metrics(metrics or {}, task, measured.gold, values, queries)
        found[name] = {metric: value for metric, value in all_of_it.items() if trusted(metric, can_fit=can_fit)} | own
    return found


def trusted(metric: str, *, can_fit: bool) -> bool:
    """Whether a metric says something of a baseline: where nothing could be fitted, only one of the order does."""
    return can_fit or metric in _BY_ORDER


def has_labels(table: TupleTable | None) -> bool:
    """Whether baselines can be fitted on a table."""
    return table is not None and table.gold is not None and not np.isnan(table.gold).all()


def safe_own_metrics(
    metrics: Mapping[str, MetricFunction],
    task: TaskConfig,
    gold: np.ndarray,
    logits: np.ndarray,
    queries: np.ndarray | None,
) -> dict[str, float]:
    """As `own_metrics`, without those that fail on these logits: a constant has no correlation.

    Args:
        gold, logits, queries: (n,), (n, c) and (n,).
    """
    values: dict[str, float] = {}
    for name, function in metrics.items():
        try:
            values |= own_metrics({name: function}, task, gold, logits, queries)
        except ConfigError:
            continue
    return values


def _labelled(train: TupleTable, task: TaskConfig) -> TupleTable | None:
    """The rows of the train table that have a gold label; None where none has."""
    if train.gold is None or np.isnan(train.gold).all():
        return None
    known = train.take(~np.isnan(train.gold))
    assert known.gold is not None
    low, high = known.gold.min(), known.gold.max()
    if task.kind == "classification" and not np.isin(known.gold, np.arange(task.num_labels)).all():
        raise DataError(f"gold labels of the train table must be class indices from 0 to {task.num_labels - 1}")
    lowest, highest = {"regression": task.label_range, "binary": (0.0, 1.0)}.get(task.kind, (0.0, np.inf))
    if low < lowest or high > highest:
        raise DataError(f"gold labels of the train table must lie between {lowest:g} and {highest:g} for {task.kind}")
    return known


class _Lexical:
    """The scores that read no model, fitted on the texts of a table."""

    def __init__(self, source: TupleTable) -> None:
        self._words = LexicalScores(source) if unit_of(source) == "words" else None
        self._letters = LexicalScores(source, "characters")

    def scores(self, table: TupleTable) -> dict[str, np.ndarray]:
        """(n,) float32 by name."""
        letters, bm25 = self._letters.scores(table)
        if self._words is None:
            return {LETTERS: letters, BM25: bm25}
        words, bm25 = self._words.scores(table)
        return {WORDS: words, LETTERS: letters, BM25: bm25}


def _drawn(rows: int, most: int, random: np.random.Generator) -> np.ndarray:
    """(m,) row numbers, ascending: all, or `most` of them."""
    return np.arange(rows) if rows <= most else np.sort(random.choice(rows, most, replace=False))


def _features(scores: Mapping[str, np.ndarray], table: TupleTable) -> np.ndarray:
    """(n, f) float64: the scores, of BM25 the logarithm, then logarithms of the texts' lengths in characters and how far
    these are apart.
    """
    lengths = np.log1p(np.array([len(text) for text in table.texts], dtype=np.float64))[table.rows]
    columns = [np.log1p(values) if name == BM25 else values for name, values in scores.items()]
    return np.column_stack([*columns, lengths, np.abs(lengths[:, 0] - lengths[:, 1])]).astype(np.float64)


def _random_order(table: TupleTable, random: np.random.Generator) -> dict[str, np.ndarray]:
    return {_CONSTANT["ranking"]: random.normal(size=(len(table), 1)).astype(np.float32)}


def _constant(learnt: TupleTable, rows: int, task: TaskConfig) -> dict[str, np.ndarray]:
    """(n, c) of one answer for all rows: the commonest class, or the mean."""
    assert learnt.gold is not None
    gold = learnt.gold.astype(np.float64)
    if task.kind == "classification":
        answer = np.zeros(task.num_labels)
        answer[np.bincount(gold.astype(np.int64), minlength=task.num_labels).argmax()] = 1.0
    elif task.kind == "binary":
        answer = np.array([1.0 if np.mean(gold >= 0.5) > 0.5 else -1.0])
    else:
        answer = np.array([logit(np.clip(_shares(gold, task).mean(), _RARE, 1 - _RARE))])
    return {_CONSTANT[task.kind]: np.tile(answer.astype(np.float32), (rows, 1))}


def _shares(gold: np.ndarray, task: TaskConfig) -> np.ndarray:
    """(m,) gold labels of one logit, scaled to 0 to 1."""
    low, high = task.label_range if task.kind == "regression" else (0.0, 1.0)
    high = max(float(gold.max()), 1e-12) if task.kind == "ranking" else high
    return (gold - low) / (high - low)


def _standard(scores: np.ndarray) -> np.ndarray:
    """(n, 1) float32 scores of mean 0 and deviation 1, in the same order; ties stay ties."""
    values = scores.astype(np.float64)
    deviation = float(values.std())
    return ((values - values.mean()) / (deviation if deviation > 0 else 1.0)).astype(np.float32)[:, None]


def _fitted(known: np.ndarray, rows: TupleTable, asked: np.ndarray, task: TaskConfig) -> np.ndarray:
    """(n, c) float32 logits that a logistic regression gives (n, f) features, fitted on (m, f) `known` ones."""
    assert rows.gold is not None
    gold = rows.gold.astype(np.float64)
    mean, deviation = known.mean(0), known.std(0)
    deviation[deviation == 0] = 1.0
    known, asked = (known - mean) / deviation, (asked - mean) / deviation
    if task.kind == "classification":
        return _class_logits(known, gold.astype(np.int64), asked, task.num_labels)
    shares = _shares(gold, task)
    # A label between 0 and 1 is a row of each class, weighted.
    classes = np.repeat([1, 0], len(shares))
    weights = np.concatenate([shares, 1 - shares])
    model = _regression(np.concatenate([known, known]), classes, weights)
    if model is None:
        return np.full((len(asked), 1), logit(np.clip(shares.mean(), _RARE, 1 - _RARE)), dtype=np.float32)
    values = model.decision_function(asked)
    if task.kind == "binary":
        values = values - best_f1_threshold(model.decision_function(known), gold >= 0.5)
    return values.astype(np.float32)[:, None]


def _class_logits(known: np.ndarray, gold: np.ndarray, asked: np.ndarray, count: int) -> np.ndarray:
    logits = np.full((len(asked), count), np.log(_RARE), dtype=np.float32)
    present = np.unique(gold)
    model = _regression(known, gold, np.ones(len(gold)))
    logits[:, present] = 0.0 if model is None else np.log(np.maximum(model.predict_proba(asked), _RARE))
    return logits


def _regression(features: np.ndarray, classes: np.ndarray, weights: np.ndarray) -> LogisticRegression | None:
    """None where all weight is on one class."""
    used = weights > 0
    if len(np.unique(classes[used])) < 2:
        return None
    model = LogisticRegression(C=_WEAK_PENALTY, max_iter=1000)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # one that has not quite converged is a baseline as well
        return model.fit(features[used], classes[used], sample_weight=weights[used])


def best_f1_threshold(scores: np.ndarray, positive: np.ndarray) -> float:
    """The threshold above which calling a row positive has the best F1; halfway to the next lower score.

    Args:
        scores: (m,) finite; equal scores fall on one side together.
        positive: (m,) bool.

    Returns:
        the highest of several that are equally good; without a positive row, one above all scores.
    """
    values, place = np.unique(scores, return_inverse=True)
    rows, hits = np.bincount(place)[::-1].cumsum(), np.bincount(place, weights=positive)[::-1].cumsum()
    if not positive.any():
        return float(values[-1] + 1)
    best = int(np.argmax(2 * hits / (rows + positive.sum())))  # of the best + 1 highest scores
    above = values[::-1][best]
    below = values[::-1][best + 1] if best + 1 < len(values) else above - 1
    return float((above + below) / 2)
