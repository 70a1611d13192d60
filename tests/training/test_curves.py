"""A student's folder knows how its training went; damage in it is said by name."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from distilmatch.errors import DataError
from distilmatch.training.curves import StageCurve, save_training_curves, stage_curve, training_curves

HISTORY = [
    {"loss": 2.0, "step": 10, "epoch": 0.5},
    {"eval_auc": 0.6, "eval_f1": 0.1, "step": 10},
    {"loss": float("nan"), "step": 15},
    {"loss": 1.0, "step": 20},
    {"eval_auc": 0.7, "step": 20},
    {"train_loss": 1.5, "step": 20},
]
SUMMARY = {
    "steps": 20,
    "seconds": 3.5,
    "metric": "auc",
    "best_metric": 0.7,
    "history": HISTORY,
    "seconds_per_step": None,
}


def test_a_summary_becomes_a_curve() -> None:
    curve = stage_curve("stage1", SUMMARY)
    assert curve.loss == ((10, 2.0), (20, 1.0)) and curve.dev == ((10, 0.6), (20, 0.7))
    assert (curve.steps, curve.seconds, curve.metric, curve.best_metric) == (20, 3.5, "auc", 0.7)
    assert stage_curve("stage1", SUMMARY | {"metric": None, "best_metric": None}).dev == ()


def test_curves_are_read_where_the_student_is(tmp_path: Path) -> None:
    curves = (stage_curve("a", SUMMARY), StageCurve(name="b", steps=1, seconds=0.1))
    save_training_curves(curves, tmp_path)
    assert training_curves(tmp_path) == curves
    assert training_curves(tmp_path / "nowhere") == ()


def test_students_without_a_log_are_looked_up_in_their_run(tmp_path: Path) -> None:
    run = tmp_path / "run"
    for name in ("zebra", "aardvark"):
        (run / name / "student").mkdir(parents=True)
        (run / name / "stage.json").write_text(json.dumps(SUMMARY))
    (run / "student").mkdir()
    assert [curve.name for curve in training_curves(run / "student")] == ["aardvark", "zebra"]
    (run / "recipe.yaml").write_text("stages: [{name: zebra}, {name: aardvark}]\n")
    assert [curve.name for curve in training_curves(run / "student")] == ["zebra", "aardvark"]
    assert [curve.name for curve in training_curves(run / "zebra" / "student")] == ["zebra"]
    shutil.copytree(run / "student", tmp_path / "elsewhere")
    assert training_curves(tmp_path / "elsewhere") == ()


@pytest.mark.parametrize(
    "text", ["{", "[]", '{"stages": [{}]}', '{"stages": 3}', '{"stages": [{"name": 1, "steps": "x"}]}']
)
def test_a_damaged_log_is_named(text: str, tmp_path: Path) -> None:
    (tmp_path / "training.json").write_text(text)
    with pytest.raises(DataError, match=r"training\.json"):
        training_curves(tmp_path)
