"""SICK entailment: the student beside its teacher, and beside every rival of its speed, on the test split.

    python -m benchmarks.quality_sick --data DIR [--work DIR] [--seeds 0 1 2] [--jobs N]

`DIR` holds SICK's train, dev and test as JSON lines. One teacher is fine-tuned and labels one transfer set; every student
learns from those labels in the same number of steps, the tiny cross-encoder in the same time. Everything that is not
named here is the package's default. A stopped run goes on where it was.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.results import publish
from benchmarks.runs import pairs_of, run_all, spread, write_recipe
from distilmatch.config import TableConfig, TaskConfig
from distilmatch.data.tables import load_table
from distilmatch.metrics import agreement_metrics, task_metrics
from distilmatch.models import DiPair
from distilmatch.teachers import CrossEncoderTeacher
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


def recipe(data: Path, work: Path, name: str, student: dict[str, Any], seed: int) -> dict[str, Any]:
    """One student's recipe; all share the teacher's labels."""
    return {
        "train": str(data / "train.jsonl"),
        "dev": str(data / "dev.jsonl"),
        "output": str(work / name / "run"),
        "task": {"kind": TASK.kind, "classes": list(TASK.classes)},
        "table": {"text_columns": list(TABLE.text_columns or ()), "label_column": TABLE.label_column},
        "teacher": {"models": [str(work / "teacher")], "cache_folder": str(work / "labels")},
        "transfer": {"seed": 0},
        "student": student,
        "seed": seed,
    }


def teacher_command(data: Path, work: Path) -> list[str]:
    """The command that fine-tunes the teacher."""
    return [
        "distilmatch.cli", "finetune-teacher", str(data / "train.jsonl"), "--dev", str(data / "dev.jsonl"),
        "--output", str(work / "teacher"), "--seed", "0", "--task", "classification",
        "--classes", ",".join(TASK.classes), "--label-column", "entailment", "--text-columns", "sentence1,sentence2",
    ]  # fmt: skip


def run(data: Path, work: Path, seeds: list[int], jobs: int) -> dict[str, float]:
    """Everything up to trained models; the minutes of each run."""
    minutes = run_all({"teacher": teacher_command(data, work)}, work)
    recipes = {
        f"{name}_seed{seed}": recipe(data, work, f"{name}_seed{seed}", student, seed)
        for name, student in STUDENTS.items()
        for seed in (seeds if name in MAIN else seeds[:1])
    }
    commands = {name: write_recipe(work / name / "recipe.yaml", settings) for name, settings in recipes.items()}
    first = f"student_seed{seeds[0]}"
    minutes |= run_all({"labels": ["distilmatch.cli", "label", *commands[first][2:]]}, work)
    minutes |= run_all(commands, work, jobs)
    tiny = {
        "tiny_cross_encoder": [
            "benchmarks.tiny_cross_encoder", "--transfer", str(work / first / "run" / "transfer"),
            "--output", str(work / "tiny"), "--minutes", f"{minutes[first]:.2f}", "--seed", str(seeds[0]),
            "--task", json.dumps(TASK.to_dict()),
        ]
    }  # fmt: skip
    return minutes | run_all(tiny, work, jobs)


def accuracy(logits: np.ndarray, test: TupleTable) -> float:
    """Share of rows with the right class."""
    assert test.gold is not None
    return task_metrics(TASK, test.gold, logits)["accuracy"]


def main() -> None:
    """Runs it and publishes the figures of the test split."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, default=Path("runs/quality_sick"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--jobs", type=int, default=1, help="students trained at a time")
    arguments = parser.parse_args()
    data, work = arguments.data, arguments.work
    minutes = run(data, work, arguments.seeds, arguments.jobs)
    test = load_table(str(data / "test.jsonl"), TABLE, TASK)
    teacher = CrossEncoderTeacher(str(work / "teacher")).logits(pairs_of(test))
    tiny = CrossEncoderTeacher(str(work / "tiny")).logits(pairs_of(test))
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
