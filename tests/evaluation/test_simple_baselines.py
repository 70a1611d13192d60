"""Simple baselines in a report: what is measured of them, what it says, what is refused, and how it is shown."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.evaluation.made import CACHE_OF_TESTS, TASKS, gold_of, noisy, tiny_student, tiny_table

from distilmatch.errors import ConfigError
from distilmatch.evaluation.pairs.charts import quality_chart
from distilmatch.evaluation.pairs.details import PairDetails
from distilmatch.evaluation.pairs.html import render_html
from distilmatch.evaluation.pairs.markdown import render_markdown, report_tables
from distilmatch.evaluation.pairs.measure import evaluate_pairs
from distilmatch.evaluation.pairs.report import PairReport
from distilmatch.evaluation.pairs.results import PairResults, SystemResult
from distilmatch.evaluation.pairs.what_now import what_now
from distilmatch.metrics import task_metrics
from distilmatch.teachers.baselines import simple_baselines
from distilmatch.types import TupleTable


def _labelled(kind: str, encoder: Path) -> tuple[Any, TupleTable, TupleTable]:
    student = tiny_student(encoder, kind)
    table = tiny_table()
    logits = student.logits(table.tuples(), show_progress_bar=False)  # type: ignore[arg-type]
    table = replace(table, gold=gold_of(student.task, logits))
    return student, table.take(np.arange(0, len(table), 2)), table.take(np.arange(1, len(table), 2))


@pytest.mark.parametrize("kind", ["classification", "binary", "regression", "ranking"])
def test_a_report_has_a_row_of_each_with_the_tasks_metrics(kind: str, tiny_encoder: Path, tmp_path: Path) -> None:
    student, train, table = _labelled(kind, tiny_encoder)
    report = evaluate_pairs(
        student,
        table,
        teacher=noisy(student, 0.3),
        simple_baselines=True,
        baselines_train=train,
        baselines_encoder=tiny_encoder,
        measure_speed=False,
        resamples=20,
    )
    simple = {system.name: system for system in report.systems if system.simple}
    computed = simple_baselines(train, table, student.task, base_model=tiny_encoder)
    assert simple.keys() == computed.keys() and len(simple) == 7
    assert not report.student.simple and report.teacher is not None and not report.teacher.simple
    assert table.gold is not None
    for name, system in simple.items():
        assert system.role == "baseline" and system.agreement
        assert system.metrics == pytest.approx(task_metrics(student.task, table.gold, computed[name], table.queries))
    assert f"baseline_tf-idf_letters_{report.main_metric}" in report.flat_metrics()
    assert any("Simple baselines" in note and "fitted on the train table" in note for note in report.notes)
    report.save(tmp_path)
    assert PairReport.load(tmp_path) == report
    assert all("encoder MaxSim" in (tmp_path / f"report.{ending}").read_text() for ending in ("html", "md"))


def test_without_a_train_table_only_the_order_is_measured(tiny_encoder: Path) -> None:
    student, _, table = _labelled("binary", tiny_encoder)
    report = evaluate_pairs(student, table, simple_baselines=True, measure_speed=False, resamples=5)
    simple = [system for system in report.systems if system.simple]
    assert [system.name for system in simple] == ["TF-IDF words", "TF-IDF letters", "BM25"]
    assert all(system.metrics.keys() == {"auc", "average_precision"} for system in simple)
    assert all(system.metric_intervals.keys() == {"auc", "average_precision"} for system in simple)
    assert any("without a train table" in note for note in report.notes)


def test_the_tables_name_the_thresholds(tiny_encoder: Path) -> None:
    student, train, table = _labelled("binary", tiny_encoder)
    fitted: dict[str, Any] = {"simple_baselines": True, "baselines_train": train}
    for more, tells_of_train in ((fitted, True), ({"simple_baselines": True}, False), ({}, False)):
        report = evaluate_pairs(student, table, measure_speed=False, resamples=5, **more)
        quality = next(each for each in report_tables(report) if each.kind == "quality")
        assert quality.header == ("", "ROC AUC", "average precision", "accuracy at 0.5", "F1 at 0.5")
        assert quality.note.startswith("At 0.5: a score above 0.5 is called a match.")
        assert ("the best F1 on the train table" in quality.note) == tells_of_train
        page = render_html(report)
        assert quality.note in render_markdown(report) and quality.note in page and "F1 at 0.5</th>" in page
        assert "a score above 0.5 is predicted to be 1" in page


@pytest.mark.parametrize("kind", ["classification", "regression", "ranking"])
def test_a_task_without_a_threshold_names_none(kind: str, tiny_encoder: Path) -> None:
    student, train, table = _labelled(kind, tiny_encoder)
    report = evaluate_pairs(
        student, table, simple_baselines=True, baselines_train=train, measure_speed=False, resamples=5
    )
    assert "0.5:" not in render_markdown(report) + render_html(report)
    assert not any("at 0.5" in name for each in report_tables(report) for name in each.header)


def test_what_cannot_be_computed_is_refused_before_the_work(
    tiny_encoder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    student, train, table = _labelled("classification", tiny_encoder)
    monkeypatch.setattr("distilmatch.evaluation.pairs.measure.student_logits", lambda *given, **more: pytest.fail())
    settings: dict[str, Any] = {"simple_baselines": True, "measure_speed": False}
    with pytest.raises(ConfigError, match="fitted on a train table with gold labels"):
        evaluate_pairs(student, table, **settings)
    with pytest.raises(ConfigError, match="fitted on a train table with gold labels"):
        evaluate_pairs(student, table, baselines_train=replace(train, gold=None), **settings)
    with pytest.raises(ConfigError, match="for `simple_baselines=True`"):
        evaluate_pairs(student, table, baselines_train=train)
    with pytest.raises(ConfigError, match="cannot be called 'BM25'"):
        evaluate_pairs(student, table, baselines_train=train, baselines={"BM25": np.zeros((120, 3))}, **settings)


def _report(student: float, teacher: float | None, best: float, half: float = 0.01, **more: Any) -> PairResults:
    def system(name: str, role: Any, value: float, simple: bool = False) -> SystemResult:
        agreement = {"agreement": 0.95} if teacher is not None and role == "student" else {}
        return SystemResult(
            name=name,
            role=role,
            metrics={"accuracy": value},
            metric_intervals={"accuracy": (value - half, value + half)},
            agreement=agreement,
            simple=simple,
        )

    systems = [system("student", "student", student)]
    systems += [] if teacher is None else [system("teacher", "teacher", teacher)]
    systems += [system("BM25", "baseline", best - 0.1, True), system("TF-IDF letters", "baseline", best, True)]
    settings: dict[str, Any] = {
        "task": TASKS["classification"],
        "rows": 1000,
        "measured_rows": 1000,
        "distinct_texts": {"query": 10},
        "main_metric": "accuracy",
        "main_agreement": None if teacher is None else "agreement",
        "cache": CACHE_OF_TESTS,
    }
    return PairResults(systems=tuple(systems), **(settings | more))


@pytest.mark.parametrize(
    ("student", "teacher", "best", "half", "expected"),
    [
        (0.9, 0.9, 0.7, 0.01, ["use_it"]),
        (0.79, 0.8, 0.8, 0.01, ["simple_teacher", "between"]),
        (0.85, 0.8, 0.82, 0.01, ["simple_teacher"]),
        (0.79, 0.9, 0.8, 0.01, ["simple_student", "far_below"]),
        (0.79, None, 0.8, 0.01, ["simple_student"]),
        (0.82, 0.82, 0.8, 0.025, ["near_simple", "use_it"]),
        (0.82, 0.9, 0.81, 0.02, ["near_simple", "far_below"]),
    ],
)
def test_what_a_simple_baseline_asks_for(
    student: float, teacher: float | None, best: float, half: float, expected: list[str]
) -> None:
    assert [advice.rule for advice in what_now(_report(student, teacher, best, half))] == expected


def test_the_advice_names_the_best_baseline_and_both_values() -> None:
    (advice, _) = what_now(_report(0.79, 0.8, 0.81))
    assert "accuracy 0.8000; TF-IDF letters has 0.8100" in advice.text
    assert "A student of a bad teacher is a bad student" in advice.text
    assert "Nor is the student better (0.7900)" in advice.text
    assert advice.command is not None and advice.command.startswith("distilmatch finetune-teacher ")


_TRIVIAL = PairDetails(trivial={"accuracy": 0.5}, trivial_name="always answering “no”")


@pytest.mark.parametrize(
    ("student", "teacher", "best", "sentence"),
    [
        (0.5, 0.48, 0.7, "is better than teacher and student: TF-IDF letters has accuracy 0.7000."),
        (0.8, 0.48, 0.7, "is better than the teacher: TF-IDF letters has accuracy 0.7000."),
        (0.5, 0.505, 0.53, "is better than teacher and student: TF-IDF letters has accuracy 0.5300."),
        (0.5, 0.48, 0.5, None),  # no better than an answer that reads no text
        (0.5, 0.5, 0.4, None),
    ],
)
def test_a_weak_teacher_is_told_of_a_better_baseline(
    student: float, teacher: float, best: float, sentence: str | None
) -> None:
    advices = what_now(_report(student, teacher, best, details=_TRIVIAL))
    (weak,) = advices
    assert weak.rule == "weak_teacher" and "before you train a student" in weak.text
    assert ("A simple baseline" in weak.text) == (sentence is not None) and (sentence or "") in weak.text


def test_another_baseline_of_the_user_is_not_a_simple_one() -> None:
    report = _report(0.9, 0.9, 0.7)
    strong = SystemResult(name="strong", role="baseline", metrics={"accuracy": 0.99})
    (advice,) = what_now(report.model_copy(update={"systems": (*report.systems, strong)}))
    assert advice.rule == "use_it" and report.best_simple is not None and report.best_simple.name == "TF-IDF letters"


def test_names_of_the_chart_are_whole_and_within_it() -> None:
    report = _report(0.9, 0.9, 0.7)
    named = SystemResult(name="another encoder's MaxSim", role="baseline", metrics={"accuracy": 0.6}, simple=True)
    chart = quality_chart(report.model_copy(update={"systems": (*report.systems, named)}))
    assert chart is not None and "another encoder&#x27;s MaxSim</text>" in chart
    place = chart.split(">another")[1 if chart.count(">another") > 1 else 0].rsplit('x="', 1)[1].split('"')[0]
    assert float(place) > 24 * 6
