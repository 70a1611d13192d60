"""STS-B, regression: the student's Spearman correlation on the test split, beside its teacher's.

    python -m benchmarks.quality_stsb --data DIR [--work DIR] [--seeds 0 1 2] [--jobs N]

`DIR` holds STS-B's train, dev and test as JSON lines. Everything that is not named here is the package's default. A
stopped run goes on where it was.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.quality_sick import STUDENTS
from benchmarks.results import publish
from benchmarks.runs import options, pairs_of, run_all, spread, student_recipe, teacher_command, train_students
from distilmatch.config.pairs import PairRecipe
from distilmatch.config.tables import TableConfig, TaskConfig
from distilmatch.data.tables import load_table
from distilmatch.metrics import task_metrics
from distilmatch.models import DiPair
from distilmatch.teachers import CrossEncoderTeacher
from distilmatch.training.pairs.distil import mean_embeddings

TASK = TaskConfig(kind="regression", label_range=(0.0, 5.0))
TABLE = TableConfig(text_columns=("sentence1", "sentence2"), label_column="score")

TRANSFER = {"rounds": 2, "seed": 0}
DE_FFNN = STUDENTS["de_ffnn"]
STAGE2 = {"epochs": 2.0}  # on dev this student stands beside its teacher after stage 1 (docs/log.md)


def recipes(data: Path, work: Path, seeds: list[int]) -> dict[str, dict[str, Any]]:
    """The recipe of the student of each seed, and of the rival with the first."""
    settings: dict[str, Any] = {"transfer": TRANSFER, "stage2": STAGE2}
    names = {f"student_seed{seed}": seed for seed in seeds}
    found = {name: student_recipe(work, name, *_source(data), seed, **settings) for name, seed in names.items()}
    rival = f"de_ffnn_seed{seeds[0]}"
    return found | {rival: student_recipe(work, rival, *_source(data), seeds[0], student=DE_FFNN, **settings)}


def run(data: Path, work: Path, seeds: list[int], jobs: int) -> dict[str, float]:
    """Everything up to trained models; the minutes of each run."""
    minutes = run_all(teacher_command(work, *_source(data)), work)
    return minutes | train_students(recipes(data, work, seeds), work, jobs)


def _source(data: Path) -> tuple[Path, Path, TaskConfig, TableConfig]:
    return data / "train.jsonl", data / "dev.jsonl", TASK, TABLE


def main() -> None:
    """Runs it and publishes the figures of the test split."""
    arguments = options(__doc__, "quality_stsb")
    minutes = run(arguments.data, arguments.work, arguments.seeds, arguments.jobs)
    test = load_table(str(arguments.data / "test.jsonl"), TABLE, TASK)
    assert test.gold is not None
    teacher = CrossEncoderTeacher(str(arguments.work / "teacher")).logits(pairs_of(test))
    teacher_metrics = task_metrics(TASK, test.gold, teacher)
    measured = []
    for name in recipes(arguments.data, arguments.work, arguments.seeds):
        model = DiPair.from_pretrained(arguments.work / name / "run" / "student").eval()
        logits = np.asarray(model.logits(test.tuples(), show_progress_bar=False))
        measured.append(task_metrics(TASK, test.gold, logits))
    rival = measured.pop()
    recipe = PairRecipe.from_yaml(arguments.work / f"student_seed{arguments.seeds[0]}" / "recipe.yaml")
    vectors = mean_embeddings(recipe, test.texts)
    cosine = (vectors[test.rows[:, 0]] * vectors[test.rows[:, 1]]).sum(1)
    metrics = {
        "encoder_cosine_spearman": task_metrics(TASK, test.gold, cosine[:, None])["spearman"],
        "teacher_spearman": teacher_metrics["spearman"],
        "teacher_pearson": teacher_metrics["pearson"],
        **spread("student_spearman", [values["spearman"] for values in measured]),
        **spread("student_pearson", [values["pearson"] for values in measured]),
        "de_ffnn_spearman": rival["spearman"],
        "de_ffnn_share_of_teacher": rival["spearman"] / teacher_metrics["spearman"],
    }
    metrics["student_share_of_teacher"] = metrics["student_spearman"] / metrics["teacher_spearman"]
    metrics |= {f"minutes_{name}": value for name, value in minutes.items()}
    publish("quality_stsb", metrics, arguments.seeds, {"transfer": TRANSFER, "stage2": STAGE2})


if __name__ == "__main__":
    main()
