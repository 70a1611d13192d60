"""What needs no training or nearly none: a constant, TF-IDF, BM25, and the student's encoder as it comes.

Each gives raw scores of pairs. Words are counted in the training texts alone. Where there are classes, a logistic
regression of the one score, fitted on train, makes them.

Shape legend: n pairs; k tokens of a text; h width of the encoder; c labels.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression

from benchmarks.gradings import Answers
from benchmarks.sets import ENCODER, DataSet, Rows
from distilmatch.config.pairs import StudentConfig
from distilmatch.models import DiPair

Pairs = Sequence[tuple[str, str]]
Scores = Callable[[Pairs], np.ndarray]

ANALYSERS: Mapping[str, dict[str, Any]] = {
    "words": {"token_pattern": r"(?u)\b\w+\b"},
    "word pairs": {"ngram_range": (1, 2), "sublinear_tf": True},
    "letters": {"analyzer": "char_wb", "ngram_range": (2, 5), "sublinear_tf": True},
}
_WORD = re.compile(r"(?u)\b\w+\b")


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


def bm25(train: Sequence[str], k1: float = 1.2, b: float = 0.75) -> Scores:
    """BM25 (Robertson and Zaragoza 2009, eq. 3.15) of the left text as query and the right one as document.

    Args:
        train: the documents that frequencies and the mean length are taken from.
    """
    documents = [Counter(_words(text)) for text in dict.fromkeys(train)]
    containing = Counter(word for document in documents for word in document)
    mean = sum(document.total() for document in documents) / len(documents)

    def score(query: str, text: str) -> float:
        document = Counter(_words(text))
        norm = k1 * (1 - b + b * document.total() / mean)
        total = 0.0
        for word in set(_words(query)) & document.keys():
            rarity = math.log(1 + (len(documents) - containing[word] + 0.5) / (containing[word] + 0.5))
            total += rarity * document[word] * (k1 + 1) / (document[word] + norm)
        return total

    return lambda pairs: np.array([score(left, right) for left, right in pairs])


def _words(text: str) -> list[str]:
    return _WORD.findall(text.lower())


def _untrained(one: DataSet, encoder: str, strategy: str) -> tuple[DiPair, Callable[[Sequence[str]], Any]]:
    kept = max(one.max_lengths) if strategy == "first" else 1
    shape = StudentConfig(
        kept_tokens=(kept, kept),
        kept_strategy=strategy,  # type: ignore[arg-type]
        max_lengths=(max(one.max_lengths),) * 2,
        head="cosine",
    )
    model = DiPair.from_encoder(encoder, shape).eval()

    def encode(texts: Sequence[str]) -> Any:
        return model.encode_kept(list(texts), show_progress_bar=False)

    return model, encode


def encoder_cosine(one: DataSet, encoder: str = ENCODER) -> Scores:
    """Cosines of the mean tokens of the untrained encoder, in fp32."""
    _, encode = _untrained(one, encoder, "first_pooled")

    def scores(pairs: Pairs) -> np.ndarray:
        sides = []
        for j in (0, 1):
            texts = list(dict.fromkeys(pair[j] for pair in pairs))
            number = {text: i for i, text in enumerate(texts)}
            vectors = torch.nn.functional.normalize(encode(texts)[0][:, 0].float(), dim=-1)
            sides.append(vectors[[number[pair[j]] for pair in pairs]])
        return (sides[0] * sides[1]).sum(1).numpy()

    return scores


def encoder_maxsim(one: DataSet, encoder: str = ENCODER) -> Scores:
    """The mean over the left text's tokens of their largest cosine in the right one (ColBERT, section 3.3), in fp32.

    Special tokens count on both sides, as the encoder's own outputs.
    """
    _, encode = _untrained(one, encoder, "first")

    def scores(pairs: Pairs) -> np.ndarray:
        found = []
        for start in range(0, len(pairs), 512):
            part = pairs[start : start + 512]
            (left, left_mask), (right, right_mask) = (encode([pair[j] for pair in part]) for j in (0, 1))
            left, right = (torch.nn.functional.normalize(side.float(), dim=-1) for side in (left, right))
            cosines = (left @ right.transpose(1, 2)).masked_fill(~right_mask[:, None, :], -1.0).amax(-1)
            found.append(((cosines * left_mask).sum(1) / left_mask.sum(1)).numpy())
        return np.concatenate(found)

    return scores


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
