"""What a dry run promises beside what the job takes: minutes and bytes of five jobs, each run as a process of its own.

Theory of the error: a rate that is measured for a few seconds is off by what the machine does meanwhile; what a job does
once (imports, loading, saving) is measured where the dry run does it too, and estimated where it does not.

    python -m benchmarks.dry_run_jobs [--scale X] [--folder DIR]
"""

from __future__ import annotations

import argparse
import csv
import json
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import yaml

from distilmatch.demo.catalogue import write_demo_catalogue
from distilmatch.estimates import disk_bytes

Figures = tuple[float, float, float, float]
"""Promised minutes, real minutes, promised bytes, real bytes."""

_PREPARES = ("encode_queries",)  # for the jobs after it; another encode, not measured


def dry_run_errors(folder: Path | None = None, scale: float = 1.0) -> dict[str, Figures]:
    """Runs the five jobs, each dry and then really, one after another.

    Args:
        folder: where data and results go; a temporary one by default.
        scale: of the amounts of work.
    """
    if folder is None:
        with tempfile.TemporaryDirectory() as made:
            return dry_run_errors(Path(made), scale)
    figures = {}
    jobs = _Jobs(folder, scale).in_order()
    _run([*jobs[0][1], "--dry-run"])  # so that no promise pays for files that the system has not read yet
    for name, command, output in jobs:
        if name in _PREPARES:
            _run(command)
        else:
            figures[name] = _beside(command, output)
    return figures


def relative_errors(figures: Mapping[str, Figures]) -> dict[str, float]:
    """|promised - real| / real of the minutes and of the bytes of each job."""
    errors = {}
    for name, (minutes, real_minutes, promised_bytes, real_bytes) in figures.items():
        errors[f"{name}_minutes_error"] = abs(minutes - real_minutes) / real_minutes
        errors[f"{name}_bytes_error"] = abs(promised_bytes - real_bytes) / real_bytes
    return errors


class _Jobs:
    """Data of the catalogue and the commands of the jobs; each needs what those before have made."""

    def __init__(self, folder: Path, scale: float) -> None:
        self.folder, self.scale = folder, scale
        folder.mkdir(parents=True, exist_ok=True)
        self.data = write_demo_catalogue(
            folder / "data", simple=True, train_pairs=round(2400 * scale), dev_pairs=200, test_pairs=100
        )
        self.columns = ["--text-columns", "query,product", "--label-column", "label"]

    def in_order(self) -> list[tuple[str, list[str], Path]]:
        """Name, command and output of each job."""
        folder, student = self.folder, str(self.folder / "run" / "student")
        products, queries = self._texts("products", 0), self._texts("queries", 1)
        tuned = ["finetune-teacher", str(self.data.train), "--dev", str(self.data.dev), "--task", "binary"]
        tuned += [*self.columns, "--epochs", "1", "--max-length", "96", "--output", str(folder / "teacher")]
        sides = ["--left", str(folder / "left"), "--right", str(folder / "right")]
        return [
            ("finetune_teacher", tuned, folder / "teacher"),
            ("train", ["train", str(self._recipe())], folder / "run"),
            ("encode", self._encode(student, "product", products, "right"), folder / "right"),
            ("encode_queries", self._encode(student, "query", queries, "left"), folder / "left"),
            (
                "score",
                ["score", student, str(self._pairs(queries, products)), *sides, *self.columns[:2]]
                + ["--output", str(folder / "scores.parquet")],
                folder / "scores.parquet",
            ),
            (
                "match",
                ["match", student, *sides, "--top-k", "10", "--output", str(folder / "best.parquet")],
                folder / "best.parquet",
            ),
        ]

    def _encode(self, student: str, side: str, table: Path, output: str) -> list[str]:
        made = ["encode", student, str(table), "--side", side, "--text-column", "text", "--dtype", "fp16"]
        return [*made, "--output", str(self.folder / output)]

    def _recipe(self) -> Path:
        path = self.folder / "recipe.yaml"
        settings = {
            "train": str(self.data.train),
            "dev": str(self.data.dev),
            "output": str(self.folder / "run"),
            "task": {"kind": "binary"},
            "table": {"text_columns": ["query", "product"], "label_column": "label"},
            "teacher": {"models": [str(self.folder / "teacher")]},
            "transfer": {"rounds": 1, "cells_per_block": 32},
            "student": {"side_names": ["query", "product"], "max_lengths": [64, 64]},
            "stage1": {"epochs": 1, "evaluations": 2},
            "stage2": {"epochs": 0.5 * self.scale, "evaluations": 2},
        }
        path.write_text(yaml.safe_dump(settings), encoding="utf-8")
        return path

    def _texts(self, name: str, number: int) -> Path:
        """Texts of the catalogue, each many times with another number, so that all are distinct."""
        source = (self.data.products, self.data.queries)[number]
        known = [json.loads(line)["text"] for line in source.read_text(encoding="utf-8").splitlines()]
        count = round((12_000, 6_000)[number] * self.scale)
        path = self.folder / f"{name}.csv"
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["text"])
            writer.writerows([f"{known[i % len(known)]} No. {i}"] for i in range(count))
        return path

    def _pairs(self, queries: Path, products: Path) -> Path:
        path = self.folder / "pairs.csv"
        left, right = (
            [row["text"] for row in csv.DictReader(table.open(encoding="utf-8", newline=""))]
            for table in (queries, products)
        )
        draw = np.random.default_rng(0)
        rows = draw.integers(0, [len(left), len(right)], (round(800_000 * self.scale), 2))
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["query", "product"])
            writer.writerows((left[i], right[j]) for i, j in rows.tolist())
        return path


def _beside(command: Sequence[str], output: Path) -> Figures:
    """A job's promise and what it took."""
    promised, dry_minutes = _run([*command, "--dry-run"])
    minutes = float(_told(promised, r"^minutes +([\d.]+)$"))
    promised_bytes = float(_told(promised, r"^bytes +([\d,]+)$").replace(",", ""))
    _, real = _run(command)
    figures = (minutes, real, promised_bytes, float(disk_bytes(output)))
    print(f"{command[0]}: promised {minutes:.2f} min, took {real:.2f} (dry run {dry_minutes:.2f}); "
          f"promised {promised_bytes:,.0f} bytes, wrote {figures[3]:,.0f}", flush=True)  # fmt: skip
    return figures


def _run(command: Sequence[str]) -> tuple[str, float]:
    """What a process prints, and how many minutes it took."""
    started = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "distilmatch.cli", *command], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}: {done.stderr[-2000:]}")
    return done.stdout, (time.perf_counter() - started) / 60


def _told(text: str, pattern: str) -> str:
    said = re.search(pattern, text, re.MULTILINE)
    if said is None:
        raise RuntimeError(f"the dry run does not say {pattern}: {text[-1000:]}")
    return said.group(1)


def main() -> None:
    """Prints the figures of every job, and their errors as one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scale", type=float, default=1.0)
    parser.add_argument("--folder", type=Path)
    arguments = parser.parse_args()
    print(json.dumps(relative_errors(dry_run_errors(arguments.folder, arguments.scale))))


if __name__ == "__main__":
    main()
