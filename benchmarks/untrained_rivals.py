"""What needs no training or nearly none, as rows of the harness: a constant, TF-IDF by scikit-learn, and the package's own BM25
and scores of untrained encoders.

Each gives raw scores of pairs. TF-IDF is the peer's own package, for its letters of two to five are stronger on records than
the package's three. Where there are classes, a logistic regression of the one score, fitted on train, makes
them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression

from benchmarks.gradings import Answers
from benchmarks.sets import ENCODER, DataSet, Rows
from distilmatch.pretrained.names import resolve_model
from distilmatch.teachers.lexical import LexicalScores
from distilmatch.teachers.untrained import untrained_scores
from distilmatch.types import TupleTable

Pairs = Sequence[tuple[str, str]]
Scores = Callable[[Pairs], np.ndarray]

ANALYSERS: Mapping[str, dict[str, Any]] = {
    "words": {"token_pattern": r"(?u)\b\w+\b"},
    "word pairs": {"ngram_range": (1, 2), "sublinear_tf": True},
    "letters": {"analyzer": "char_wb", "ngram_range": (2, 5), "sublinear_tf": True},
}


def table_of(pairs: Pairs) -> TupleTable:
    """Pairs as a table with every distinct text once."""
    number: dict[str, int] = {}
    rows = [[number.setdefault(text, len(number)) for text in pair] for pair in pairs]
    return TupleTable(texts=list(number), rows=np.array(rows, dtype=np.int64).reshape(-1, 2))


def tfidf(train: Sequence[str], **settings: Any) -> Callable[[Sequence[str]], Any]:
    """A function that makes sparse (n, v) vectors of length one of texts."""
    vectors = TfidfVectorizer(**settings).fit(train)
    return vectors.transform  # type: ignore[no-any-return]


def tfidf_cosine(train: Sequence[str], **settings: Any) -> Scores:
    """Cosines of the pairs' TF-IDF vectors."""
    vectors = tfidf(train, **settings)

    def scores(pairs: Pairs) -> np.ndarray:
        left, right = (vectors([pair[j] for pair in pairs]) for j in (0, 1))
        return np.asarray(left.multiply(right).sum(1)).reshape(-1)

    return scores


def bm25(documents: Sequence[str]) -> Scores:
    """BM25 of the left text as query and the right one as document; frequencies and mean length are of `documents`."""
    scores = LexicalScores(table_of([(text, text) for text in documents]), "words")
    return lambda pairs: scores.scores(table_of(pairs))[1]


def encoder_scores(one: DataSet, kind: str, encoder: str = ENCODER) -> Scores:
    """The "cosine" of an untrained encoder's mean tokens, or their "maxsim", in fp32."""
    name = resolve_model(encoder)
    return lambda pairs: untrained_scores(name, table_of(pairs), max_length=max(one.max_lengths))[kind]


def constant(one: DataSet, train: Rows, graded: Rows, dev: Rows) -> dict[str, float]:
    """What knows nothing reaches: the most frequent class; every pair a match; the mean of 20 random orders."""
    if one.task.kind == "classification":
        shares = np.bincount(train.gold.astype(np.int64), minlength=one.task.num_labels)
        same = np.tile(shares.astype(float), (len(graded.pairs), 1))
        return one.grade(dev.answers(np.tile(shares, (int(dev.found.sum()), 1))), graded.answers(same[graded.found]))
    if one.task.kind == "binary":
        return one.grade(dev.answers(np.zeros(int(dev.found.sum()))), graded.answers(np.zeros(int(graded.found.sum()))))
    random = np.random.default_rng(0)
    drawn = [
        one.grade(*(rows.answers(random.random(int(rows.found.sum()))) for rows in (dev, graded))) for _ in range(20)
    ]
    return {name: float(np.mean([own[name] for own in drawn])) for name in drawn[0]}


def graded_scores(one: DataSet, scores: Scores, train: Rows, dev: Rows, test: Rows) -> dict[str, dict[str, float]]:
    """The metrics of a baseline's scores on dev and on test; classes are made of them by a regression on train."""
    found = {"dev": scores(dev.scored), "test": scores(test.scored)}
    if one.task.kind == "classification":
        model = LogisticRegression(max_iter=1000).fit(scores(train.scored)[:, None], train.gold.astype(np.int64))
        found = {split: model.decision_function(own[:, None]) for split, own in found.items()}
    answers: dict[str, Answers] = {"dev": dev.answers(found["dev"]), "test": test.answers(found["test"])}
    return {split: one.grade(answers["dev"], own) for split, own in answers.items()}


def best_tfidf(one: DataSet, texts: Sequence[str], train: Rows, dev: Rows, test: Rows) -> dict[str, dict[str, float]]:
    """Of the ways to cut texts into words the one that is best on dev: its metrics on both splits, and which it is."""
    tried = {
        name: graded_scores(one, tfidf_cosine(texts, **settings), train, dev, test)
        for name, settings in ANALYSERS.items()
    }
    best = max(tried, key=lambda name: tried[name]["dev"][one.main])
    return tried[best] | {"chosen": {name: float(name == best) for name in tried}}
