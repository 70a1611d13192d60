"""Metrics of the user's own: measured at every evaluation, in reports, and what picks the checkpoint."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from distilmatch import PairRecipe, TaskConfig, distil_pairs, evaluate_pairs, fine_tune_teacher
from distilmatch.config import FineTuneConfig, TableConfig
from distilmatch.errors import ConfigError
from distilmatch.metrics import agreement_metrics, checked_metrics, own_metrics, sign_of, task_metrics
from distilmatch.metrics.own import TASK_METRICS, agreement_names
from distilmatch.models import DiPair
from distilmatch.training.pairs.distil import check_pair_recipe
from distilmatch.training.pairs.trainer import DevSet
from distilmatch.types import TupleTable

ROWS = [
    {"a": f"the {colour} {thing}", "b": f"a {colour if same else 'blue'} {thing}", "label": same, "t": 3.0 * same - 1}
    for colour in ("red", "green")
    for thing in ("car", "coat", "lamp", "boat")
    for same in (0, 1)
]
READ = TableConfig(text_columns=("a", "b"), label_column="label")


def cost(gold: np.ndarray, logits: np.ndarray) -> float:
    """Minus what wrong decisions cost: a missed match three times as much as a false one."""
    decided = logits > 0
    return -float(np.mean(3 * (gold * ~decided) + (1 - gold) * decided))


@pytest.fixture
def settings(tmp_path: Path, tiny_encoder: Path) -> dict[str, Any]:
    stage = {"epochs": 1, "learning_rate": 5e-3, "evaluations": 2, "blocks_per_batch": 1, "precision": "fp32"}
    return {
        "output": str(tmp_path / "run"),
        "task": {"kind": "binary"},
        "table": {"text_columns": ["a", "b"], "label_column": "label"},
        "encoder": [str(tiny_encoder)],
        "transfer": {"rounds": 0, "cells_per_block": 4},
        "student": {"width": 16, "head_heads": 2, "kept_tokens": [2, 2], "max_lengths": [16, 16]},
        "stage1": stage,
        "stage2": stage,
        "device": "cpu",
    }


def _stages(output: str) -> list[dict[str, Any]]:
    return [json.loads((Path(output) / name / "stage.json").read_text()) for name in ("stage1", "stage2")]


def test_it_is_measured_at_every_evaluation_and_picks_the_checkpoint(
    settings: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    student = distil_pairs(settings | {"metric_for_best": "cost"}, train=ROWS, dev=ROWS, metrics={"cost": cost})
    for stage in _stages(settings["output"]):
        measured = [entry["eval_cost"] for entry in stage["history"] if "eval_cost" in entry]
        assert len(measured) == 2 and stage["metric"] == "cost" and stage["best_metric"] == max(measured)
        assert all("eval_auc" in entry for entry in stage["history"] if "eval_cost" in entry)
    assert "dev cost: the student" in caplog.text and "cost -" in caplog.text
    gold, logits = (
        np.array([r["label"] for r in ROWS], dtype=np.float32),
        student.logits([(r["a"], r["b"]) for r in ROWS]),
    )
    assert max(s["best_metric"] for s in _stages(settings["output"])) == pytest.approx(cost(gold, logits[:, 0]))


@pytest.mark.parametrize("metric", ["teacher_mae", "teacher_kl", "accuracy"])
def test_the_best_of_an_error_is_the_least(metric: str, settings: dict[str, Any]) -> None:
    settings["table"]["teacher_columns"] = ["t"]
    if metric == "teacher_kl":
        settings["task"] = {"kind": "classification", "classes": ["no", "yes"]}
        settings["table"]["teacher_columns"] = ["t", "u"]
    rows = [row | {"u": -row["t"]} for row in ROWS]
    distil_pairs(settings | {"metric_for_best": metric}, train=rows, dev=rows)
    for stage in _stages(settings["output"]):
        measured = [entry[f"eval_{metric}"] for entry in stage["history"] if f"eval_{metric}" in entry]
        assert stage["best_metric"] == (max if metric == "accuracy" else min)(measured)


@pytest.mark.parametrize(
    ("metrics", "best", "message"),
    [
        ({"cost": cost}, "costs", "`metric_for_best: costs` is not measured .* auc, .*cost; .*did you mean 'cost'"),
        ({}, "ndcg@10", "`metric_for_best: ndcg@10` is not measured"),
        ({}, "teacher_spearman", "is not measured"),
        ({"cost": lambda gold, logits: float("nan")}, None, "the metric 'cost' gave nan"),
        ({"cost": lambda gold, logits: "good"}, None, "the metric 'cost' gave 'good', not a number"),
        ({"cost": lambda gold, logits: logits}, None, "not a number"),
        ({"cost": lambda gold, logits: None}, None, "not a number"),
        ({"cost": lambda gold, logits: gold["x"]}, None, "the metric 'cost' failed: IndexError"),
        ({"auc": cost}, None, "'auc', which is taken"),
        ({"teacher_cost": cost}, None, "'teacher_cost', which is taken"),
        ({"my cost": cost}, None, "a name begins with a letter"),
        ({"cost": 3}, None, "the metric 'cost' is a int"),
        ([cost], None, "`metrics` is a list"),
    ],
)
def test_a_wrong_metric_is_refused_before_anything_is_trained(
    metrics: Any, best: str | None, message: str, settings: dict[str, Any]
) -> None:
    with pytest.raises(ConfigError, match=message):
        distil_pairs(settings | {"metric_for_best": best}, train=ROWS, dev=ROWS, metrics=metrics)
    assert not Path(settings["output"]).exists()


def test_without_a_dev_table_or_gold_labels_there_is_nothing_to_measure(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="`metrics` needs a dev table"):
        distil_pairs(settings, train=ROWS, metrics={"cost": cost})
    with pytest.raises(ConfigError, match="`metric_for_best` needs a dev table"):
        check_pair_recipe(PairRecipe.from_dict(settings | {"metric_for_best": "auc", "train": "x.csv"}))
    settings["table"] = {"text_columns": ["a", "b"], "teacher_columns": ["t"]}
    with pytest.raises(ConfigError, match="the dev table has none"):
        distil_pairs(settings, train=ROWS, dev=ROWS, metrics={"cost": cost})


def test_what_a_metric_is_given() -> None:
    seen: list[tuple[Any, ...]] = []

    def two(gold: np.ndarray, logits: np.ndarray) -> float:
        seen.append((gold, logits))
        gold[:] = logits[:] = 7  # changes nothing of the caller's
        return 1.0

    def three(gold: np.ndarray, logits: np.ndarray, queries: np.ndarray | None) -> np.float32:
        seen.append((gold, logits, queries))
        return np.float32(2)

    def option(gold: np.ndarray, logits: np.ndarray, weight: float = 3.0) -> float:
        return weight

    gold, logits = np.array([0.0, 1.0, 0.0], dtype=np.float32), np.arange(3.0)[:, None]
    metrics = {"two": two, "three": three, "option": option}
    values = own_metrics(metrics, TaskConfig(kind="ranking"), gold, logits, np.array([4, 4, 5]))
    assert values == {"two": 1.0, "three": 2.0, "option": 3.0} and all(type(v) is float for v in values.values())
    assert seen[0][1].shape == (3,) and seen[1][0].tolist() == [0, 1, 0] and seen[1][2].tolist() == [4, 4, 5]
    assert gold.tolist() == [0, 1, 0] and logits[:, 0].tolist() == [0, 1, 2]
    seen.clear()
    classes = TaskConfig(kind="classification", classes=("a", "b"))
    own_metrics({"three": three}, classes, gold, np.zeros((3, 2)))
    assert seen[0][1].shape == (3, 2) and seen[0][2] is None
    assert checked_metrics(None) == {}


@pytest.mark.parametrize("kind", ["classification", "binary", "regression", "ranking"])
def test_the_names_that_are_taken_are_those_that_are_measured(kind: str) -> None:
    task = TaskConfig(kind=kind, classes=("a", "b") if kind == "classification" else ())
    rng = np.random.default_rng(0)
    gold, logits = np.array([0.0, 1, 0, 1]), rng.normal(size=(4, task.num_labels))
    measured = task_metrics(task, gold, logits, np.zeros(4, dtype=int))
    assert tuple(measured) == TASK_METRICS[kind]
    assert tuple(f"teacher_{name}" for name in agreement_metrics(task, logits, logits)) == agreement_names(task)
    assert [name for name in (*measured, *agreement_names(task)) if sign_of(name) < 0] == {
        "classification": ["teacher_kl"],
        "regression": ["rmse", "teacher_mae"],
    }.get(kind, ["teacher_mae"])


def test_the_teachers_own_quality_is_by_the_same_metric() -> None:
    table = TupleTable(
        texts=["a", "b"],
        rows=np.array([[0, 1]] * 4),
        gold=np.float32([0, 1, 0, 1]),
        teacher=np.float32([[1], [2], [-3], [4]]),
    )
    task = TaskConfig(kind="binary")
    assert DevSet(table=table, task=task, own={"cost": cost}, best="cost").teacher_quality() == -0.25
    assert DevSet(table=table, task=task, best="teacher_mae").teacher_quality() == 0.0
    assert DevSet(table=table, task=task).teacher_quality() == 1.0


def test_a_report_has_a_column_of_it_for_every_system(tmp_path: Path, tiny_encoder: Path) -> None:
    from distilmatch.config import StudentConfig
    from distilmatch.evaluation.pairs.markdown import render_markdown

    shape = StudentConfig(width=16, head_heads=2, kept_tokens=(2, 2), max_lengths=(16, 16))
    student = DiPair.from_encoder(str(tiny_encoder), shape, TaskConfig(kind="binary")).eval()
    read = READ.replaced(teacher_columns=["t"])
    report = evaluate_pairs(
        student, ROWS, read_as=read, metrics={"cost": cost}, measure_speed=False, resamples=20,
        baselines={"zero": np.zeros(len(ROWS))},
    )  # fmt: skip
    gold = np.array([row["label"] for row in ROWS], dtype=np.float32)
    expected = cost(gold, student.logits([(r["a"], r["b"]) for r in ROWS])[:, 0])
    assert report.student.metrics["cost"] == pytest.approx(expected)
    assert report.teacher is not None and report.teacher.metrics["cost"] == 0.0
    assert {system.name: "cost" in system.metrics for system in report.systems} == dict.fromkeys(
        ("teacher", "student", "zero"), True
    )
    assert "cost" not in report.student.metric_intervals and "auc" in report.student.metric_intervals
    assert "| cost |" in render_markdown(report) and report.flat_metrics()["student_cost"] == pytest.approx(expected)
    with pytest.raises(ConfigError, match="the metric 'cost' gave nan"):
        evaluate_pairs(student, ROWS, read_as=read, metrics={"cost": lambda g, x: np.nan}, measure_speed=False)
    unlabelled = READ.replaced(label_column=None, teacher_columns=["t"])
    with pytest.raises(ConfigError, match="`metrics` compare scores with gold labels"):
        evaluate_pairs(student, ROWS, read_as=unlabelled, metrics={"cost": cost}, measure_speed=False)


def test_a_teacher_is_fine_tuned_by_it(tmp_path: Path, tiny_encoder: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    config = FineTuneConfig(
        base_model=str(tiny_encoder), minutes=0, epochs=2, max_length=32, precision="fp32", metric_for_best="cost"
    )
    task = TaskConfig(kind="binary")
    place = fine_tune_teacher(ROWS, task, tmp_path / "teacher", config, ROWS, read_as=READ, metrics={"cost": cost})
    record = json.loads((place / "fine_tuning.json").read_text())
    costs = [epoch["cost"] for epoch in record["dev_history"]]
    assert len(costs) == 2 and record["dev"]["cost"] == max(costs) and "auc" in record["dev"]
    with pytest.raises(ConfigError, match="`metric_for_best: costs` is not measured"):
        wrong = config.replaced(metric_for_best="costs")
        fine_tune_teacher(ROWS, task, tmp_path / "other", wrong, ROWS, read_as=READ, metrics={"cost": cost})
    with pytest.raises(ConfigError, match="needs a dev table"):
        fine_tune_teacher(ROWS, task, tmp_path / "other", config, read_as=READ, metrics={"cost": cost})
