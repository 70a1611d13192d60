"""STS-B, regression: the student's Spearman correlation on the test split, beside its teacher's.

    python -m benchmarks.quality_stsb --data DIR [--work DIR] [--seeds 0 1 2] [--jobs N]

`DIR` holds STS-B's train, dev and test as JSON lines. Everything that is not named here is the package's default. A
stopped run goes on where it was.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from benchmarks.results import publish
from benchmarks.runs import pairs_of, run_all, spread, write_recipe
from distilmatch.config import TableConfig, TaskConfig
from distilmatch.data.tables import load_table
from distilmatch.metrics import task_metrics
from distilmatch.models import DiPair
from distilmatch.teachers import CrossEncoderTeacher

TASK = TaskConfig(kind="regression", label_range=(0.0, 5.0))
TABLE = TableConfig(text_columns=("sentence1", "sentence2"), label_column="score")


def run(data: Path, work: Path, seeds: list[int], jobs: int) -> dict[str, float]:
    """Everything up to trained models; the minutes of each run."""
    teacher = [
        "distilmatch.cli", "finetune-teacher", str(data / "train.jsonl"), "--dev", str(data / "dev.jsonl"),
        "--output", str(work / "teacher"), "--seed", "0", "--task", "regression", "--label-range", "0,5",
        "--label-column", "score", "--text-columns", "sentence1,sentence2",
    ]  # fmt: skip
    minutes = run_all({"teacher": teacher}, work)
    commands = {}
    for seed in seeds:
        folder = work / f"student_seed{seed}"
        recipe = {
            "train": str(data / "train.jsonl"),
            "dev": str(data / "dev.jsonl"),
            "output": str(folder / "run"),
            "task": {"kind": TASK.kind, "label_range": list(TASK.label_range)},
            "table": {"text_columns": list(TABLE.text_columns or ()), "label_column": TABLE.label_column},
            "teacher": {"models": [str(work / "teacher")], "cache_folder": str(work / "labels")},
            "transfer": {"rounds": 2, "seed": 0},
            "seed": seed,
        }
        commands[folder.name] = write_recipe(folder / "recipe.yaml", recipe)
    labels = {"labels": ["distilmatch.cli", "label", *commands[f"student_seed{seeds[0]}"][2:]]}
    return minutes | run_all(labels, work) | run_all(commands, work, jobs)


def main() -> None:
    """Runs it and publishes the figures of the test split."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, default=Path("runs/quality_stsb"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--jobs", type=int, default=1, help="students trained at a time")
    arguments = parser.parse_args()
    minutes = run(arguments.data, arguments.work, arguments.seeds, arguments.jobs)
    test = load_table(str(arguments.data / "test.jsonl"), TABLE, TASK)
    assert test.gold is not None
    teacher = CrossEncoderTeacher(str(arguments.work / "teacher")).logits(pairs_of(test))
    teacher_metrics = task_metrics(TASK, test.gold, teacher)
    measured = []
    for seed in arguments.seeds:
        model = DiPair.from_pretrained(arguments.work / f"student_seed{seed}" / "run" / "student").eval()
        logits = np.asarray(model.logits(test.tuples(), show_progress_bar=False))
        measured.append(task_metrics(TASK, test.gold, logits))
    metrics = {
        "teacher_spearman": teacher_metrics["spearman"],
        "teacher_pearson": teacher_metrics["pearson"],
        **spread("student_spearman", [values["spearman"] for values in measured]),
        **spread("student_pearson", [values["pearson"] for values in measured]),
    }
    metrics["student_share_of_teacher"] = metrics["student_spearman"] / metrics["teacher_spearman"]
    metrics |= {f"minutes_{name}": value for name, value in minutes.items()}
    publish("quality_stsb", metrics, arguments.seeds, {"jobs": arguments.jobs})


if __name__ == "__main__":
    main()
