"""What a report advises: each rule has a report that it fits and one that it does not."""

from __future__ import annotations

from typing import Any

import pytest
from tests.evaluation.made import CACHE_OF_TESTS, TASKS, rising

from distilmatch.evaluation.pairs.details import PairDetails
from distilmatch.evaluation.pairs.results import PairResults, SystemResult
from distilmatch.evaluation.pairs.what_now import next_command, what_now


def results(
    student: float | None = 0.9,
    teacher: float | None = 0.9,
    half: float | None = 0.01,
    agreement: float = 0.95,
    **settings: Any,
) -> PairResults:
    """Accuracies of 1,000 rows with intervals of ± `half`; the largest class has half of the rows."""

    def system(role: Any, value: float | None) -> SystemResult:
        intervals = {} if half is None or value is None else {"accuracy": (value - half, value + half)}
        return SystemResult(
            name=role,
            role=role,
            metrics={} if value is None else {"accuracy": value},
            metric_intervals=intervals,
            agreement={"agreement": agreement} if role == "student" and has_teacher else {},
        )

    has_teacher = settings.pop("has_teacher", teacher is not None)
    systems = (system("student", student), *([system("teacher", teacher)] if has_teacher else []))
    defaults: dict[str, Any] = {
        "task": TASKS["classification"],
        "rows": 1000,
        "measured_rows": 0 if student is None else 1000,
        "distinct_texts": {"query": 10},
        "main_metric": None if student is None else "accuracy",
        "main_agreement": "agreement" if has_teacher else None,
        "details": PairDetails(trivial={"accuracy": 0.5}, trivial_name="always answering “no”"),
        "cache": CACHE_OF_TESTS,
        "model": "run/student",
    }
    return PairResults(systems=systems, **(defaults | settings))


def rules(report: PairResults) -> list[str]:
    return [advice.rule for advice in what_now(report)]


def test_a_good_student_is_to_be_used_by_the_next_command() -> None:
    (advice,) = what_now(results())
    assert advice.rule == "use_it" and "as good as its teacher and agrees" in advice.text
    assert advice.command == next_command(results())
    assert advice.command.startswith("distilmatch encode run/student TABLE --side query ")


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"half": 0.05}, ["few_labels", "use_it"]),
        ({"half": None, "measured_rows": 80}, ["few_labels", "use_it"]),
        ({"half": None}, ["use_it"]),
        ({"teacher": 0.505}, ["weak_teacher"]),
        ({"teacher": 0.45, "student": 0.2}, ["weak_teacher"]),
        ({"student": 0.49}, ["weak_student", "far_below"]),
        ({"student": 0.49, "teacher": None}, ["weak_student"]),
        ({"student": 0.8}, ["far_below"]),
        ({"student": 0.8, "half": 0.12}, ["few_labels", "between", "use_it"]),
        ({"student": 0.87}, ["between", "use_it"]),
        ({"teacher": None}, ["use_it"]),
        ({"student": None, "teacher": None, "has_teacher": True}, ["no_labels", "use_it"]),
        ({"student": None, "teacher": None, "has_teacher": True, "agreement": 0.6}, ["no_labels", "far_below"]),
    ],
)
def test_what_the_figures_ask_for(settings: dict[str, Any], expected: list[str]) -> None:
    assert rules(results(**settings)) == expected


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ((0.6, 0.7, 0.75, 0.78, 0.80), "still_rising"),
        ((0.6, 0.7, 0.75, 0.76, 0.7605), None),
        ((0.6, 0.7, 0.75, 0.74, 0.70), "overfit"),
        ((0.6, 0.7, 0.75, 0.75, 0.745), None),
        ((0.6, 0.8), None),  # too few looks
    ],
)
def test_what_the_last_stage_asks_for(values: tuple[float, ...], expected: str | None) -> None:
    curves = (rising("stage1", values=(0.1, 0.2, 0.3, 0.4)), rising("stage2", values=values))
    assert rules(results(curves=curves)) == [*([expected] if expected else []), "use_it"]


def test_dev_that_falls_with_a_rising_loss_is_not_called_overfit() -> None:
    curve = rising(values=(0.6, 0.7, 0.75, 0.74, 0.70))
    diverged = curve.replaced(loss=[(step, float(step)) for step, _ in curve.loss])
    assert rules(results(curves=(diverged,))) == ["use_it"]


def test_a_teacher_no_better_than_the_mean_is_weak() -> None:
    systems = tuple(
        SystemResult(name=name, role=name, metrics={"spearman": 0.4, "rmse": error}, agreement={"spearman": 0.9})  # type: ignore[arg-type]
        for name, error in (("student", 1.0), ("teacher", 1.3))
    )
    details = PairDetails(trivial={"spearman": 0.0, "rmse": 1.2}, trivial_name="always answering the mean")
    report = results(
        half=None, task=TASKS["regression"], main_metric="spearman", main_agreement="spearman", details=details
    )
    (advice,) = what_now(report.model_copy(update={"systems": systems}))
    assert advice.rule == "weak_teacher" and "RMSE 1.300; always answering the mean has 1.200" in advice.text
    assert advice.command is not None and "--task regression" in advice.command


def test_how_many_labels_would_do() -> None:
    (advice, _) = what_now(results(half=0.06))
    assert "± 0.060, from 1,000 rows" in advice.text and "about 4,000 rows" in advice.text
