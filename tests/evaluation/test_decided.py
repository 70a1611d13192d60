"""Decisions on dev, measured on a test table, and shown in the report."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.special import expit
from sklearn.metrics import f1_score, precision_score, recall_score

from distilmatch.errors import ConfigError, DataError
from distilmatch.evaluation.pairs.decided import dev_decisions
from distilmatch.evaluation.pairs.html import render_html
from distilmatch.evaluation.pairs.markdown import render_markdown, report_tables
from distilmatch.evaluation.pairs.measure import evaluate_pairs
from distilmatch.evaluation.pairs.report import PairReport
from distilmatch.metrics.calibration import expected_calibration_error
from distilmatch.metrics.decisions import decide_on
from distilmatch.models import DiPair
from distilmatch.types import TupleTable

from .made import noisy, tiny_student, tiny_table


def labelled(student: DiPair, seed: int) -> TupleTable:
    """Pairs whose labels are drawn by a steeper and shifted curve of the student's logits."""
    table = tiny_table()
    logits = student.logits(table.tuples(), show_progress_bar=False)[:, 0]
    gold = np.random.default_rng(seed).random(len(table)) < expit(2 * logits - 2)
    return TupleTable(texts=table.texts, rows=table.rows, gold=gold.astype(np.float32))


@pytest.fixture(scope="module")
def case(tiny_encoder: Path) -> tuple[DiPair, TupleTable, TupleTable, Any]:
    student = tiny_student(tiny_encoder, "binary")
    return student, labelled(student, 0), labelled(student, 1), noisy(student, 0.5)


def test_the_figures_at_the_dev_threshold(case: tuple[DiPair, TupleTable, TupleTable, Any], tmp_path: Path) -> None:
    student, dev, test, teacher = case
    decisions = dev_decisions(student, dev, teacher=teacher)
    report = evaluate_pairs(student, test, teacher=teacher, decisions=decisions, measure_speed=False, resamples=50)
    assert [each.name for each in report.decisions] == ["teacher", "student"]
    for each, logits in zip(report.decisions, (teacher(test.tuples()), student.logits(test.tuples())), strict=True):
        scores, gold = logits[:, 0].astype(np.float64), test.gold
        decision = decide_on(dev, student.task, (student.logits if each.name == "student" else teacher)(dev.tuples()))
        assert each.threshold == pytest.approx(decision.threshold("best_f1").logit, abs=1e-5)
        said = scores > each.threshold
        slow = {"f1": f1_score, "precision": precision_score, "recall": recall_score}
        assert each.metrics == pytest.approx({name: score(gold, said) for name, score in slow.items()})
        assert all(low <= each.metrics[name] <= high for name, (low, high) in each.intervals.items())
        assert gold is not None
        assert each.ece["raw"] == pytest.approx(expected_calibration_error(gold, expit(scores)), abs=1e-5)
        assert each.ece["calibrated"] == pytest.approx(
            expected_calibration_error(gold, decision.calibration(scores)), abs=1e-5
        )
    flat = report.flat_metrics()
    assert flat["student_dev_threshold_f1"] == report.decisions[1].metrics["f1"] > flat["student_f1"]
    assert flat["student_ece_calibrated"] < flat["student_ece_raw"]
    report.save(tmp_path)
    assert PairReport.load(tmp_path) == report


def test_the_report_shows_them(case: tuple[DiPair, TupleTable, TupleTable, Any]) -> None:
    student, dev, test, _ = case
    report = evaluate_pairs(student, test, decisions=dev_decisions(student, dev), measure_speed=False, resamples=20)
    (table,) = [table for table in report_tables(report) if table.kind == "decision"]
    assert table.header[1:] == ("threshold", "F1", "precision", "recall", "ECE, raw", "ECE, calibrated")
    assert "At the threshold of the best F1 on dev" in render_markdown(report)
    page = render_html(report)
    assert "Reliability of the student" in page and "<h2>Decision</h2>" in page
    plain = evaluate_pairs(student, test, measure_speed=False, resamples=20)
    assert not plain.decisions and "<h2>Decision</h2>" not in render_html(plain)


def test_the_students_own_is_measured_by_default(
    case: tuple[DiPair, TupleTable, TupleTable, Any], tmp_path: Path
) -> None:
    student, dev, test, _ = case
    student.save_pretrained(tmp_path / "student")
    loaded = DiPair.from_pretrained(tmp_path / "student").eval()
    loaded.decision = dev_decisions(loaded, dev)["student"]
    report = evaluate_pairs(loaded, test, measure_speed=False, resamples=0)
    assert [each.name for each in report.decisions] == ["student"]
    loaded.save_pretrained(tmp_path / "decided")
    (tmp_path / "decided" / "decision.json").write_text("{")
    damaged = evaluate_pairs(
        DiPair.from_pretrained(tmp_path / "decided").eval(), test, measure_speed=False, resamples=0
    )
    assert not damaged.decisions and any("decision.json is damaged" in note for note in damaged.notes)


def test_what_is_refused(case: tuple[DiPair, TupleTable, TupleTable, Any], tiny_encoder: Path) -> None:
    student, dev, test, _ = case
    decisions = dev_decisions(student, dev)
    with pytest.raises(ConfigError, match="no such system"):
        evaluate_pairs(student, test, decisions={"teacher": decisions["student"]}, measure_speed=False)
    bare = TupleTable(texts=test.texts, rows=test.rows)
    with pytest.raises(DataError, match="the dev table has none"):
        dev_decisions(student, bare)
    with pytest.raises(ConfigError, match="binary task"):
        dev_decisions(tiny_student(tiny_encoder, "ranking"), dev)
