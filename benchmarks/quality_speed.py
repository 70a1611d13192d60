"""Quality against speed of the same trained models: a teacher, its students, and the rivals of their speed, on SICK.

    python -m benchmarks.quality_speed --data DIR [--work DIR] [--rounds N]

As `quality_sick`, with one seed and a transfer set that is partitioned `--rounds` times (one by default), so that all of it
trains in an hour. Every model learns from the same labels; the two-layer cross-encoder in the same time as the student.
Accuracy is that of SICK's test split. A rate is the median of repeated measurements on pairs of that split, each model in its
fastest number format here, on all cores: cross-encoders from text; students from stored vectors, and from text, where each
distinct text is encoded once.

Theory: from text the encoder's matrix products bound all of them. From stored vectors a pair costs what the head multiplies,
about 3.4 MFLOP for a transformer head over 16 + 16 tokens; for DE-Cos and DE-FFNN it costs reading two vectors from memory.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.quality_sick import STUDENTS as ALL
from benchmarks.quality_sick import TABLE, TASK, accuracy
from benchmarks.results import publish
from benchmarks.runs import pairs_of, run_all, student_recipe, teacher_command, train_students
from distilmatch.data.tables import load_table
from distilmatch.evaluation.pairs.speed import head_pairs_per_s, student_logits, teacher_pairs_per_s
from distilmatch.models import DiPair
from distilmatch.teachers import CrossEncoderTeacher, in_task_order

SEED = 0
STUDENTS = {name: ALL[name] for name in ("student", "de_cos", "de_ffnn")}


def train(data: Path, work: Path, rounds: int) -> dict[str, float]:
    """The teacher, the students and the tiny cross-encoder in `work`; the minutes of each."""
    source = (data / "train.jsonl", data / "dev.jsonl", TASK, TABLE)
    minutes = run_all(teacher_command(work, *source), work)
    transfer = {"seed": SEED, "rounds": rounds}
    recipes = {
        name: student_recipe(work, name, *source, SEED, transfer=transfer, student=student)
        for name, student in STUDENTS.items()
    }
    minutes |= train_students(recipes, work, 1)
    tiny = [
        "benchmarks.tiny_cross_encoder", "--transfer", str(work / "student" / "run" / "transfer"),
        "--output", str(work / "tiny"), "--minutes", f"{minutes['student']:.2f}", "--seed", str(SEED),
        "--task", json.dumps(TASK.to_dict()),
    ]  # fmt: skip
    return minutes | run_all({"tiny_cross_encoder": tiny}, work)


def measure(data: Path, work: Path) -> dict[str, float]:
    """Accuracy and pairs per second of each model."""
    test = load_table(str(data / "test.jsonl"), TABLE, TASK)
    metrics: dict[str, float] = {}
    for name, folder in (("teacher", "teacher"), ("tiny_cross_encoder", "tiny")):
        model = in_task_order(CrossEncoderTeacher(str(work / folder)), TASK)
        metrics[f"{name}_accuracy"] = accuracy(model.logits(pairs_of(test)), test)
        metrics[f"{name}_pairs_per_s"], _ = teacher_pairs_per_s(model, test)
    for name in STUDENTS:
        student = DiPair.from_pretrained(work / name / "run" / "student").eval()
        logits, rate = student_logits(student, test, measure=True, precision="auto")
        assert rate is not None
        metrics[f"{name}_accuracy"] = accuracy(np.asarray(logits), test)
        metrics[f"{name}_from_text_pairs_per_s"] = rate
        metrics[f"{name}_pairs_per_s"] = head_pairs_per_s(student, test, precision="auto")
    return metrics


def main() -> None:
    """Trains what is not trained yet, measures and publishes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, default=Path("runs") / "quality_speed")
    parser.add_argument("--rounds", type=int, default=1)
    arguments = parser.parse_args()
    minutes = train(arguments.data, arguments.work, arguments.rounds)
    metrics = measure(arguments.data, arguments.work)
    metrics |= {f"minutes_{name}": value for name, value in minutes.items()}
    notes: dict[str, Any] = {"students": STUDENTS, "rounds": arguments.rounds, "precision": "auto"}
    publish("quality_speed", metrics, [SEED], notes)


if __name__ == "__main__":
    main()
