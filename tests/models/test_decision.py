"""A student's decision: what `predict` says by it, and how it goes with the weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.special import expit

from distilmatch.config.pairs import StudentConfig
from distilmatch.config.tables import TaskConfig
from distilmatch.errors import ConfigError, ModelError
from distilmatch.files import write_json
from distilmatch.metrics.decisions import DECISION, Decision, decide
from distilmatch.models import DiPair
from distilmatch.models.integrity import verify_student

BINARY = TaskConfig(kind="binary")
TWO = TaskConfig(kind="classification", classes=("other", "same"))
PAIRS = [(f"red {a}", f"blue {b}") for a in ("car", "boat", "lamp") for b in ("car", "lamp", "house", "dog")]


def make_student(encoder: Path, task: TaskConfig) -> DiPair:
    torch.manual_seed(0)
    model = DiPair.from_encoder(encoder, StudentConfig(width=16, kept_tokens=(2, 2), max_lengths=(8, 8)), task).eval()
    torch.nn.init.normal_(model.classifier.weight, std=3.0)
    return model


def decided(model: DiPair) -> Decision:
    """A decision on labels that the student is mostly right about."""
    logits = model.logits(PAIRS)
    scores = logits[:, 0] if logits.shape[1] == 1 else logits[:, 1] - logits[:, 0]
    order = np.argsort(np.argsort(scores))
    gold = (order >= 6).astype(float)
    gold[order == 9] = 0
    return decide(model.task, gold, logits, resamples=10)


@pytest.fixture
def student(tiny_encoder: Path) -> DiPair:
    model = make_student(tiny_encoder, BINARY)
    model.decision = decided(model)
    return model


def test_predict_says_match_or_no_match(student: DiPair) -> None:
    logits = student.logits(PAIRS)[:, 0].astype(np.float64)
    for name in ("best_f1", "precision=0.8", "recall=0.9"):
        matches = student.predict(PAIRS, threshold=name)
        assert isinstance(matches, np.ndarray) and matches.dtype == np.bool_
        assert matches.tolist() == (logits > student.decision.threshold(name).logit).tolist()
    number = float(np.median(expit(logits)))
    assert student.predict(PAIRS, threshold=number).tolist() == (expit(logits) > number).tolist()  # type: ignore[union-attr]
    assert student.predict(PAIRS[0], threshold="recall=1") in (True, False)
    tensor = student.predict(PAIRS, threshold="best_f1", convert_to_tensor=True)
    assert isinstance(tensor, torch.Tensor) and tensor.dtype == torch.bool


def test_predict_gives_calibrated_probabilities(student: DiPair) -> None:
    logits = student.logits(PAIRS)[:, 0]
    probabilities = student.predict(PAIRS, calibrated=True)
    assert isinstance(probabilities, np.ndarray) and probabilities.dtype == np.float32
    assert probabilities == pytest.approx(student.decision.calibration(logits), abs=1e-6)
    middle = float(np.median(probabilities)) + 1e-4
    said = student.predict(PAIRS, calibrated=True, threshold=middle)
    assert np.asarray(said).tolist() == (probabilities > middle).tolist()


def test_two_classes(tiny_encoder: Path) -> None:
    model = make_student(tiny_encoder, TWO)
    model.decision = decided(model)
    logits = model.logits(PAIRS).astype(np.float64)
    classes = model.predict(PAIRS, threshold="best_f1")
    assert isinstance(classes, np.ndarray) and classes.dtype == np.int64
    limit = model.decision.threshold("best_f1").logit
    assert classes.tolist() == (logits[:, 1] - logits[:, 0] > limit).astype(int).tolist()
    probabilities = np.asarray(model.predict(PAIRS, calibrated=True))
    assert probabilities.shape == (12, 2) and probabilities.sum(1) == pytest.approx(np.ones(12))


def test_what_predict_refuses(student: DiPair, tiny_encoder: Path) -> None:
    with pytest.raises(ConfigError, match="leave the activation out"):
        student.predict(PAIRS, threshold=0.5, activation_fn=torch.nn.Identity())
    with pytest.raises(ConfigError, match="no threshold is called"):
        student.predict(PAIRS, threshold="best")
    fresh = make_student(tiny_encoder, BINARY)
    assert np.asarray(fresh.predict(PAIRS, threshold=0.5)).dtype == np.bool_  # a number needs no decision
    for asked in ({"threshold": "best_f1"}, {"calibrated": True}):
        with pytest.raises(ConfigError, match="has no decision"):
            fresh.predict(PAIRS, **asked)  # type: ignore[arg-type]
    ranking = make_student(tiny_encoder, TaskConfig(kind="ranking"))
    with pytest.raises(ConfigError, match="this task is a ranking"):
        ranking.predict(PAIRS, threshold=0.5)


def test_it_is_saved_and_loaded_with_its_weights(student: DiPair, tmp_path: Path) -> None:
    student.save_pretrained(tmp_path / "one")
    assert verify_student(tmp_path / "one") == []
    card = (tmp_path / "one" / "README.md").read_text(encoding="utf-8")
    best = student.decision.threshold("best_f1")
    assert f"| `best_f1` | {best.score:.4f} | {best.precision:.3f} | {best.recall:.3f} | {best.f1:.3f} |" in card
    loaded = DiPair.from_pretrained(tmp_path / "one").eval()
    assert loaded.decision.thresholds == student.decision.thresholds
    assert np.array_equal(loaded.predict(PAIRS, threshold="best_f1"), student.predict(PAIRS, threshold="best_f1"))
    loaded.save_pretrained(tmp_path / "two")
    assert DiPair.from_pretrained(tmp_path / "two").decision == loaded.decision
    with torch.no_grad():
        loaded.classifier.weight.mul_(2)
    loaded.save_pretrained(tmp_path / "two")  # over a decision of other weights
    assert not (tmp_path / "two" / DECISION).exists()
    assert "best_f1" not in (tmp_path / "two" / "README.md").read_text(encoding="utf-8")
    loaded.save_pretrained(tmp_path / "three")
    with pytest.raises(ConfigError, match="has no decision.json"):
        _ = DiPair.from_pretrained(tmp_path / "three").decision
    loaded.decision = None
    loaded.save_pretrained(tmp_path / "one")
    assert not (tmp_path / "one" / DECISION).exists()


def test_a_damaged_one_leaves_the_student_readable(student: DiPair, tmp_path: Path) -> None:
    student.save_pretrained(tmp_path / "student")
    for content in ({"format_version": 1}, {"format_version": 99}):
        write_json(tmp_path / "student" / DECISION, content)
        loaded = DiPair.from_pretrained(tmp_path / "student").eval()
        assert np.array_equal(loaded.predict(PAIRS), student.predict(PAIRS))
        with pytest.raises(ModelError, match="damaged|format version 99"):
            loaded.predict(PAIRS, threshold="best_f1")
        assert len(verify_student(tmp_path / "student")) == 1
        loaded.save_pretrained(tmp_path / "copy")
        assert not (tmp_path / "copy" / DECISION).exists()
