"""Ranking by a probability keeps the order where probabilities are one number in fp32, against a slow float64 oracle."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from distilmatch.config.pairs import StudentConfig
from distilmatch.config.tables import TaskConfig
from distilmatch.engine.kernels.native_module import native_module
from distilmatch.engine.matches import BestMatches, Matches
from distilmatch.engine.ranking import BestRows, Ranking
from distilmatch.engine.scorer import Scorer
from distilmatch.errors import ConfigError
from distilmatch.models import DiPair

from .models import kernels_for, make_model, make_sides
from .shared import needs_native

THREE = TaskConfig(kind="classification", classes=("no", "maybe", "yes"))


def log_odds(logits: np.ndarray, label: int) -> np.ndarray:
    """(...) of (..., c) logits, in float64."""
    wide = logits.astype(np.float64)
    others = np.delete(wide, label, axis=-1)
    top = others.max(-1)
    return np.asarray(wide[..., label] - top - np.log(np.exp(others - top[..., None]).sum(-1)))


@pytest.mark.parametrize("classes", [2, 3, 5])
@pytest.mark.parametrize("size", [0.0, 30.0, -30.0, 300.0])
def test_log_odds_against_float64(classes: int, size: float) -> None:
    task = TaskConfig(kind="classification", classes=tuple("abcde"[:classes]))
    random = np.random.default_rng(classes)
    logits = random.normal(scale=2, size=(200, classes)).astype(np.float32)
    logits[:, 1] += size
    ranking = Ranking.of(task, by="probability", label="b")
    ranked = ranking(torch.from_numpy(logits)).numpy()
    np.testing.assert_allclose(ranked, log_odds(logits, 1), rtol=1e-6, atol=1e-6)
    shown = ranking.shown(ranked)
    shares = np.exp(logits.astype(np.float64) - logits.max(1, keepdims=True))
    np.testing.assert_allclose(shown, shares[:, 1] / shares.sum(1), rtol=1e-5, atol=1e-7)
    for threshold in (1e-6, 0.3, 0.5, 0.999):
        clear = np.abs(shown.astype(np.float64) - threshold) > 1e-6
        np.testing.assert_array_equal((ranked > ranking.limit(threshold))[clear], (shown > threshold)[clear])
    assert (ranked > ranking.limit(0)).all() and not (ranked > ranking.limit(1)).any()


@needs_native
@pytest.mark.parametrize("by", ["probability", "logit"])
def test_gaps_of_a_thousandth_at_logits_of_thirty(by: Any) -> None:
    count, place = 400, np.random.default_rng(0).permutation(400)
    read, bias = np.zeros((3, 16), np.float32), np.array([0, 0, 30], np.float32)
    read[2, 0] = 1
    right = np.zeros((count, 16), np.float32)
    right[:, 0] = 1e-3 * place
    head = native_module().FeedForwardHead(False, read, bias)  # logits (0, 0, 30 + 1e-3 place)
    best, other = native_module().TopK(1, count), BestRows(1, count)
    head.top_k(np.zeros((1, 16), np.float32), right, by, 2, [], best, None, 0, 0, 2)
    logits = torch.from_numpy(
        np.stack([np.zeros(count), np.zeros(count), 30 + right[:, 0]], 1)[None].astype(np.float32)
    )
    ranking = Ranking(by=by, label=2)
    other.add(0, ranking(logits), 0)
    for scores, rows in (best.best(), other.best()):
        assert rows[0].tolist() == np.argsort(-place).tolist()
        if by == "probability":
            assert (ranking.shown(scores) == 1).all()  # what users see says nothing of the order


@pytest.mark.parametrize(
    ("head", "kernel"), kernels_for("transformer", "compared", "feed_forward", "lite", "two_layers")
)
def test_a_scorer_ranks_saturated_probabilities(tiny_encoder: Path, head: str, kernel: Any) -> None:
    model = make_model(tiny_encoder, head, THREE)
    with torch.no_grad():
        model.classifier.bias[2] += 60 if head != "feed_forward" else 200
    sides = make_sides(model, 6, 90)
    scorer = Scorer(model, kernel=kernel, threads=2)
    rows = np.stack(np.meshgrid(np.arange(6), np.arange(90), indexing="ij"), -1).reshape(-1, 2)
    exact = log_odds(scorer.score(*sides, rows=rows).reshape(6, 90, 3), 2)
    near = 2e-5 * np.abs(exact).max()
    best, other = scorer.best_of_both(*sides, top_k=20, reverse_top_k=4, by="probability", label="yes")  # type: ignore[misc]
    for found, values in ((best, exact), (other, exact.T)):
        assert isinstance(found, BestMatches)
        assert (found.scores > 0.999).all()
        picked = np.take_along_axis(values, found.rows, 1)
        np.testing.assert_allclose(picked, -np.sort(-values, axis=1)[:, : picked.shape[1]], rtol=0, atol=near)
    near_ones = scorer.candidates(*sides, top_k=20, num_candidates=90, index="flat", by="probability", label="yes")
    picked = np.take_along_axis(exact, near_ones.rows, 1)
    np.testing.assert_allclose(picked, -np.sort(-exact, axis=1)[:, :20], rtol=0, atol=near)
    with torch.no_grad():  # a probability in float64 is below 1 only up to log-odds of 36
        model.classifier.bias[2] -= float(np.median(exact)) - 20
    scorer = Scorer(model, kernel=kernel, threads=2)
    exact = log_odds(scorer.score(*sides, rows=rows).reshape(6, 90, 3), 2)
    limit = float(1 / (1 + np.exp(-np.median(exact))))
    assert limit < 1
    matches = scorer.above(*sides, threshold=limit, by="probability", label="yes").collect()
    assert isinstance(matches, Matches)
    above = np.zeros(exact.shape, dtype=bool)
    above[tuple(matches.rows.T)] = True
    clear = np.abs(exact - np.log(limit / (1 - limit))) > near
    assert clear.mean() > 0.9
    np.testing.assert_array_equal(above[clear], (exact > np.log(limit / (1 - limit)))[clear])


@pytest.mark.parametrize("head", ["transformer", "compared", "two_layers", "lite", "feed_forward_two"])
def test_products_in_bf16_give_logits_in_fp32(tiny_encoder: Path, head: str) -> None:
    model = make_model(tiny_encoder, head, TaskConfig(kind="binary"))
    sides = make_sides(model, 20, 60)
    scorer = Scorer(model, kernel="torch-bf16")
    rows = np.stack(np.meshgrid(np.arange(20), np.arange(60), indexing="ij"), -1).reshape(-1, 2)
    logits = scorer.score(*sides, rows=rows)[:, 0]
    rounded = torch.from_numpy(logits).bfloat16().float().numpy()
    assert (logits != rounded).mean() > 0.9
    assert len(np.unique(logits)) > 0.99 * len(logits) > len(np.unique(rounded))


def test_what_cannot_be_ranked_is_refused() -> None:
    for arguments, told in [
        ({"by": "probabilty", "label": "yes"}, "did you mean 'probability'"),
        ({"label": "yess"}, "did you mean 'yes'"),
        ({"label": True}, "no label True"),
        ({"label": 1.0}, "no label 1.0"),
        ({"label": 3}, "no label 3"),
        ({"label": -1}, "no label -1"),
        ({"by": "expectation", "values": [1, 2]}, "a value for each class"),
        ({"by": "expectation", "values": [1, float("nan"), 2]}, "`values` is nan"),
        ({"by": "expectation", "values": [1, float("inf"), 2]}, "must be finite"),
    ]:
        with pytest.raises(ConfigError, match=told):
            Ranking.of(THREE, **arguments)  # type: ignore[arg-type]
    assert Ranking.of(THREE, label=np.int64(2)).label == 2
    for threshold in (-0.1, 1.1, float("nan")):
        with pytest.raises(ConfigError, match="between 0 and 1"):
            Ranking.of(THREE, by="probability", label="yes").limit(threshold)


def test_the_model_s_student_is_left_alone(tiny_encoder: Path) -> None:
    model: DiPair = make_model(tiny_encoder, "transformer", THREE).train()
    assert isinstance(model.student, StudentConfig)
    Scorer(model, kernel="torch")
    assert model.training and all(part.training for part in model.modules())
