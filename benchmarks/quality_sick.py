"""SICK entailment: the student beside its teacher, and beside every rival of its speed, on the test split.

    python -m benchmarks.quality_sick --data DIR [--work DIR] [--seeds 0 1 2] [--jobs N]

`DIR` holds SICK's train, dev and test as JSON lines. One teacher is fine-tuned and labels one transfer set; every student
learns from those labels in the same number of steps, the tiny cross-encoder in the same time. Everything that is not
named here is the package's default. A stopped run goes on where it was.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.results import publish
from benchmarks.runs import options, pairs_of, run_all, spread, student_recipe, teacher_command, train_students
from distilmatch.config.tables import TableConfig, TaskConfig
from distilmatch.data.tables import load_table
from distilmatch.metrics import agreement_metrics, task_metrics
from distilmatch.models import DiPair
from distilmatch.teachers import CrossEncoderTeacher, in_task_order
from distilmatch.types import TupleTable

TASK = TaskConfig(kind="classification", classes=("contradiction", "neutral", "entailment"))
TABLE = TableConfig(text_columns=("sentence1", "sentence2"), label_column="entailment")
STUDENTS: dict[str, dict[str, Any]] = {
    "student": {"kept_tokens": [16, 16]},
    "student_4_8": {"kept_tokens": [4, 8]},
    "de_cos": {"head": "cosine", "kept_tokens": [1, 1], "kept_strategy": "first_pooled"},
    "de_ffnn": {"head": "feed_forward", "kept_tokens": [1, 1], "kept_strategy": "first_pooled"},
}
MAIN = ("student", "student_4_8")


def recipes(data: Path, work: Path, seeds: list[int]) -> dict[str, dict[str, Any]]:
    """The recipe of every student; the main ones with all seeds, the rivals with the first."""
    return {
        f"{name}_seed{seed}": student_recipe(
            work, f"{name}_seed{seed}", *_source(data), seed, transfer={"seed": 0}, student=student
        )
        for name, student in STUDENTS.items()
        for seed in (seeds if name in MAIN else seeds[:1])
    }


def run(data: Path, work: Path, seeds: list[int], jobs: int) -> dict[str, float]:
    """Everything up to trained models; the minutes of each run."""
    minutes = run_all(teacher_command(work, *_source(data)), work)
    minutes |= train_students(recipes(data, work, seeds), work, jobs)
    first = f"student_seed{seeds[0]}"
    tiny = [
        "benchmarks.tiny_cross_encoder", "--transfer", str(work / first / "run" / "transfer"),
        "--output", str(work / "tiny"), "--minutes", f"{minutes[first]:.2f}", "--seed", str(seeds[0]),
        "--task", json.dumps(TASK.to_dict()),
    ]  # fmt: skip
    return minutes | run_all({"tiny_cross_encoder": tiny}, work, jobs)


def _source(data: Path) -> tuple[Path, Path, TaskConfig, TableConfig]:
    return data / "train.jsonl", data / "dev.jsonl", TASK, TABLE


def accuracy(logits: np.ndarray, test: TupleTable) -> float:
    """Share of rows with the right class."""
    assert test.gold is not None
    return task_metrics(TASK, test.gold, logits)["accuracy"]


def main() -> None:
    """Runs it and publishes the figures of the test split."""
    arguments = options(__doc__, "quality_sick")
    data, work = arguments.data, arguments.work
    minutes = run(data, work, arguments.seeds, arguments.jobs)
    test = load_table(str(data / "test.jsonl"), TABLE, TASK)
    teacher = in_task_order(CrossEncoderTeacher(str(work / "teacher")), TASK).logits(pairs_of(test))
    tiny = in_task_order(CrossEncoderTeacher(str(work / "tiny")), TASK).logits(pairs_of(test))
    metrics = {"teacher_accuracy": accuracy(teacher, test)}
    for name in STUDENTS:
        models = [
            DiPair.from_pretrained(work / f"{name}_seed{seed}" / "run" / "student").eval()
            for seed in (arguments.seeds if name in MAIN else arguments.seeds[:1])
        ]
        logits = [np.asarray(model.logits(test.tuples(), show_progress_bar=False)) for model in models]
        values = [accuracy(own, test) for own in logits]
        metrics |= spread(f"{name}_accuracy", values) if len(values) > 1 else {f"{name}_accuracy": values[0]}
        metrics[f"{name}_share_of_teacher"] = metrics[f"{name}_accuracy"] / metrics["teacher_accuracy"]
        agreement = [agreement_metrics(TASK, own, teacher)["agreement"] for own in logits]
        metrics[f"{name}_agreement"] = float(np.mean(agreement))
    metrics["tiny_cross_encoder_accuracy"] = accuracy(tiny, test)
    metrics["tiny_cross_encoder_share_of_teacher"] = (
        metrics["tiny_cross_encoder_accuracy"] / metrics["teacher_accuracy"]
    )
    metrics |= {f"minutes_{name}": value for name, value in minutes.items()}
    publish("quality_sick", metrics, arguments.seeds, {"students": STUDENTS, "jobs": arguments.jobs})


if __name__ == "__main__":
    main()
