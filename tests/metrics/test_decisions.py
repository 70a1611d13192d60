"""Decisions: fitted, read, saved beside weights, and refused where they are damaged or belong to others."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file
from scipy.special import expit

from distilmatch.config.tables import TaskConfig
from distilmatch.errors import ConfigError, DataError, DistilmatchError, ModelError
from distilmatch.metrics.decisions import (
    DECISION,
    USUAL_NAMES,
    Decision,
    decide,
    decide_on,
    load_decision,
    match_logits,
    read_decision,
    verify_decision,
)
from distilmatch.metrics.reading import Reading
from distilmatch.metrics.resampling import drawn_rows, interval_of
from distilmatch.metrics.thresholds import Cuts
from distilmatch.types import TupleTable

BINARY = TaskConfig(kind="binary")
TWO = TaskConfig(kind="classification", classes=("other", "same"))


def drawn(seed: int = 0, rows: int = 300) -> tuple[np.ndarray, np.ndarray]:
    """Labels and fp32 logits with ties."""
    generator = np.random.default_rng(seed)
    truth = generator.normal(size=rows) * 2 - 1
    return (generator.random(rows) < expit(truth)).astype(np.float32), np.round(truth * 2, 1).astype(np.float32)


def nothing() -> Decision:
    raise ConfigError("there is no decision")


@pytest.fixture(scope="module")
def decision() -> Decision:
    return decide(BINARY, *drawn(), resamples=50)


def test_the_decision_is_that_of_the_rows(decision: Decision) -> None:
    gold, logits = drawn()
    cuts = Cuts.of(gold, logits)
    assert decision.rows == 300 and decision.matches == int(gold.sum()) and decision.queries is None
    for name in (*USUAL_NAMES, "precision=0.85", "recall=0.715", "recall=1"):
        cut = cuts.named(name)
        if cut is None:
            with pytest.raises(ConfigError, match="no threshold reaches the precision"):
                decision.threshold(name)
            continue
        found = decision.threshold(name)
        assert (found.logit, found.precision, found.recall) == (cut.threshold, cut.precision, cut.recall)
        assert found.f1 == pytest.approx(cut.f1)
    assert decision.log_loss[decision.calibration.method] == min(
        decision.log_loss["platt"], decision.log_loss["isotonic"]
    )
    assert decision.ece["calibrated"] < decision.ece["raw"]


def test_any_share_is_answered_by_a_threshold_that_has_it(decision: Decision) -> None:
    for share in np.linspace(0.01, 0.9, 37):
        assert decision.threshold(f"precision={share}").precision >= share
        assert decision.threshold(f"recall={share}").recall >= share


@pytest.mark.parametrize("by_query", [False, True])
def test_intervals_are_those_of_a_slow_resampling(by_query: bool) -> None:
    gold, logits = drawn(3, rows=80)
    queries = np.arange(80) // 4 if by_query else None
    made = decide(BINARY, gold, logits, queries, seed=5, resamples=40)
    assert made.queries == (20 if by_query else None)
    for name in ("best_f1", "precision=0.9", "recall=0.9"):
        threshold = made.threshold(name)
        values: dict[str, list[float]] = {"logit": [], "f1": [], "precision": [], "recall": []}
        for rows in drawn_rows(80, resamples=40, seed=5, queries=queries):
            chosen = Cuts.of(gold[rows], logits[rows]).named(name)
            said, true = logits[rows] > threshold.logit, gold[rows] > 0
            if chosen is not None:  # the precision may be out of reach; what this threshold gives counts all the same
                values["logit"].append(chosen.threshold)
            values["f1"].append(2 * float((said & true).sum()) / float(said.sum() + true.sum()))
            values["recall"].append(float(said[true].mean()))
            if said.any():
                values["precision"].append(float(true[said].mean()))
        for measure, slow in values.items():
            assert threshold.intervals[measure] == pytest.approx(interval_of(np.array(slow))), (name, measure)


def test_a_precision_that_is_hardly_reached_has_an_honest_interval() -> None:
    gold, logits = np.array([0, 1, 1, 1, 1, 0.0] + [0, 1] * 30), np.array([9, 8, 7, 6, 5, 4.0] + [0] * 60)
    found = decide(BINARY, gold, logits).threshold("precision=0.8")
    assert found.precision == 0.8 and found.intervals["precision"][0] < 0.7


def test_two_classes_are_the_second_against_the_first(decision: Decision) -> None:
    gold, logits = drawn()
    both = np.stack([np.full_like(logits, 7.0), logits + 7], 1)
    made = decide(TWO, gold, both, resamples=0)
    assert made.threshold("best_f1").logit == pytest.approx(decision.threshold("best_f1").logit)
    assert match_logits(TWO, both) == pytest.approx(logits.astype(np.float64), abs=1e-5)


@pytest.mark.parametrize(
    "task",
    [
        TaskConfig(kind="regression"),
        TaskConfig(kind="ranking"),
        TaskConfig(kind="classification", classes=("a", "b", "c")),
    ],
)
def test_other_tasks_are_refused(task: TaskConfig) -> None:
    logits = np.zeros((4, task.num_labels))
    with pytest.raises(ConfigError, match="needs a binary task or a classification of two classes"):
        decide(task, np.array([0, 1, 0, 1]), logits)
    with pytest.raises(ConfigError, match="needs a binary task"):
        Reading.of(task, "best_f1", False, nothing)


def test_what_cannot_be_decided_on() -> None:
    for gold, message in (([1, 1], "all 2 gold labels are matches"), ([np.nan] * 2, "no row has one")):
        with pytest.raises(DataError, match=message):
            decide(BINARY, np.array(gold), np.zeros(2))
    with pytest.raises(DataError, match="one gold label"):
        decide(BINARY, np.array([0, 1]), np.zeros(3))
    with pytest.raises(ModelError, match="NaN or infinite"):
        decide(BINARY, np.array([0, 1]), np.array([0, np.nan]))
    table = TupleTable(texts=["a", "b"], rows=np.array([[0, 1], [0, 1]]))
    with pytest.raises(DataError, match="the dev table has none"):
        decide_on(table, BINARY, np.zeros(2))


def test_rows_without_a_label_are_left_out(decision: Decision) -> None:
    gold, logits = drawn()
    gold, logits = np.append(gold, np.nan), np.append(logits, 3)
    assert decide(BINARY, gold, logits, resamples=50) == decision


def test_rows_of_one_left_text_are_a_query() -> None:
    table = TupleTable(
        texts=list("abcd"), rows=np.array([[0, 2], [0, 3], [1, 2], [1, 3]]), gold=np.array([0, 1, 0, 1.0])
    )
    assert decide_on(table, BINARY, np.array([0.0, 1, 2, 3])).queries == 2
    alone = TupleTable(texts=list("abcd"), rows=np.array([[0, 2], [1, 3]]), gold=np.array([0.0, 1.0]))
    assert decide_on(alone, BINARY, np.array([0.0, 1])).queries is None


def _weights(folder: Path, value: float = 1.0) -> Path:
    folder.mkdir(exist_ok=True)
    save_file({"weight": torch.full((3,), value)}, folder / "model.safetensors")
    return folder


def test_it_is_saved_beside_its_weights(tmp_path: Path, decision: Decision) -> None:
    folder = _weights(tmp_path / "model")
    saved = decision.save(folder)
    assert load_decision(folder) == saved and saved.weights is not None
    assert saved.model_copy(update={"weights": None}) == decision
    assert verify_decision(folder) == []
    _weights(folder, 2.0)
    with pytest.raises(ModelError, match="belongs to other weights"):
        load_decision(folder)
    assert read_decision(folder) == saved and len(verify_decision(folder)) == 1


def test_where_there_is_none(tmp_path: Path, decision: Decision) -> None:
    folder = _weights(tmp_path / "model")
    with pytest.raises(ConfigError, match=r"has no decision\.json.*--write-decision"):
        load_decision(folder)
    assert read_decision(folder) is None and verify_decision(folder) == []
    with pytest.raises(ModelError, match="holds no weights"):
        decision.save(tmp_path)


def test_a_damaged_or_newer_file_is_refused(tmp_path: Path, decision: Decision) -> None:
    folder = _weights(tmp_path / "model")
    decision.save(folder)
    path = folder / DECISION
    whole = path.read_bytes()
    content = json.loads(whole)
    for damaged in (
        b"",
        b"[]",
        b"{}",
        b"\xff",
        b"[" * 100_000,
        whole[:-40],
        whole.replace(b'"rows": 300', b'"rows": 301'),
    ):
        path.write_bytes(damaged)
        with pytest.raises(ModelError, match="damaged"):
            load_decision(folder)
        assert "damaged" in verify_decision(folder)[0]
    path.write_text(json.dumps({**content, "format_version": 2}))
    with pytest.raises(ModelError, match="format version 2, this distilmatch reads 1"):
        load_decision(folder)


@given(st.integers(0, 10**9), st.integers(0, 255))
def test_no_changed_byte_is_read_as_another_decision(place: int, byte: int) -> None:
    made = decide(BINARY, np.array([0, 1, 0, 1, 1]), np.array([0, 1, 2, 3, 4.5]), resamples=0)
    import tempfile

    with tempfile.TemporaryDirectory() as root:
        folder = _weights(Path(root) / "model")
        saved = made.save(folder)
        whole = bytearray((folder / DECISION).read_bytes())
        whole[place % len(whole)] = byte
        (folder / DECISION).write_bytes(bytes(whole))
        try:
            assert load_decision(folder) == saved
        except DistilmatchError as error:
            assert DECISION in str(error)


def test_readings(decision: Decision) -> None:
    logits = np.array([[-3.0], [0.0], [0.1], [4.0]], dtype=np.float32)
    by_number = Reading.of(BINARY, 0.5, False, nothing)
    assert by_number.matches(logits).tolist() == [False, False, True, True]
    assert Reading.of(BINARY, 0, False, nothing).matches(logits).all()
    by_name = Reading.of(BINARY, "precision=0.9", False, lambda: decision)
    assert by_name.limit == decision.threshold("precision=0.9").logit
    calibrated = Reading.of(BINARY, 0.7, True, lambda: decision)
    probabilities = calibrated.probabilities(logits)
    assert probabilities == pytest.approx(decision.calibration(logits[:, 0]), abs=1e-6)
    assert calibrated.matches(logits).tolist() == (probabilities > 0.7).tolist()
    assert by_number.matches(logits[:0]).tolist() == [] and calibrated.probabilities(logits[:0]).tolist() == []
    for wrong in (1, -0.1, math.inf):
        with pytest.raises(ConfigError, match="the threshold is"):
            Reading.of(BINARY, wrong, False, nothing)
    with pytest.raises(ConfigError, match="there is no decision"):
        Reading.of(BINARY, "best_f1", False, nothing)
    with pytest.raises(ConfigError, match="another task"):
        Reading.of(TWO, "best_f1", False, lambda: decision)


@given(st.floats(-50, 50), st.integers(-3, 3))
def test_the_fp32_limit_divides_fp32_logits_as_the_limit_does(limit: float, steps: int) -> None:
    reading = Reading(task=BINARY, limit=limit)
    near = np.float32(limit)
    for _ in range(abs(steps)):
        near = np.nextafter(near, np.float32(np.sign(steps) * np.inf))
    assert reading.fp32_limit is not None
    assert np.float32(reading.fp32_limit) == reading.fp32_limit
    assert (near > np.float32(reading.fp32_limit)) == (float(near) > limit)
