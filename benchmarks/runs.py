"""Heavy benchmarks as commands: each run is one process with a folder of its own, is done once, and goes on after a stop.

Minutes are all that a run took: what a stopped attempt had spent counts too.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from inspect import signature
from pathlib import Path
from threading import Lock
from typing import Any

import yaml

from distilmatch.cli import finetune_teacher
from distilmatch.config.tables import TableConfig, TaskConfig
from distilmatch.files import write_json
from distilmatch.types import TupleTable

_TICK = 15.0


def run_all(commands: Mapping[str, Sequence[str]], work: Path, jobs: int = 1) -> dict[str, float]:
    """Runs `python -m COMMAND...` for each name and returns the minutes each took; what is done is not run again.

    Args:
        commands: name of the run: module and arguments.
        work: receives `NAME.log` and `minutes.json`.
        jobs: how many run at a time; each gets its share of the cores, or OMP_NUM_THREADS where that is set. Two runs
            of one thread finish sooner than one after the other with two.

    Raises:
        SystemExit: a run failed; the message names its log.
    """
    work.mkdir(parents=True, exist_ok=True)
    record, before = work / "minutes.json", work / "minutes_so_far.json"
    minutes: dict[str, float] = json.loads(record.read_text()) if record.is_file() else {}
    spent: dict[str, float] = json.loads(before.read_text()) if before.is_file() else {}
    threads = os.environ.get("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // jobs)))
    lock = Lock()

    def run(name: str) -> None:
        log = work / f"{name}.log"
        started, earlier = time.perf_counter(), spent.get(name, 0.0)
        with log.open("a") as stream:
            process = subprocess.Popen(
                [sys.executable, "-m", *commands[name]],
                stdout=stream,
                stderr=stream,
                env={**os.environ, "OMP_NUM_THREADS": threads},
            )
            code = None
            try:
                while code is None:
                    with suppress(subprocess.TimeoutExpired):
                        code = process.wait(timeout=_TICK)
                    with lock:  # this process may be stopped at any time
                        spent[name] = earlier + (time.perf_counter() - started) / 60
                        write_json(before, dict(spent))
            finally:
                if code is None:
                    process.terminate()
        if code != 0:
            raise SystemExit(f"{name} failed with exit code {code}: see {log}; run the same command again to go on")
        with lock:
            minutes[name] = spent[name]
            write_json(record, dict(minutes))
        print(f"{name}: {minutes[name]:.1f} min", flush=True)

    waiting = [name for name in commands if name not in minutes]
    with ThreadPoolExecutor(max_workers=jobs) as pool:
        for future in [pool.submit(run, name) for name in waiting]:
            future.result()
    return {name: minutes[name] for name in commands}


def teacher_command(
    work: Path, train: Path, dev: Path, task: TaskConfig, table: TableConfig, *more: str
) -> dict[str, list[str]]:
    """The run that fine-tunes the teacher in `work/teacher`."""
    return {"teacher": fine_tuning(work / "teacher", train, dev, task, table, *more)}


def fine_tuning(
    output: Path,
    train: Path,
    dev: Path,
    task: TaskConfig,
    table: TableConfig,
    *more: str,
    minutes: float | None = None,
) -> list[str]:
    """The command that fine-tunes a teacher in `output`: the one place where it is written.

    Args:
        more: further options, such as `--max-length`.
        minutes: its time, where the command takes one; else it trains as it does by default.
    """
    command = [
        "distilmatch.cli", "finetune-teacher", str(train), "--dev", str(dev), "--output", str(output),
        "--seed", "0", "--task", task.kind, "--text-columns", ",".join(table.text_columns or ()),
        "--label-column", str(table.label_column), *more,
    ]  # fmt: skip
    if task.classes:
        command += ["--classes", ",".join(task.classes)]
    if task.kind == "regression":
        command += ["--label-range", ",".join(f"{end:g}" for end in task.label_range)]
    if minutes is not None and "minutes" in signature(finetune_teacher.run).parameters:
        command += ["--minutes", f"{minutes:g}"]
    return command


def student_recipe(
    work: Path, name: str, train: Path, dev: Path, task: TaskConfig, table: TableConfig, seed: int, **settings: Any
) -> dict[str, Any]:
    """The recipe of the student `name`; all students of a benchmark share the teacher and its labels."""
    teacher = {"models": [str(work / "teacher")], "cache_folder": str(work / "labels")}
    return {
        "train": str(train),
        "dev": str(dev),
        "output": str(work / name / "run"),
        "task": task.to_dict(),
        "table": table.to_dict(),
        **settings,
        "teacher": teacher | settings.get("teacher", {}),
        "seed": seed,
    }


def train_students(recipes: Mapping[str, Mapping[str, Any]], work: Path, jobs: int) -> dict[str, float]:
    """Labels the transfer set once, trains every student in `work/NAME`, and returns the minutes of each run."""
    commands = {name: write_recipe(work / name / "recipe.yaml", recipe) for name, recipe in recipes.items()}
    first = next(iter(commands.values()))
    return run_all({"labels": ["distilmatch.cli", "label", *first[2:]]}, work) | run_all(commands, work, jobs)


def write_recipe(path: Path, recipe: Mapping[str, Any]) -> list[str]:
    """Writes a recipe beside its run and returns the command that trains it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(dict(recipe), sort_keys=False))
    return ["distilmatch.cli", "train", str(path)]


def pairs_of(table: TupleTable) -> list[tuple[str, str]]:
    """A table of two sides as pairs of text, as a cross-encoder takes them."""
    return [(left, right) for left, right in table.tuples()]


def spread(name: str, values: Sequence[float]) -> dict[str, float]:
    """The mean under `name`, and beside it the lowest, the highest and the sample standard deviation."""
    mean = sum(values) / len(values)
    deviation = (sum((value - mean) ** 2 for value in values) / max(1, len(values) - 1)) ** 0.5
    return {name: mean, f"{name}_min": min(values), f"{name}_max": max(values), f"{name}_std": deviation}
