"""Tables and teachers that a program has in memory train the student that paths do."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from sentence_transformers import CrossEncoder
from tests.helpers import COLOURS, THINGS, write_jsonl

from distilmatch import CrossEncoderTeacher, DiPair, PairRecipe, TaskConfig, distil_pairs
from distilmatch.errors import ConfigError, DataError, ModelError
from distilmatch.teachers import FunctionTeacher, loaded_teacher
from distilmatch.training.pairs.distil import label_transfer_set

BINARY = TaskConfig(kind="binary")


def _rows(count: int, seed: int) -> list[dict[str, Any]]:
    rng = np.random.default_rng(seed)
    rows = []
    for _ in range(count):
        thing, (left, right) = rng.choice(THINGS), rng.choice(COLOURS[:3], 2)
        rows.append({"a": f"the {left} {thing}", "b": f"a {right} {thing} is small", "label": int(left == right)})
    return rows


TRAIN, DEV = _rows(40, 0), _rows(20, 1)


@pytest.fixture
def settings(tmp_path: Path, tiny_encoder: Path) -> dict[str, Any]:
    stage = {"epochs": 1, "learning_rate": 5e-3, "evaluations": 1, "precision": "fp32"}
    return {
        "output": str(tmp_path / "run"),
        "task": {"kind": "binary"},
        "table": {"label_column": "label"},
        "encoder": [str(tiny_encoder)],
        "transfer": {"rounds": 1, "block_size": 4, "cells_per_block": 16},
        "student": {"width": 16, "head_heads": 2, "kept_tokens": [2, 2], "max_lengths": [16, 16]},
        "stage1": stage,
        "stage2": stage,
        "device": "cpu",
    }


def _overlap(pairs: list[tuple[str, str]]) -> list[float]:
    return [float(len(set(left.split()) & set(right.split()))) - 1.0 for left, right in pairs]


def test_a_cross_encoder_and_a_frame_train_what_their_paths_do(
    settings: dict[str, Any], tiny_cross_encoder: Path, tmp_path: Path
) -> None:
    model = CrossEncoder(str(tiny_cross_encoder), device="cpu")
    given = distil_pairs(
        PairRecipe(**{**settings, "teacher": {"models": ["x"], "precision": "fp32"}, "start": "encoder"}),
        train=pd.DataFrame(TRAIN), dev=pl.DataFrame(DEV), teacher=model,
    )  # fmt: skip
    named = distil_pairs(
        PairRecipe.from_dict(
            settings
            | {
                "train": str(write_jsonl(tmp_path / "t.jsonl", TRAIN)),
                "dev": str(write_jsonl(tmp_path / "d.jsonl", DEV)),
            }
            | {"teacher": {"models": [str(tiny_cross_encoder)], "precision": "fp32"}, "start": "encoder"}
            | {"output": str(tmp_path / "other")}
        )
    )
    pairs = [(row["a"], row["b"]) for row in DEV]
    np.testing.assert_allclose(given.logits(pairs), named.logits(pairs), atol=1e-6)
    code = (
        "import sys; from distilmatch import DiPair\n"
        f"print(DiPair.from_pretrained({str(tmp_path / 'run' / 'student')!r}).eval().logits([{pairs[0]!r}])[0, 0])"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert float(said.splitlines()[-1]) == pytest.approx(float(given.logits(pairs[:1])[0, 0]), abs=1e-5)


@pytest.mark.parametrize(
    "made",
    [pd.DataFrame, pl.DataFrame, pa.Table.from_pylist, datasets.Dataset.from_list, list, iter],
    ids=["pandas", "polars", "arrow", "datasets", "rows", "iterator"],
)
def test_every_table_in_memory_is_read(settings: dict[str, Any], made: Any) -> None:
    table = label_transfer_set(settings, train=made(TRAIN), teacher=FunctionTeacher(_overlap, "overlap"))
    assert table.teacher is not None and set(table.texts) >= {row["a"] for row in TRAIN}
    expected = _overlap([(left, right) for left, right in table.tuples()])
    np.testing.assert_allclose(table.teacher[:, 0], expected)


def test_labels_of_a_named_function_are_cached_and_a_stopped_run_goes_on(settings: dict[str, Any]) -> None:
    asked: list[int] = []

    def counted(pairs: list[tuple[str, str]]) -> list[float]:
        asked.append(len(pairs))
        return _overlap(pairs)

    counted.name = "overlap, first version"  # type: ignore[attr-defined]
    label_transfer_set(settings, train=TRAIN, teacher=counted)
    first = sum(asked)
    student = distil_pairs(settings, train=TRAIN, teacher=counted)
    assert sum(asked) == first > 0
    again = distil_pairs(settings, train=pd.DataFrame(TRAIN), teacher=counted)
    np.testing.assert_array_equal(
        student.logits([("the red car", "a red car")]), again.logits([("the red car", "a red car")])
    )


def test_other_rows_or_another_teacher_are_another_run(settings: dict[str, Any]) -> None:
    teacher = FunctionTeacher(_overlap, "overlap")
    distil_pairs(settings, train=TRAIN, teacher=teacher)
    with pytest.raises(ConfigError, match="another recipe .different: train."):
        distil_pairs(settings, train=TRAIN[:-1], teacher=teacher)
    with pytest.raises(ConfigError, match="another recipe .different: teacher."):
        distil_pairs(settings, train=TRAIN, teacher=FunctionTeacher(_overlap, "overlap 2"))


def test_of_a_function_without_a_name_nothing_is_cached_and_that_is_said(
    settings: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    distil_pairs(settings, train=TRAIN, dev=DEV, teacher=_overlap)
    assert caplog.text.count("function without a name") == 1
    assert not list((Path(settings["output"]) / "labels").glob("*"))


def test_the_teachers_layers_of_a_model_in_memory_are_no_start(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="this one is in memory"):
        distil_pairs({**settings, "start": "teacher"}, train=TRAIN, teacher=FunctionTeacher(_overlap, "overlap"))


def test_a_recipe_may_wait_for_what_is_given() -> None:
    waiting = PairRecipe(output="run", task=BINARY)
    with pytest.raises(ConfigError, match="names no `train` table"):
        distil_pairs(waiting)
    with pytest.raises(ConfigError, match="name a `teacher`"):
        distil_pairs(waiting, train=TRAIN)
    with pytest.raises(ConfigError, match="train: is missing"):
        PairRecipe.from_dict({"output": "run", "task": {"kind": "binary"}})


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda pairs: [0.0], r"shape \(1,\) for 2 pairs"),
        (lambda pairs: [[0.0, 1.0]] * len(pairs), r"shape \(2, 2\)"),
        (lambda pairs: ["a"] * len(pairs), "not numbers"),
        (lambda pairs: [float("nan")] * len(pairs), "not finite"),
    ],
)
def test_a_function_that_does_not_score_each_pair_is_refused(
    answer: Any, message: str, settings: dict[str, Any]
) -> None:
    rows = [{**row, "label": None} for row in TRAIN[:2]]
    settings["transfer"]["rounds"] = 0
    with pytest.raises(ModelError, match=message):
        label_transfer_set(settings, train=rows, teacher=FunctionTeacher(answer, "x"))


def test_probabilities_become_logits() -> None:
    teacher = FunctionTeacher(lambda pairs: np.full(len(pairs), 0.8), "p", scale="probability")
    assert teacher.logits([("a", "b")])[0, 0] == pytest.approx(np.log(0.8 / 0.2), abs=1e-5)
    with pytest.raises(ModelError, match="not probabilities"):
        FunctionTeacher(lambda pairs: [1.5], "p", scale="probability").logits([("a", "b")])


def test_what_is_no_teacher_is_refused(tiny_cross_encoder: Path) -> None:
    with pytest.raises(ConfigError, match="is a int"):
        loaded_teacher(3, BINARY)
    assert isinstance(loaded_teacher(CrossEncoder(str(tiny_cross_encoder)), BINARY), CrossEncoderTeacher)
    with pytest.raises(ConfigError, match="`name` of a teacher"):
        FunctionTeacher(_overlap, " ")


def test_a_bad_row_in_memory_is_named(settings: dict[str, Any]) -> None:
    with pytest.raises(DataError, match="row 2"):
        distil_pairs(
            settings, train=[TRAIN[0], {"a": None, "b": "x", "label": 1}], teacher=FunctionTeacher(_overlap, "o")
        )


def test_the_student_is_loaded_like_any_other(settings: dict[str, Any]) -> None:
    student = distil_pairs(settings, train=TRAIN, teacher=FunctionTeacher(_overlap, "overlap"))
    loaded = DiPair.from_pretrained(Path(settings["output"]) / "student")
    assert [hit["corpus_id"] for hit in loaded.rank("the red car", ["a red car is small", "a blue car is small"])] == [
        hit["corpus_id"] for hit in student.rank("the red car", ["a red car is small", "a blue car is small"])
    ]


def test_classes_of_a_function_are_put_in_the_tasks_order(settings: dict[str, Any]) -> None:
    names = ("yes", "no", "maybe")

    def scores(pairs: list[tuple[str, str]]) -> np.ndarray:
        return np.stack([np.float32(_overlap(pairs)), -np.float32(_overlap(pairs)), np.zeros(len(pairs))], axis=1)

    settings |= {"task": {"kind": "classification", "classes": ["no", "maybe", "yes"]}, "table": {}}
    rows = [{"a": row["a"], "b": row["b"]} for row in TRAIN]
    teacher = FunctionTeacher(scores, "overlap", num_labels=3, class_names=names)
    table = label_transfer_set(settings, train=rows, teacher=teacher)
    expected = scores([(left, right) for left, right in table.tuples()])[:, [1, 2, 0]]
    assert table.teacher is not None
    np.testing.assert_allclose(table.teacher, expected, atol=1e-6)
    with pytest.raises(ConfigError, match="label"):
        distil_pairs(settings, train=rows, teacher=FunctionTeacher(_overlap, "one label"))
