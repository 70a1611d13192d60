"""Related methods of distillation for pairs, each beside its plain counterpart at equal steps and equal labels.

    python -m benchmarks.methods_pairs --data DIR [--work DIR] [--teacher SET=DIR ...] [--sets NAME ...] [--rows NAME ...]
        [--seeds N ...] [--steps N] [--frozen] [--minutes M]

The student, its start (the encoder), the batches and the steps are the same in all rows of a set; a row differs from its
counterpart by the method alone. Checkpoints are chosen on dev, the chosen one is measured on test once. The teacher is
fine-tuned where none is given (`--minutes` for its time). A row is a file in `WORK/SET/rows`: it is kept, and not made again,
so a stopped run goes on, and what is done is published after each row.

Theory: losses cost nothing beside the encoders, so that at equal steps all objectives take the same time; a mixture costs two
texts more.

A row rises where dev of its counterpart gained a point or more in the last quarter of its evaluations: there the order of the
two is not to be read, for neither had learnt what it could.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.harness import Comparison
from benchmarks.results import publish
from benchmarks.runs import fine_tuning, run_all, spread, write_recipe
from benchmarks.sets import ENCODER, SETS
from distilmatch.files import write_json
from distilmatch.models import DiPair

USED = ("sick", "walmart_amazon", "wikiqa")
BUDGETS = (1_000, 3_000, 10_000)
FEW = (500, 2_000)
_BLOCK, _CELLS, _BATCH = 8, 32, 4
_POINT = 0.01
_EVALUATIONS = 8


@dataclass(frozen=True, kw_only=True)
class Method:
    """A row.

    Attributes:
        beside: the row that it is compared with; its own name for a plain one.
        changes: parts of the recipe, merged into the usual one.
        budget: of the teacher; rows: of the train table, the first so many of a random order.
        first: share of the steps that a stage of its own before the others takes.
        sets: where it can be.
    """

    label: str
    beside: str
    changes: Mapping[str, Any] = field(default_factory=dict)
    budget: int | None = None
    rows: int | None = None
    first: float = 0.0
    sets: tuple[str, ...] = USED


def methods() -> dict[str, Method]:
    """Every row by its name."""
    skew: dict[str, Any] = {"kind": "skewed_kl", "skew": 0.1}
    made = {
        "plain": Method(label="KL, BCE or listwise, by the task", beside="plain"),
        "atkd": Method(label="ATKD", beside="plain", changes={"objective": {"kind": "atkd"}}, sets=("sick", "wikiqa")),
        "skew": Method(label="skew KL, 0.1", beside="plain", changes={"objective": skew}),
        "reverse_skew": Method(
            label="skew reverse KL, 0.1", beside="plain", changes={"objective": skew | {"reverse": True}}
        ),
        "ptp": Method(
            label="teacher's predictions first (PTP), a fifth of the steps", beside="plain", first=0.2, sets=USED[:2]
        ),
    }
    for budget in BUDGETS:
        made[f"mse_{budget}"] = Method(
            label=f"MSE, {budget:,} labels",
            beside=f"mse_{budget}",
            budget=budget,
            changes={"objective": {"kind": "mse"}},
        )
        made[f"comparative_{budget}"] = Method(
            label=f"comparative, {budget:,} labels",
            beside=f"mse_{budget}",
            budget=budget,
            changes={"objective": {"kind": "comparative"}},
        )
    for rows in FEW:
        plain = {"transfer": {"perturbed": 0}}
        made[f"unaltered_{rows}"] = Method(
            label=f"neither, {rows:,} rows", beside=f"unaltered_{rows}", rows=rows, changes=plain
        )
        made[f"perturbed_{rows}"] = Method(label=f"`perturbed`, {rows:,} rows", beside=f"perturbed_{rows}", rows=rows)
        made[f"mixkd_{rows}"] = Method(
            label=f"MixKD, {rows:,} rows",
            beside=f"perturbed_{rows}",
            rows=rows,
            changes={"transfer": {"perturbed": 0, "mixtures": 2 * rows}},
            sets=USED[:2],
        )
    return made


METHODS = methods()


@dataclass(frozen=True, kw_only=True)
class Trial:
    """The rows of one set.

    Attributes:
        steps: of all stages together; a fifth of them with frozen encoders.
        frozen: whether the encoders stay frozen in all of them, so that a step costs the head alone.
    """

    comparison: Comparison
    steps: int
    frozen: bool = False

    @property
    def name(self) -> str:
        """Of the set."""
        return self.comparison.one.name

    def train_table(self, rows: int | None) -> tuple[Path, int]:
        """The train table, or some of its rows, and how many it has."""
        path = self.comparison.tables["train"]
        lines = path.read_text(encoding="utf-8").splitlines()
        if rows is None:
            return path, len(lines)
        small = path.with_name(f"train_{rows}.jsonl")
        order = np.random.default_rng(0).permutation(len(lines))[:rows]
        small.write_text("".join(f"{lines[i]}\n" for i in sorted(order.tolist())), encoding="utf-8")
        return small, len(order)

    def recipe(self, name: str, seed: int) -> dict[str, Any]:
        """The recipe of a row."""
        method = METHODS[name]
        train, rows = self.train_table(method.rows)
        made = self.comparison.recipe(f"student_seed{seed}")
        size = _BLOCK if method.budget is None else max(_BLOCK, math.ceil(2 * _BLOCK * rows / method.budget))
        made["transfer"] = {"seed": 0, "rounds": 1, "block_size": size, "cells_per_block": max(_CELLS, size)}
        for part, changes in method.changes.items():
            made[part] = dict(made.get(part, {})) | dict(changes)
        if method.budget is not None:
            made["teacher"] = dict(made["teacher"]) | {"budget": method.budget}
        made["student"] = made["student"] | {"lexical": False, "kept_tokens": [16, 16]}
        for usual in ("stage1", "stage2"):
            made.pop(usual, None)
        blocks = math.ceil(rows / size)
        stages = self.stages(method, blocks)
        return made | {
            "train": str(train),
            "start": "encoder",
            "stop_at_teacher": False,
            "stages": stages,
            "output": str(self.comparison.work / f"{name}_seed{seed}" / "run"),
        }

    def stages(self, method: Method, blocks: int) -> list[dict[str, Any]]:
        """The stages, whose steps are the same in all rows."""

        def epochs(share: float) -> float:
            return max(1, round(share * self.steps)) * _BATCH / blocks

        left = 1 - method.first
        made: list[dict[str, Any]] = [
            {"name": "stage1", "frozen_encoders": True, "epochs": epochs(0.2 * left), "evaluations": 1},
            {"name": "stage2", "epochs": epochs(0.8 * left), "evaluations": _EVALUATIONS},
        ]
        if self.frozen:
            made = [made[1] | {"epochs": epochs(left)}]
        if method.first:
            made.insert(0, {"name": "ptp", "learns": "teacher_predictions", "epochs": epochs(method.first)})
        return [{"blocks_per_batch": _BATCH, "frozen_encoders": self.frozen} | stage for stage in made]

    def row(self, name: str, seed: int) -> dict[str, Any]:
        """A row, from its file where it is there: metrics on dev and test, minutes, and how dev rose."""
        run = f"{name}_seed{seed}"
        path = self.comparison.work / "rows" / f"{run}.json"
        if not path.is_file():
            recipe = self.recipe(name, seed)
            command = write_recipe(self.comparison.work / run / "recipe.yaml", recipe)
            minutes = run_all({run: command}, self.comparison.work)[run]
            place = self.comparison.work / run / "run"
            made = self.measured(place / "student") | {"minutes": minutes, "dev_curve": dev_curve(place)}
            path.parent.mkdir(parents=True, exist_ok=True)
            write_json(path, made)
            print(f"{self.name} {run}: {json.dumps(made)}", flush=True)
        return dict(json.loads(path.read_text(encoding="utf-8")))

    def measured(self, student: Path) -> dict[str, Any]:
        """The student's main metric on dev and on test."""
        model = DiPair.from_pretrained(student).eval()
        one, splits = self.comparison.one, self.comparison.splits
        answers = {
            split: splits[split].answers(np.asarray(model.logits(splits[split].scored, show_progress_bar=False)))
            for split in ("dev", "test")
        }
        return {split: one.grade(answers["dev"], own)[one.main] for split, own in answers.items()}


def dev_curve(run: Path) -> list[float]:
    """The dev metric at each evaluation of the last stage."""
    summary = json.loads((run / "stage2" / "stage.json").read_text(encoding="utf-8"))
    key = f"eval_{summary['metric']}"
    return [float(entry[key]) for entry in summary["history"] if key in entry]


def rises(curve: Sequence[float]) -> bool:
    """Whether the best of the last quarter is a point or more above the best before it."""
    last = max(1, len(curve) // 4)
    return len(curve) > last and max(curve[-last:]) >= max(curve[:-last]) + _POINT


def figures(name: str, rows: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, float]:
    """`SET_METHOD` on test with its spread over the seeds, on dev, and how far it is from its counterpart on each seed."""
    metrics: dict[str, float] = {}
    for method, own in rows.items():
        for split, key in (("test", f"{name}_{method}"), ("dev", f"{name}_{method}_dev")):
            values = [row[split] for row in own]
            metrics |= spread(key, values) if len(values) > 1 else {key: values[0]}
        metrics[f"{name}_{method}_minutes"] = sum(row["minutes"] for row in own) / len(own)
        beside = METHODS[method].beside
        metrics[f"{name}_{method}_seeds"] = float(len(own))
        if beside in rows:
            metrics[f"{name}_{method}_rises"] = float(any(rises(row["dev_curve"]) for row in rows[beside]))
    return metrics


def published(work: Path, seeds: Sequence[int], steps: int, frozen: bool) -> None:
    """Publishes every row that is there, of all sets."""
    metrics: dict[str, float] = {}
    teachers: dict[str, float] = {}
    for name in USED:
        folder = work / name / "rows"
        rows: dict[str, list[dict[str, Any]]] = {}
        for method in METHODS:
            paths = sorted(folder.glob(f"{method}_seed*.json"))
            if paths:
                rows[method] = [json.loads(path.read_text(encoding="utf-8")) for path in paths]
        metrics |= figures(name, rows)
        if rows and (folder / "teacher.json").is_file():
            teachers[name] = json.loads((folder / "teacher.json").read_text())["test"]
            metrics[f"{name}_teacher"] = teachers[name]
    notes = {
        "methods": {name: {"label": method.label, "beside": method.beside} for name, method in METHODS.items()},
        "main": {name: SETS[name].main for name in USED},
        "titles": {name: SETS[name].title for name in USED},
        "steps": steps,
        "frozen": frozen,
    }
    if metrics:
        publish("methods_pairs", metrics, list(seeds), notes, "methods_pairs")


def trial(name: str, arguments: argparse.Namespace) -> Trial:
    """The trial of a set, with its teacher made."""
    given = dict(each.split("=", 1) for each in arguments.teacher)
    work = arguments.work / name
    one = replace(SETS[name], settings={"transfer": {"seed": 0}})
    teacher = Path(given.get(name, work / "teacher"))
    made = Comparison(one=one, data=arguments.data, work=work, seeds=tuple(arguments.seeds), teacher=(teacher,))
    if name not in given:
        more = ["--max-length", str(one.pair_length), "--base-model", ENCODER]
        tables = (made.tables["train"], made.tables["dev"])
        run_all({"teacher": fine_tuning(teacher, *tables, one.task, one.table, *more, minutes=arguments.minutes)}, work)
    path = work / "rows" / "teacher.json"
    if not path.is_file():
        model = made.cross_encoder((teacher,), "fp32")
        answers = {
            split: made.splits[split].answers(model.logits(made.splits[split].scored)) for split in ("dev", "test")
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, {split: one.grade(answers["dev"], own)[one.main] for split, own in answers.items()})
    return Trial(comparison=made, steps=arguments.steps, frozen=arguments.frozen)


def main() -> None:
    """Makes the rows that are asked for, and publishes all that are there after each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of the data sets")
    parser.add_argument("--work", type=Path, default=Path("runs/methods_pairs"))
    parser.add_argument("--teacher", nargs="+", default=[], metavar="SET=DIR", help="fine-tuned teachers")
    parser.add_argument("--minutes", type=float, help="the time of a teacher that is made here")
    parser.add_argument("--sets", nargs="+", choices=USED, default=list(USED))
    parser.add_argument("--rows", nargs="+", choices=list(METHODS), default=list(METHODS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=600, help="of a student, all stages together")
    parser.add_argument("--frozen", action="store_true", help="compare over frozen encoders: a work folder of its own")
    arguments = parser.parse_args()
    for name in arguments.sets:
        made = trial(name, arguments)
        for method in arguments.rows:
            if name in METHODS[method].sets:
                for seed in arguments.seeds:
                    made.row(method, seed)
                    published(arguments.work, arguments.seeds, arguments.steps, arguments.frozen)


if __name__ == "__main__":
    main()
