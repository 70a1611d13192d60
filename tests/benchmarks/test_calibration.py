"""What the benchmark of calibration takes for a match, and what it publishes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from benchmarks.calibration import SETS, figures, match_scores, models, scores_of, worst
from scipy.special import expit, softmax
from tests.helpers import write_jsonl

from distilmatch.types import TupleTable


def test_the_match_logit_is_the_log_odds_of_its_class() -> None:
    logits = np.random.default_rng(0).normal(size=(20, 3)) * 3
    scores = match_scores(logits, ("contradiction", "Entailment", "neutral"), "entailment")
    assert expit(scores) == pytest.approx(softmax(logits, axis=1)[:, 1])
    assert match_scores(logits[:, :1], None, "entailment").tolist() == logits[:, 0].tolist()
    assert match_scores(logits[:, :2], None, None) == pytest.approx(logits[:, 1] - logits[:, 0])
    with pytest.raises(SystemExit, match="does not say what a match is"):
        match_scores(logits, ("a", "b", "c"), None)


def test_a_class_becomes_a_label(tmp_path: Path) -> None:
    kinds = ["entailment", "neutral", "contradiction", "entailment"]
    rows = [{"sentence1": f"a {i}", "sentence2": f"b {i}", "entailment": kind} for i, kind in enumerate(kinds)]
    table = SETS["sick"].read(write_jsonl(tmp_path / "dev.jsonl", rows), 10)
    assert table.gold is not None and table.gold.tolist() == [1, 0, 0, 1]
    assert len(SETS["sick"].read(tmp_path / "dev.jsonl", 2)) == 2


def _drawn(seed: int) -> tuple[TupleTable, np.ndarray]:
    generator = np.random.default_rng(seed)
    truth = generator.normal(size=1000) * 2 - 2
    gold = (generator.random(1000) < expit(truth)).astype(np.float32)
    texts = [f"text {i}" for i in range(1001)]
    rows = np.stack([np.arange(1000), np.full(1000, 1000)], 1)
    return TupleTable(texts=texts, rows=rows, gold=gold), truth * 3 + 4


def test_the_figures_and_the_worst_of_them() -> None:
    found = figures(*_drawn(0), *_drawn(1))
    assert found["ece_after"] < 0.05 < 0.15 < found["ece_before"]
    assert found["log_loss_after"] < found["log_loss_before"]
    assert found["f1_at_dev_threshold"] > found["f1_at_half"]
    assert worst({"a": found, "b": found | {"ece_after": 0.3}}) == {"ece_before": found["ece_before"], "ece_after": 0.3}


def test_every_set_needs_a_model(tmp_path: Path, tiny_cross_encoder: Path) -> None:
    named = [f"{name}={tiny_cross_encoder}" for name in SETS]
    assert list(models(named)) == list(SETS)
    with pytest.raises(SystemExit, match="no model for sick"):
        models(named[:-1])
    for wrong in (f"other={tiny_cross_encoder}", f"sick={tmp_path}", "sick"):
        with pytest.raises(SystemExit, match="give SET=FOLDER"):
            models([wrong])
    table, _ = _drawn(0)
    assert scores_of(tiny_cross_encoder, table.take(np.arange(4)), "entailment").shape == (4,)
