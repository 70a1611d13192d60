"""A training with labelled dev rows ends with a decision beside the student; one without them ends all the same."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
from tests.helpers import COLOURS, THINGS

from distilmatch.config.pairs import PairRecipe
from distilmatch.config.tables import TableConfig, TaskConfig
from distilmatch.data.tables import load_table
from distilmatch.errors import ConfigError
from distilmatch.metrics.decisions import DECISION, decide_on
from distilmatch.models import DiPair
from distilmatch.training.pairs.distil import distil_pairs

COLUMNS = TableConfig(text_columns=("query", "product"), label_column="label")
TWO = {"kind": "classification", "classes": ["other", "same"]}


def rows(count: int, labels: tuple[Any, ...]) -> list[dict[str, Any]]:
    return [
        {
            "query": f"the {COLOURS[i % 4]} {THINGS[i % 3]}",
            "product": f"a {COLOURS[i % 3]} {THINGS[i % 4]} of {i}",
            "label": labels[i % len(labels)],
        }
        for i in range(count)
    ]


def trained(encoder: Path, output: Path, task: dict[str, Any], dev: Any, labels: tuple[Any, ...]) -> DiPair:
    settings: dict[str, Any] = {
        "output": str(output),
        "task": task,
        "table": COLUMNS.to_dict(),
        "encoder": [str(encoder)],
        "student": {"width": 16, "head_heads": 2, "kept_tokens": [2, 2], "max_lengths": [12, 12]},
        "stage1": {"epochs": 1, "evaluations": 1},
        "stage2": {"epochs": 0},
    }
    recipe = PairRecipe(**settings)
    return distil_pairs(recipe, train=rows(24, labels), dev=dev)


@pytest.mark.parametrize(("task", "labels"), [({"kind": "binary"}, (0, 1)), (TWO, ("other", "same"))])
def test_labelled_dev_rows_give_a_decision(
    task: dict[str, Any], labels: tuple[Any, ...], tiny_encoder: Path, tmp_path: Path
) -> None:
    dev = rows(18, labels)
    student = trained(tiny_encoder, tmp_path / "run", task, dev, labels)
    table = load_table(dev, COLUMNS, TaskConfig.from_dict(task))
    expected = decide_on(table, student.task, student.logits(table.tuples()))
    decision = student.decision
    assert decision.weights is not None and (tmp_path / "run" / "student" / DECISION).is_file()
    assert decision.model_copy(update={"weights": None}) == expected
    first = (tmp_path / "run" / "student" / DECISION).read_bytes()
    trained(tiny_encoder, tmp_path / "run", task, dev, labels)  # which is finished
    assert (tmp_path / "run" / "student" / DECISION).read_bytes() == first


@pytest.mark.parametrize(
    ("task", "dev", "labels"),
    [
        ({"kind": "binary"}, None, (0, 1)),
        ({"kind": "regression"}, rows(18, (0.1, 0.7, 0.4)), (0.2, 0.9)),
        (TWO, rows(18, ("same",)), ("other", "same")),
    ],
    ids=["no dev", "another task", "one class in dev"],
)
def test_a_training_ends_without_one(
    task: dict[str, Any],
    dev: Any,
    labels: tuple[Any, ...],
    tiny_encoder: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.WARNING):
        student = trained(tiny_encoder, tmp_path / "run", task, dev, labels)
    assert not (tmp_path / "run" / "student" / DECISION).exists()
    assert ("no threshold and no calibration" in caplog.text) == (task == TWO)
    with pytest.raises(ConfigError, match="no decision|needs a binary task"):
        student.predict([("a", "b")], threshold="best_f1")
