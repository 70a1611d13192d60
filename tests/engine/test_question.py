"""What is asked: checked once, and the same whether it comes whole, by its attributes, or by the old name."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from distilmatch.config.tables import TaskConfig
from distilmatch.engine.question import Question, as_question
from distilmatch.engine.scorer import Scorer
from distilmatch.errors import ConfigError

from .models import make_model, make_sides

ONE = TaskConfig(kind="binary")
THREE = TaskConfig(kind="classification", classes=("no", "maybe", "yes"))


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({}, "either top_k"),
        ({"top_k": 3, "threshold": 0.5}, "either top_k"),
        ({"top_k": 0}, "`top_k` is 0"),
        ({"top_k": True}, "`top_k` is True"),
        ({"top_k": 2.5}, "`top_k` is 2.5"),
        ({"threshold": math.nan}, "threshold"),
        ({"threshold": 0.5, "reverse": True}, "go with top_k"),
        ({"threshold": 0.5, "num_candidates": 4}, "go with top_k"),
        ({"top_k": 3, "num_candidates": 2}, "fewer than the 3"),
        ({"top_k": 3, "num_candidates": 5, "reverse": True}, "reverse direction"),
        ({"top_k": 3, "index": "hsnw"}, "did you mean 'hnsw'"),
    ],
)
def test_what_cannot_be_asked_is_refused(asked: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Question(**asked)


def test_a_question_is_whole_or_in_parts() -> None:
    question = Question(top_k=np.int64(3), by="probability", label="yes")  # type: ignore[arg-type]
    assert as_question(None, {"top_k": 3, "by": "probability", "label": "yes"}) == question
    assert as_question(question, {}) is question
    with pytest.raises(ConfigError, match="a Question and top_k were given"):
        as_question(question, {"top_k": 3})


@pytest.mark.parametrize(
    ("asked", "task", "limit"),
    [
        ({"top_k": 1}, ONE, None),
        ({"threshold": 0.5}, ONE, 0.0),
        ({"threshold": 0}, ONE, -math.inf),
        ({"threshold": 2.5, "label": "yes"}, THREE, 2.5),
        ({"threshold": 0.25, "by": "probability", "label": "yes"}, THREE, math.log(1 / 3)),
    ],
)
def test_the_limit_of_what_is_ranked(asked: dict[str, Any], task: TaskConfig, limit: float | None) -> None:
    assert Question(**asked).limit(task) == (limit if limit is None else pytest.approx(limit))


@pytest.mark.parametrize(
    ("asked", "task"),
    [({"threshold": 1.0}, ONE), ({"threshold": 2.0}, ONE), ({"threshold": math.inf, "label": 0}, THREE)],
)
def test_a_threshold_that_no_score_has_is_refused(asked: dict[str, Any], task: TaskConfig) -> None:
    with pytest.raises(ConfigError, match="threshold"):
        Question(**asked).limit(task)


def test_other_questions_have_other_facts() -> None:
    asked: list[dict[str, Any]] = [
        {"top_k": 3}, {"top_k": 4}, {"threshold": 0.5}, {"top_k": 3, "num_candidates": 9}, {"top_k": 3, "label": "yes"},
        {"top_k": 3, "num_candidates": 9, "index": "ivf"}, {"top_k": 3, "by": "expectation", "values": [0, 1]},
    ]  # fmt: skip
    facts = [str(Question(**one).facts()) for one in asked]
    assert len(set(facts)) == len(facts)
    assert Question(top_k=3, index="ivf").facts() == Question(top_k=3).facts()  # without candidates there is no index


def test_a_scorer_answers_a_question_as_it_answers_its_parts(tiny_encoder: Path) -> None:
    model = make_model(tiny_encoder, "compared", THREE)
    scorer, (left, right) = Scorer(model, kernel="torch"), make_sides(model, 7, 30)
    ranked: dict[str, Any] = {"by": "probability", "label": "yes"}
    best = scorer.best(left, right, Question(top_k=4, **ranked))
    both = scorer.best_of_both(left, right, Question(top_k=4, reverse=True, **ranked))
    above = scorer.above(left, right, Question(threshold=0.3, **ranked)).collect()
    near = scorer.best(left, right, Question(top_k=4, num_candidates=9, index="flat", **ranked))
    with pytest.warns(FutureWarning, match="best, best_of_both and above"):
        old = scorer.all_pairs(left, right, top_k=4, **ranked)
        old_both = scorer.all_pairs(left, right, top_k=4, reverse_top_k=4, **ranked)
        old_above = scorer.all_pairs(left, right, threshold=0.3, **ranked)
    candidates = scorer.candidates(left, right, top_k=4, num_candidates=9, index="flat", **ranked)
    pairs: list[tuple[Any, Any]] = [(best, old), (best, both[0]), (near, candidates), (above, old_above)]
    pairs += [(best, scorer.best(left, right, 4, **ranked)), *zip(both, old_both, strict=True)]  # type: ignore[arg-type]
    pairs += [
        (above, scorer.above(left, right, 0.3, **ranked).collect()),
        (best, scorer.rank(left, right, 4, **ranked)),
    ]
    for one, other in pairs:
        np.testing.assert_array_equal(one.rows, other.rows)
        np.testing.assert_array_equal(one.scores, other.scores)


@pytest.mark.parametrize(
    ("name", "asked"),
    [
        ("best", {"threshold": 0.5}),
        ("best", {"top_k": 2, "reverse": True}),
        ("best_of_both", {"top_k": 2}),
        ("above", {"top_k": 2}),
    ],
)
def test_a_question_for_another_method_is_refused(tiny_encoder: Path, name: str, asked: dict[str, Any]) -> None:
    model = make_model(tiny_encoder, "compared", ONE)
    with pytest.raises(ConfigError, match="; see "):
        getattr(Scorer(model, kernel="torch"), name)(*make_sides(model, 3, 5), Question(**asked))
