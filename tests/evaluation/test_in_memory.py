"""A teacher is fine-tuned, and a student evaluated, on tables and with teachers that a program has in memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from sentence_transformers import CrossEncoder
from tests.helpers import write_jsonl

from distilmatch import CrossEncoderTeacher, DiPair, StudentConfig, TableConfig, TaskConfig, evaluate_pairs
from distilmatch.config import FineTuneConfig
from distilmatch.data.tables import load_table
from distilmatch.errors import ConfigError, DataError
from distilmatch.training.teacher.fine_tune import fine_tune_teacher

BINARY = TaskConfig(kind="binary")
READ_AS = TableConfig(label_column="same")
WORDS = ("red", "blue", "green", "white")
ROWS = [
    {"a": f"a {left} car", "b": f"the {right} car", "same": int(left == right)} for left in WORDS for right in WORDS
]
TABLES: dict[str, Any] = {
    "pandas": pd.DataFrame(ROWS),
    "polars": pl.DataFrame(ROWS),
    "arrow": pa.Table.from_pylist(ROWS),
    "rows": ROWS,
}


@pytest.fixture(scope="module")
def student(tiny_encoder: Path) -> DiPair:
    shape = StudentConfig(kept_tokens=(2, 2), max_lengths=(16, 16), width=16, head_heads=2)
    return DiPair.from_encoder(tiny_encoder, shape, BINARY).eval()


@pytest.mark.parametrize("name", TABLES)
def test_a_student_is_evaluated_on_a_table_in_memory(name: str, student: DiPair, tiny_cross_encoder: Path) -> None:
    model = CrossEncoder(str(tiny_cross_encoder), device="cpu")
    table = load_table(ROWS, READ_AS, BINARY)
    expected = evaluate_pairs(student, table, teacher=CrossEncoderTeacher(model), measure_speed=False, resamples=0)
    report = evaluate_pairs(student, TABLES[name], read_as=READ_AS, teacher=model, measure_speed=False, resamples=0)
    assert report.systems == expected.systems and len(report.systems) == 2


def test_a_function_is_a_teacher(student: DiPair) -> None:
    def same(pairs: list[tuple[str, str]]) -> np.ndarray:
        return np.array([4.0 if left.split()[1] == right.split()[1] else -4.0 for left, right in pairs])

    report = evaluate_pairs(student, ROWS, read_as=READ_AS, teacher=same, measure_speed=False, resamples=0)
    teacher = next(system for system in report.systems if system.role == "teacher")
    assert teacher.metrics["accuracy"] == 1.0


def test_what_is_no_teacher_or_lacks_a_column_is_refused(student: DiPair) -> None:
    with pytest.raises(ConfigError, match="is a int"):
        evaluate_pairs(student, ROWS, read_as=READ_AS, teacher=3)  # type: ignore[arg-type]
    with pytest.raises(DataError, match="no column 'gold'"):
        evaluate_pairs(student, ROWS, read_as=TableConfig(label_column="gold"))


def test_a_teacher_is_fine_tuned_on_a_frame_as_on_its_file(tiny_encoder: Path, tmp_path: Path) -> None:
    config = FineTuneConfig(
        base_model=str(tiny_encoder), minutes=0, epochs=1, batch_size=8, precision="fp32", max_length=32
    )
    path = write_jsonl(tmp_path / "rows.jsonl", ROWS)
    made = [
        fine_tune_teacher(source, BINARY, tmp_path / name, config, dev=dev, read_as=READ_AS)
        for name, source, dev in (("frame", pd.DataFrame(ROWS), pl.DataFrame(ROWS)), ("file", str(path), str(path)))
    ]
    pairs = [(row["a"], row["b"]) for row in ROWS]
    logits = [CrossEncoderTeacher(folder, precision="fp32", device="cpu").logits(pairs) for folder in made]
    np.testing.assert_allclose(logits[0], logits[1], atol=1e-6)
