"""What the teacher's defaults are worth: each set's teacher by the old defaults, spelled out, and by today's in the same time.

    python -m benchmarks.teacher_search --data DIR [--work DIR] [--minutes M] [--sets NAME ...]

`SET_old` is a rate of 1e-4, 4 epochs, batches of 32, 256 tokens, the base model's dropout and the first token; `SET_new` is what
`finetune-teacher` does by itself in `--minutes`, the same for all sets, where it takes a time. Both read the same texts and
keep the best epoch on dev; the set's main metric on test is published. A teacher is a row: it is not made again.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.results import FOLDER, publish
from benchmarks.runs import fine_tuning, run_all
from benchmarks.sets import ENCODER, SETS, DataSet
from distilmatch.files import write_json
from distilmatch.teachers import CrossEncoderTeacher, in_task_order

OLD = (
    *("--learning-rate", "1e-4", "--epochs", "4", "--batch-size", "32"),
    *("--max-length", "256", "--dropout", "0.1", "--readout", "first", "--class-weights", "none", "--quick"),
)
WAYS: dict[str, Sequence[str]] = {"new": (), "old": OLD}


def graded(one: DataSet, teacher: Path, tables: dict[str, Path]) -> dict[str, dict[str, float]]:
    """The metrics of a teacher's fp32 logits on dev and test."""
    model = in_task_order(CrossEncoderTeacher(str(teacher), precision="fp32"), one.task)
    rows = {split: one.read(tables[split]) for split in ("dev", "test")}
    answers = {split: own.answers(model.logits(own.scored)) for split, own in rows.items()}
    return {split: one.grade(answers["dev"], own) for split, own in answers.items()}


def row(one: DataSet, way: str, data: Path, work: Path, minutes: float, encoder: str = ENCODER) -> dict[str, Any]:
    """One teacher's metrics and minutes; from its file where it is there."""
    path = work / "rows" / f"{one.name}_{way}.json"
    if not path.is_file():
        tables, name = one.tables(data, work / one.name / "tables"), f"{one.name}_{way}"
        command = fine_tuning(
            work / name / "teacher",
            tables["train"],
            tables["dev"],
            one.task,
            one.table,
            *("--base-model", encoder, *WAYS[way]),
            minutes=minutes if way == "new" else None,
        )
        spent = run_all({name: command}, work)[name]
        made = graded(one, work / name / "teacher", tables) | {"minutes": spent}
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, made)
        print(f"{name}: {json.dumps(made)}", flush=True)
    return dict(json.loads(path.read_text(encoding="utf-8")))


def _run(result: dict[str, Any]) -> dict[str, Any]:
    """What a result says of the run that it is of."""
    return {"command": result["command"], "processor": result["machine"]["processor"]}


def main() -> None:
    """Makes and grades every teacher, and publishes where no set was left out."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, default=Path("runs/teacher_search"))
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("--sets", nargs="+", choices=list(SETS), default=list(SETS))
    parser.add_argument("--publish", action="store_true", help="with --sets: publish them, and name the others")
    parser.add_argument("--add", action="store_true", help="publish them beside the sets of earlier runs")
    arguments = parser.parse_args()
    metrics: dict[str, float] = {}
    for name in arguments.sets:
        one = SETS[name]
        for way in WAYS:
            made = row(one, way, arguments.data, arguments.work, arguments.minutes)
            metrics[f"{name}_{way}"] = made["test"][one.main]
            metrics[f"{name}_{way}_dev"] = made["dev"][one.main]
            metrics[f"{name}_{way}_minutes"] = made["minutes"]
    main_metrics = {name: SETS[name].main for name in arguments.sets}
    if arguments.publish or arguments.add or set(arguments.sets) == set(SETS):
        before: dict[str, Any] = {}
        if arguments.add:
            before = json.loads((FOLDER / "teacher_search.json").read_text(encoding="utf-8"))
            told = before["notes"]
            metrics, main_metrics = before["metrics"] | metrics, told["metric"] | main_metrics
        notes = {
            "old": list(OLD),
            "minutes": arguments.minutes,
            "metric": main_metrics,
            "threads": int(os.environ.get("OMP_NUM_THREADS", os.cpu_count() or 1)),
            "left_out": [name for name in SETS if name not in main_metrics],
            "before": [*before.get("notes", {}).get("before", ()), *([_run(before)] if before else [])],
        }
        publish("teacher_search", metrics, [0], notes)
    else:
        print(json.dumps(metrics))


if __name__ == "__main__":
    main()
