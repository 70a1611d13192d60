"""Decisions on dev, measured on a test table, and shown in the report."""

from __future__ import annotations

import logging
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file
from scipy.special import expit
from sklearn.metrics import f1_score, precision_score, recall_score

from distilmatch.config.tables import TaskConfig
from distilmatch.errors import ConfigError, DataError
from distilmatch.evaluation.pairs.decided import dev_decisions, is_same_match
from distilmatch.evaluation.pairs.html import render_html
from distilmatch.evaluation.pairs.markdown import render_markdown, report_tables
from distilmatch.evaluation.pairs.measure import evaluate_pairs
from distilmatch.evaluation.pairs.report import PairReport
from distilmatch.metrics.calibration import expected_calibration_error
from distilmatch.metrics.decisions import Decision, decide_on
from distilmatch.models import DiPair
from distilmatch.teachers import CrossEncoderTeacher, TeacherEnsemble
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
    above = ("F1 above it", "precision above it", "recall above it")
    assert table.header[1:] == ("best_f1 threshold", *above, "ECE, raw", "ECE, calibrated")
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


@pytest.fixture
def decided_teacher(
    case: tuple[DiPair, TupleTable, TupleTable, Any], tiny_cross_encoder: Path, tmp_path: Path
) -> tuple[Path, Decision]:
    """A teacher's folder with its decision on dev."""
    student, dev, _, _ = case
    folder = shutil.copytree(tiny_cross_encoder, tmp_path / "teacher")
    logits = CrossEncoderTeacher(folder, precision="fp32").logits(dev.tuples())  # type: ignore[arg-type]
    return folder, decide_on(dev, student.task, logits).save(folder)


def test_a_teachers_own_is_measured_by_default(
    case: tuple[DiPair, TupleTable, TupleTable, Any], decided_teacher: tuple[Path, Decision]
) -> None:
    student, dev, test, noise = case
    folder, decision = decided_teacher
    teacher, quick = CrossEncoderTeacher(folder), {"measure_speed": False, "resamples": 0}
    report = evaluate_pairs(student, test, teacher=teacher, **quick)  # type: ignore[arg-type]
    (shown,) = report.decisions
    assert shown.name == "teacher" and shown.threshold == decision.threshold("best_f1").logit
    assert (
        "The teacher's threshold and calibration are its own (decision.json), made on 240 rows of dev." in report.notes
    )
    told = dev_decisions(student, dev, teacher=teacher)
    asked = evaluate_pairs(student, test, teacher=teacher, decisions=told, **quick)  # type: ignore[arg-type]
    assert shown == next(each for each in asked.decisions if each.name == "teacher")
    # Whatever is no single folder has none: several teachers, a loaded model, a function, labels that were given.
    several, loaded = TeacherEnsemble([teacher, teacher]), teacher.model
    given = replace(test, teacher=noise(test.tuples()))
    for other, table in ((several, test), (loaded, test), (noise, test), (teacher, given)):
        assert not evaluate_pairs(student, table, teacher=other, **quick).decisions  # type: ignore[arg-type]


def _damage(folder: Path, decision: Decision) -> str:
    (folder / "decision.json").write_text("{")
    return "decision.json is damaged"


def _other_weights(folder: Path, decision: Decision) -> str:
    save_file({"more": np.zeros(1, dtype=np.float32)}, folder / "more.safetensors")
    return "decision.json belongs to other weights"


def _other_task(folder: Path, decision: Decision) -> str:
    decision.replaced(task=TaskConfig(kind="classification", classes=("no", "yes"))).save(folder)
    return "is for the classes ['no', 'yes'], this evaluation for a binary task"


@pytest.mark.parametrize("change", [_damage, _other_weights, _other_task])
def test_a_teachers_decision_that_does_not_fit_is_told_and_loses_no_report(
    case: tuple[DiPair, TupleTable, TupleTable, Any],
    decided_teacher: tuple[Path, Decision],
    change: Any,
    caplog: pytest.LogCaptureFixture,
) -> None:
    student, _, test, _ = case
    message, teacher = change(*decided_teacher), CrossEncoderTeacher(decided_teacher[0])
    with caplog.at_level(logging.WARNING):
        report = evaluate_pairs(student, test, teacher=teacher, measure_speed=False, resamples=0)
    assert report.teacher is not None and not report.decisions
    (note,) = [note for note in report.notes if message in note]
    assert "give `--dev`" in note and message in caplog.text


@pytest.mark.parametrize(
    ("classes", "is_shown"),
    [(("no match", "match"), True), (("No_Match", "Match"), True), (("match", "no match"), False), (("a", "b"), False)],
)
def test_a_match_of_two_classes_is_the_same_class(classes: tuple[str, str], is_shown: bool) -> None:
    of = TaskConfig(kind="classification", classes=classes)
    assert is_same_match(of, TaskConfig(kind="classification", classes=("no match", "match"))) == is_shown


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
