"""Every function that takes a table takes it from memory: pandas, polars, Arrow, `datasets` and rows, all with one result."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sentence_transformers import CrossEncoder, SentenceTransformer

from distilmatch import (
    CrossEncoderTeacher,
    DiPair,
    FineTuneConfig,
    StudentConfig,
    TableConfig,
    TaskConfig,
    distil_embeddings,
    distil_pairs,
    encode_table,
    evaluate_pairs,
    fine_tune_teacher,
    score_table,
)

BINARY = TaskConfig(kind="binary")
READ_AS = TableConfig(text_columns=("a", "b"), label_column="same")
COLOURS = ("red", "blue", "green", "white")
ROWS: list[dict[str, Any]] = [
    {"id": f"{i}{j}", "a": f"a {left} car", "b": f"the {right} car", "same": int(left == right)}
    for i, left in enumerate(COLOURS)
    for j, right in enumerate(COLOURS)
]
PAIRS = [(row["a"], row["b"]) for row in ROWS]
STAGE = {"epochs": 1, "evaluations": 1, "precision": "fp32"}

FORMS: dict[str, Callable[[list[dict[str, Any]]], Any]] = {
    "pandas": lambda rows: pd.DataFrame(rows, index=range(len(rows), 0, -1)),
    "polars": pl.DataFrame,
    "arrow": pa.Table.from_pylist,
    "datasets": datasets.Dataset.from_list,
    "rows": list,
}


@dataclass(frozen=True)
class Models:
    """Folders of tiny models, and a student."""

    encoder: Path
    sentence_encoder: Path
    cross_encoder: Path
    student: DiPair


@pytest.fixture(scope="module")
def models(tiny_encoder: Path, tiny_sentence_encoder: Path, tiny_cross_encoder: Path) -> Models:
    shape = StudentConfig(kept_tokens=(2, 2), max_lengths=(16, 16), width=16, head_heads=2)
    student = DiPair.from_encoder(tiny_encoder, shape, BINARY).eval()
    return Models(tiny_encoder, tiny_sentence_encoder, tiny_cross_encoder, student)


def _distil_pairs(models: Models, table: Any, folder: Path) -> np.ndarray:
    recipe = {
        "output": str(folder),
        "task": {"kind": "binary"},
        "table": {"text_columns": ["a", "b"], "label_column": "same"},
        "teacher": {"models": [str(models.cross_encoder)], "precision": "fp32"},
        "encoder": [str(models.encoder)],
        "start": "encoder",
        "transfer": {"rounds": 1, "block_size": 4, "cells_per_block": 16},
        "student": {"width": 16, "head_heads": 2, "kept_tokens": [2, 2], "max_lengths": [16, 16]},
        "stage1": STAGE,
        "stage2": STAGE | {"epochs": 0},
        "device": "cpu",
    }
    return distil_pairs(recipe, train=table, dev=table, test=table).logits(PAIRS)


def _fine_tune_teacher(models: Models, table: Any, folder: Path) -> np.ndarray:
    config = FineTuneConfig(
        base_model=str(models.encoder), minutes=0, epochs=1, batch_size=8, precision="fp32", max_length=32
    )
    made = fine_tune_teacher(table, BINARY, folder, config, dev=table, read_as=READ_AS)
    return CrossEncoderTeacher(made, precision="fp32", device="cpu").logits(PAIRS)


def _encode_table(models: Models, table: Any, folder: Path) -> np.ndarray:
    made = encode_table(models.student, table, folder, side="left", text_column="a", id_column="id")
    assert len(made) == len(COLOURS) and made.row_of_id([row["id"] for row in ROWS]).min() >= 0
    again = encode_table(models.student, table, folder, side="left", text_column="a", id_column="id")
    return again.read(np.arange(len(again))).tokens.float().numpy()


def _score_table(models: Models, table: Any, folder: Path) -> np.ndarray:
    folders = [
        encode_table(models.student, table, folder / column, side=side, text_column=column, id_column="id")
        for side, column in enumerate("ab")
    ]
    output = folder / "scores.parquet"
    assert score_table(models.student, table, output, folders, table=READ_AS) == len(ROWS)
    assert score_table(models.student, table, output, folders, table=READ_AS) == len(ROWS)  # it is done
    scored = pq.read_table(output)
    assert list(zip(scored["a"].to_pylist(), scored["b"].to_pylist(), strict=True)) == PAIRS
    return scored["logit_0"].to_numpy()


def _evaluate_pairs(models: Models, table: Any, folder: Path) -> np.ndarray:
    teacher = CrossEncoder(str(models.cross_encoder), device="cpu")
    report = evaluate_pairs(models.student, table, read_as=READ_AS, teacher=teacher, measure_speed=False, resamples=0)
    return np.array([list(system.metrics.values()) for system in report.systems])


def _distil_embeddings(models: Models, table: Any, folder: Path) -> np.ndarray:
    recipe = {
        "output": str(folder),
        "corpus": {"text_columns": ["a", "b"]},
        "labelled": [{"kind": "scored", "text_columns": ["a", "b"], "score_column": "same"}],
        "dev": {"text_columns": ["a", "b"], "score_column": "same"},
        "student": {"layers": [0], "max_length": 16},
        "objective": {"bank_size": 4},
        "stage1": STAGE | {"batch_size": 4},
        "stage2": STAGE | {"batch_size": 4},
        "device": "cpu",
    }
    teacher = SentenceTransformer(str(models.sentence_encoder), device="cpu")
    student = distil_embeddings(recipe, corpus=table, labelled=table, dev=table, teacher=teacher)
    return np.asarray(student.encode([text for pair in PAIRS for text in pair]))


FUNCTIONS: dict[str, Callable[[Models, Any, Path], np.ndarray]] = {
    "distil_pairs": _distil_pairs,
    "fine_tune_teacher": _fine_tune_teacher,
    "encode_table": _encode_table,
    "score_table": _score_table,
    "evaluate_pairs": _evaluate_pairs,
    "distil_embeddings": _distil_embeddings,
}


@pytest.fixture(scope="module")
def expected(models: Models, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], np.ndarray]:
    """What each function makes of the same rows in a file."""
    known: dict[str, np.ndarray] = {}
    folder = tmp_path_factory.mktemp("expected")
    pq.write_table(pa.Table.from_pylist(ROWS), folder / "rows.parquet")

    def of(function: str) -> np.ndarray:
        if function not in known:
            known[function] = FUNCTIONS[function](models, str(folder / "rows.parquet"), folder / function)
        return known[function]

    return of


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("function", FUNCTIONS)
def test_a_table_in_memory_gives_what_its_file_gives(
    function: str, form: str, models: Models, expected: Callable[[str], np.ndarray], tmp_path: Path
) -> None:
    made = FUNCTIONS[function](models, FORMS[form](ROWS), tmp_path / "made")
    np.testing.assert_allclose(made, expected(function), atol=1e-5)
