"""What the default student should be: candidates beside each other in quality on dev and in pairs a second.

    python -m benchmarks.default_student --data DIR [--teachers DIR] [--work DIR] [--minutes M] [--train-rows N] [--sets NAME ...]

`CANDIDATE_SET` is the set's main metric on its dev split, of a student that learnt for `--minutes` of one core from the labels
of one teacher on `--train-rows` rows; no test split is read. `CANDIDATE_pairs_per_s` is the kernel's that `score` and `match`
take (with int8 the one that is asked for), from representations in memory, the median of the sets'. int8 is a way to score a
student, so that it shares the training of its shape. `--teachers` holds a teacher for each set, `DIR/SET`; without it one is
fine-tuned on the rows. A candidate on a set is a process and a row, which is not done again.

Theory: a pair costs the folded head products of the width squared, whatever its tokens, and largest similarities of all
pairs of tokens; so width should buy more speed than tokens, and tokens more where similarities are read.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.harness import PAPER_HEAD, Comparison
from benchmarks.results import publish
from benchmarks.runs import run_all
from benchmarks.sets import ENCODER, SETS, DataSet
from benchmarks.timed_training import train_for
from distilmatch.config.pairs import PairRecipe
from distilmatch.data.saved import read_saved_table
from distilmatch.data.tables import load_table
from distilmatch.engine.kernels.choice import KernelName
from distilmatch.engine.scorer import Scorer
from distilmatch.errors import ConfigError
from distilmatch.evaluation.pairs.speed import cached_pairs, kernel_speed
from distilmatch.files import write_json
from distilmatch.models import DiPair
from distilmatch.types import TupleTable

TRIED = ("walmart_amazon", "homedepot", "wikiqa", "stsb", "sick")
DEV_ROWS = 2000


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A shape of student, and the kernel that scores it."""

    label: str
    student: dict[str, Any] = field(default_factory=dict)
    kernel: KernelName = "auto"


_EIGHT, _NARROW, _RELU = {"kept_tokens": [8, 8]}, {"width": 256}, {"head_activation": "relu"}
CANDIDATES = {
    "default": Candidate(label="today's default"),
    "int8": Candidate(label="int8", kernel="native-int8"),
    "tokens_8": Candidate(label="8 + 8 tokens", student=_EIGHT),
    "width_256": Candidate(label="width 256", student=_NARROW),
    "relu": Candidate(label="ReLU", student=_RELU),
    "tokens_8_width_256": Candidate(label="8 + 8 tokens, width 256", student=_EIGHT | _NARROW),
    "tokens_8_width_256_relu": Candidate(label="8 + 8 tokens, width 256, ReLU", student=_EIGHT | _NARROW | _RELU),
    "tokens_8_width_256_relu_int8": Candidate(
        label="8 + 8 tokens, width 256, ReLU, int8", student=_EIGHT | _NARROW | _RELU, kernel="native-int8"
    ),
    "paper_head": Candidate(label="the paper's head", student=PAPER_HEAD),
    "paper_head_tokens_8_width_256": Candidate(
        label="the paper's head, 8 + 8 tokens, width 256", student=PAPER_HEAD | _EIGHT | _NARROW
    ),
}


def shape_of(name: str) -> str:
    """The first candidate that has the same student: the one whose training serves both."""
    return next(other for other, own in CANDIDATES.items() if own.student == CANDIDATES[name].student)


def fewer_rows(one: DataSet, train_rows: int, dev_rows: int = DEV_ROWS) -> DataSet:
    """The set with as many rows of train and dev as are asked for, of whole queries in random order, and no test."""

    def rows(folder: Path, split: str) -> Iterable[dict[str, Any]]:
        if split == "test":
            return []
        every = list(one.raw_rows(folder, split))
        numbers: dict[str, int] = {}
        query = np.array([numbers.setdefault(row[one.columns[0]], len(numbers)) for row in every])
        place = np.random.default_rng(0).permutation(len(numbers))[query]
        order = np.argsort(place, kind="stable")[: train_rows if split == "train" else dev_rows]
        return [every[i] for i in order]

    return replace(one, rows=rows, folder="", transfers=False)


def prepared(one: DataSet, data: Path, work: Path, teachers: Path | None, encoder: str = ENCODER) -> Comparison:
    """The set's teacher and labelled pairs, made where they are not there."""
    teacher = () if teachers is None else (teachers / one.name,)
    comparison = Comparison(
        one=one, data=data, work=work / one.name, seeds=(0,), teacher=teacher, rounds=2, encoder=encoder
    )
    commands = comparison.commands("student_seed0")
    run_all({name: commands[name] for name in ("teacher", "labels") if name in commands}, comparison.work)
    return comparison


def train_one(name: str, comparison: Comparison, minutes: float) -> None:
    """Trains a candidate's student on a set, where it is not there, measures it by its kernel and writes the row."""
    place = comparison.work / "students" / shape_of(name)
    if not place.is_dir():
        settings = comparison.recipe("student_seed0")
        settings["student"] = settings["student"] | CANDIDATES[name].student
        table = read_saved_table(comparison.work / "student_seed0" / "run" / "transfer")
        model, told = train_for(minutes, PairRecipe.from_dict(settings), table, place.with_suffix(".training"))
        write_json(comparison.work / f"{shape_of(name)}.training.json", told)
        model.save_pretrained(place)
    told = json.loads((comparison.work / f"{shape_of(name)}.training.json").read_text())
    model = DiPair.from_pretrained(place).eval()
    measured = measure(model, comparison, CANDIDATES[name].kernel)
    write_json(comparison.work / "rows" / f"{name}.json", told | measured)


def measure(model: DiPair, comparison: Comparison, kernel: KernelName) -> dict[str, Any]:
    """The main metric on dev of what the kernel gives, that of fp32, the kernel's pairs a second and its name."""
    one, rows = comparison.one, comparison.one.read(comparison.tables["dev"])
    table = load_table(str(comparison.tables["dev"]), one.table, one.task)
    try:
        speed, _ = kernel_speed(model, cached_pairs(model, table), kernel)
    except ConfigError as error:  # no such kernel here
        return {"left_out": str(error)}
    given = rows.answers(kernel_logits(model, table, kernel))
    exact = rows.answers(np.asarray(model.logits(rows.scored, show_progress_bar=False)))
    return {
        "dev": one.grade(given, given)[one.main],
        "dev_fp32": one.grade(exact, exact)[one.main],
        "pairs_per_s": speed.pairs_per_s,
        "kernel": speed.kernel,
    }


def kernel_logits(model: DiPair, table: TupleTable, kernel: KernelName) -> np.ndarray:
    """(n, c) logits of a table's rows by a kernel."""
    sides = [model.encode(table.texts, side, show_progress_bar=False) for side in range(table.sides)]
    return Scorer(model, kernel=kernel).score(*sides, rows=table.rows, show_progress_bar=False)


def figures(found: dict[str, dict[str, dict[str, Any]]]) -> dict[str, float]:
    """`CANDIDATE_SET`, `CANDIDATE_SET_fp32` and `CANDIDATE_pairs_per_s`, of rows by candidate and set."""
    metrics: dict[str, float] = {}
    for name, sets in found.items():
        there = {one: row for one, row in sets.items() if "left_out" not in row}
        if there:
            metrics[f"{name}_pairs_per_s"] = float(np.median([row["pairs_per_s"] for row in there.values()]))
        for one, row in there.items():
            metrics |= {f"{name}_{one}": row["dev"], f"{name}_{one}_fp32": row["dev_fp32"]}
    return metrics


def rows_of(
    candidates: Sequence[str], sets: Sequence[str], work: Path, same: Sequence[str]
) -> dict[str, dict[str, dict[str, Any]]]:
    """The rows by candidate and set, each made in a process of its own where it is not there."""
    found: dict[str, dict[str, dict[str, Any]]] = {name: {} for name in candidates}
    for one in sets:
        for name in sorted(candidates, key=lambda name: shape_of(name) != name):  # who shares a training comes later
            path = work / one / "rows" / f"{name}.json"
            if not path.is_file():
                path.parent.mkdir(parents=True, exist_ok=True)
                run_all({f"{name}_{one}": ["benchmarks.default_student", *same, "--only", name, one]}, work)
            found[name][one] = json.loads(path.read_text())
    return found


def main() -> None:
    """Makes every row and publishes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--teachers", type=Path, help="a folder with the teacher of each set")
    parser.add_argument("--work", type=Path, default=Path("runs/default_student"))
    parser.add_argument("--minutes", type=float, default=8.0, help="training of one candidate on one set")
    parser.add_argument("--train-rows", type=int, default=1500)
    parser.add_argument("--sets", nargs="+", choices=TRIED, default=list(TRIED))
    parser.add_argument("--candidates", nargs="+", choices=list(CANDIDATES), default=list(CANDIDATES))
    parser.add_argument("--only", nargs=2, metavar=("CANDIDATE", "SET"), help="make this row and stop")
    arguments = parser.parse_args()
    work, sets = arguments.work, arguments.only[1:] if arguments.only else arguments.sets
    comparisons = {
        name: prepared(fewer_rows(SETS[name], arguments.train_rows), arguments.data, work, arguments.teachers)
        for name in sets
    }
    if arguments.only:
        train_one(arguments.only[0], comparisons[arguments.only[1]], arguments.minutes)
        return
    same = ["--data", str(arguments.data), "--work", str(work), "--minutes", str(arguments.minutes)]
    same += ["--train-rows", str(arguments.train_rows)]
    same += [] if arguments.teachers is None else ["--teachers", str(arguments.teachers)]
    found = rows_of(arguments.candidates, sets, work, same)
    notes = {
        "minutes": arguments.minutes,
        "train_rows": arguments.train_rows,
        "labels": {name: CANDIDATES[name].label for name in arguments.candidates},
        "rows": found,
    }
    if list(arguments.candidates) == list(CANDIDATES) and list(sets) == list(TRIED):
        publish("default_student", figures(found), [0], notes)
    else:
        print(json.dumps(figures(found)))


if __name__ == "__main__":
    main()
