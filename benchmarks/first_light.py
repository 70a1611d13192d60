"""SICK entailment, end to end, with the commands a user would type.

Theory of the bottleneck: a labelled pair costs the teacher one pass over both texts; a training step costs the student
one encoder pass over a batch's distinct texts, three times a forward pass, and a head pass over its pairs. Scoring from
the cache costs the head alone, about `2 * L * (12 d^2)` operations a layer and pair, with no encoder in it.

    python -m benchmarks.first_light --data DIR      DIR holds SICK's train, dev and test as JSON lines

Every step is one `distilmatch` command and is run in its own process; a run that was stopped goes on where it was.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

import yaml

from benchmarks.results import publish

CLASSES = ["contradiction", "neutral", "entailment"]
TEXTS = "sentence1,sentence2"


def recipe(data: Path, work: Path, seed: int) -> dict[str, object]:
    """The recipe: everything that is not named here is the package's default."""
    return {
        "train": str(data / "train.jsonl"),
        "dev": str(data / "dev.jsonl"),
        "output": str(work / "run"),
        "task": {"kind": "classification", "classes": CLASSES},
        "table": {"text_columns": TEXTS.split(","), "label_column": "entailment"},
        "teacher": {"models": [str(work / "teacher")]},
        "seed": seed,
    }


def commands(data: Path, work: Path, seed: int) -> dict[str, list[str]]:
    """The user's commands, in order."""
    columns = ["--text-columns", TEXTS]
    labels = ["--task", "classification", "--classes", ",".join(CLASSES), "--label-column", "entailment", *columns]
    student, test = str(work / "run" / "student"), str(data / "test.jsonl")
    left, right = str(work / "left"), str(work / "right")
    teacher = str(work / "teacher")
    return {
        "finetune_teacher": [
            "finetune-teacher", str(data / "train.jsonl"), "--dev", str(data / "dev.jsonl"), "--output", teacher,
            "--seed", str(seed), *labels,
        ],
        "label": ["label", str(work / "recipe.yaml")],
        "train": ["train", str(work / "recipe.yaml")],
        "encode_left": ["encode", student, test, "--side", "left", "--text-column", "sentence1", "--output", left],
        "encode_right": ["encode", student, test, "--side", "right", "--text-column", "sentence2", "--output", right],
        "score": ["score", student, test, "--left", left, "--right", right, *columns, "--output", str(work / "scores.parquet")],
        "evaluate": [
            "evaluate", student, test, "--teacher", teacher, "--label-column", "entailment", *columns,
            "--precision", "auto", "--output", str(work / "report"),
        ],
    }  # fmt: skip


def main() -> None:
    """Runs the commands, one process each, and publishes the figures of the test split."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with train.jsonl, dev.jsonl, test.jsonl")
    parser.add_argument("--work", type=Path, default=Path("first-light"), help="where the run goes")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--note", default="", help="kept with the result")
    arguments = parser.parse_args()
    work = arguments.work
    work.mkdir(parents=True, exist_ok=True)
    (work / "recipe.yaml").write_text(yaml.safe_dump(recipe(arguments.data, work, arguments.seed), sort_keys=False))
    minutes = json.loads((work / "minutes.json").read_text()) if (work / "minutes.json").is_file() else {}
    for step, command in commands(arguments.data, work, arguments.seed).items():
        if step in minutes:
            continue
        print(f"$ distilmatch {' '.join(command)}", flush=True)
        started = time.perf_counter()
        subprocess.run([sys.executable, "-m", "distilmatch.cli", *command], check=True)
        minutes[step] = (time.perf_counter() - started) / 60
        (work / "minutes.json").write_text(json.dumps(minutes))
    report = json.loads((work / "report" / "report.json").read_text())["metrics"]
    settings = yaml.safe_load((work / "run" / "recipe.yaml").read_text())
    settings = {name: settings[name] for name in ("transfer", "student", "objective", "stage1", "stage2")}
    publish(
        "first_light",
        {
            "teacher_accuracy": report["teacher_accuracy"],
            "student_accuracy": report["student_accuracy"],
            "share_of_teacher": report["student_accuracy"] / report["teacher_accuracy"],
            "minutes": sum(minutes.values()),
            **{f"minutes_{step}": value for step, value in minutes.items()},
            "student_pairs_per_s": report.get("student_kernel_pairs_per_s", report["student_head_pairs_per_s"]),
            "student_end_to_end_pairs_per_s": report["student_end_to_end_pairs_per_s"],
            "teacher_pairs_per_s": report["teacher_pairs_per_s"],
            "cache_bytes_per_item_left_fp32": report["cache_bytes_per_item_left_fp32"],
            "cache_bytes_per_item_left_fp16": report["cache_bytes_per_item_left_fp16"],
            "cache_bytes_per_item_right_fp32": report["cache_bytes_per_item_right_fp32"],
            "cache_bytes_per_item_right_fp16": report["cache_bytes_per_item_right_fp16"],
        },
        [arguments.seed],
        {"note": arguments.note, "recipe": settings},
    )


if __name__ == "__main__":
    main()
