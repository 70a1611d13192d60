"""The whole job with real weights, on a few hundred generated pairs, above a floor that guessing cannot reach."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tests.helpers import COLOURS, write_jsonl

from distilmatch.config.fine_tuning import FineTuneConfig
from distilmatch.config.pairs import PairRecipe, StudentConfig, TeacherConfig, TransferConfig
from distilmatch.config.stages import StageConfig
from distilmatch.config.tables import TableConfig, TaskConfig
from distilmatch.data.tables import load_table
from distilmatch.engine.scorer import Scorer
from distilmatch.evaluation.pairs.measure import evaluate_pairs
from distilmatch.jobs.encode import encode_table
from distilmatch.jobs.score import score_table
from distilmatch.metrics import task_metrics
from distilmatch.teachers import CrossEncoderTeacher
from distilmatch.training.pairs.distil import distil_pairs, new_student
from distilmatch.training.teacher.fine_tune import fine_tune_teacher

TASK = TaskConfig(kind="binary")
COLUMNS = TableConfig(text_columns=("query", "product"), label_column="label")
PRODUCTS = ["shoe", "lamp", "coat", "chair", "watch", "bag", "book", "cup"]


def _write(path: Path, rows: int, seed: int) -> Path:
    """A match is the same thing in the same colour; half of the others miss by the colour alone."""
    rng = np.random.default_rng(seed)
    made = []
    for _ in range(rows):
        colour, thing = rng.choice(COLOURS), rng.choice(PRODUCTS)
        kind = rng.random()
        other_colour = colour if kind < 0.5 else rng.choice([name for name in COLOURS if name != colour])
        other_thing = thing if kind < 0.75 else rng.choice([name for name in PRODUCTS if name != thing])
        size = rng.choice(["small", "large"])
        row = {"query": f"I want a {colour} {thing}", "product": f"{size} {other_thing}, colour {other_colour}"}
        made.append(row | {"label": int(kind < 0.5)})
    return write_jsonl(path, made)


@pytest.mark.slow
def test_a_student_of_minilm_beats_the_floor(tmp_path: Path, minilm: str) -> None:
    train, test = _write(tmp_path / "train.jsonl", 400, 0), _write(tmp_path / "test.jsonl", 200, 1)
    tuning = FineTuneConfig(base_model=minilm, minutes=0, epochs=3, batch_size=16, dropout=0.0, max_length=32)
    fine_tune_teacher(load_table(train, COLUMNS, TASK), TASK, tmp_path / "teacher", tuning)
    recipe = PairRecipe(
        train=str(train),
        output=str(tmp_path / "run"),
        task=TASK,
        table=COLUMNS,
        teacher=TeacherConfig(models=(str(tmp_path / "teacher"),)),
        encoder=(minilm,),
        transfer=TransferConfig(rounds=2, cells_per_block=64),
        # Without similarities: with them the untrained student already ranks this table.
        student=StudentConfig(
            side_names=("query", "document"),
            kept_tokens=(8, 8),
            max_lengths=(16, 16),
            head_similarities=0,
            head_maxsim=0,
        ),
        stage1=StageConfig(epochs=1),
        # Small batches want small rates: at the defaults one run in four stays where it began (docs/log.md).
        stage2=StageConfig(
            epochs=5, blocks_per_batch=2, learning_rate=5e-4, encoder_learning_rate=1e-4, warmup_ratio=0.1
        ),
    )
    student = distil_pairs(recipe)
    rows = load_table(test, COLUMNS, TASK, side_names=("query", "document"))
    report = evaluate_pairs(student, rows, teacher=CrossEncoderTeacher(tmp_path / "teacher"), measure_speed=False)
    assert report.teacher is not None
    assert report.teacher.metrics["auc"] > 0.9
    assert report.student.metrics["auc"] > 0.85
    assert rows.gold is not None
    assert task_metrics(TASK, rows.gold, new_student(recipe).logits(rows.tuples()))["auc"] < 0.75
    folders = [
        encode_table(student, test, tmp_path / side, side=side, text_column=column)
        for side, column in (("query", "query"), ("document", "product"))
    ]
    score_table(
        Scorer(student, kernel="torch"),
        test,
        tmp_path / "scores.parquet",
        folders,
        table=TableConfig(text_columns=("query", "product")),
    )
    import pyarrow.parquet as pq

    scored = np.array(pq.read_table(tmp_path / "scores.parquet")["logit_0"].to_pylist())
    np.testing.assert_allclose(scored, student.logits(rows.tuples())[:, 0], atol=1e-4)
