"""One comparison for every set: a teacher, students and rivals on the same texts, labels and token limits.

    python -m benchmarks.harness SET --data DIR [--work DIR] [--teacher DIR] [--minutes M] [--seeds 0 1 2] [--rows NAME ...]

The rows are fixed: what knows nothing, TF-IDF, BM25, the student's encoder untrained (cosine, MaxSim), DE-Cos, DE-FFNN in
its strong form, a two-layer cross-encoder on the same labels in the student's time, the student with the paper's head
(nothing beside the first position, random start), a student of 4 + 8 vectors, one with the feed-forward head that the
trillion pairs were scored with, one with products beside it, the student by default, and the teacher.
Agreement is with the teacher's logits on test: the share of rows of the same class, else Spearman's correlation.
Thresholds and choices are made on dev; logits are fp32 wherever a metric reads them. A row's minutes are all that its
training took, stops included; its pairs a second are of the very model whose quality stands beside them: students by the
kernel that `score` and `match` take, from representations in memory; cross-encoders in the package's own batches of one
length, in their fastest format.

A row is a file in `WORK/rows`: it is kept, and not made again. A stopped run goes on where it was.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import strong_feed_forward, untrained_rivals
from benchmarks.results import publish
from benchmarks.runs import fine_tuning, run_all, spread, student_recipe, write_recipe
from benchmarks.sets import ENCODER, SETS, DataSet, Rows
from distilmatch.config.pairs import TeacherConfig
from distilmatch.data.tables import load_table
from distilmatch.evaluation.pairs.speed import cached_pairs, kernel_speed, student_logits, teacher_pairs_per_s
from distilmatch.files import write_json
from distilmatch.metrics.agreement import agreement_metrics
from distilmatch.models import DiPair
from distilmatch.planning.limits import rate
from distilmatch.runtime import Precision, keep_freed_memory
from distilmatch.teachers import in_task_order, load_teacher
from distilmatch.teachers.precision import numbers_of
from distilmatch.types import TupleTable

PAPER_HEAD = {"head_similarities": 0, "head_maxsim": 0, "lexical": False, "head_start": "random"}
STUDENTS: dict[str, dict[str, Any]] = {
    "student": {},
    "paper_head": PAPER_HEAD,
    "student_4_8": {"kept_tokens": [4, 8]},
    "feed_forward_relu": {"head": "feed_forward", "head_intermediate": 256, "head_activation": "relu"},
    "feed_forward_compared": {
        "head": "feed_forward",
        "head_intermediate": 256,
        "head_activation": "relu",
        "head_similarities": 48,
        "lexical": True,
    },
    "de_cos": {"head": "cosine", "kept_tokens": [1, 1], "kept_strategy": "first_pooled"},
    "de_ffnn": strong_feed_forward.STUDENT,
}
SEEDED = ("student", "paper_head")
TINY = "tiny_cross_encoder"
LABELS = {
    "constant": "what knows nothing",
    "tfidf": "TF-IDF, cosine",
    "bm25": "BM25",
    "encoder_cosine": "the student's encoder untrained, cosine",
    "encoder_maxsim": "the student's encoder untrained, MaxSim",
    "de_cos": "DE-Cos: a trained cosine",
    "de_ffnn": "DE-FFNN over u, v, |u − v|, u · v",
    TINY: "cross-encoder of two layers",
    "paper_head": "student with the paper's head",
    "student_4_8": "student of 4 + 8 vectors",
    "feed_forward_relu": "student with a feed-forward head (ReLU, hidden width 256)",
    "feed_forward_compared": "the same, with products of the texts' vectors",
    "student": "**student by default**",
    "teacher": "teacher",
}


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """One set's comparison.

    Attributes:
        data: the folder of all sets; work: everything that is made.
        teacher: a teacher's folder, or those of an ensemble; empty fine-tunes one in `work`, in about `minutes` where that is
            given.
        rounds: how many times the rows are partitioned anew into blocks; None as the set says.
        encoder, settings: in the place of the usual encoder and of parts of the recipe, for a trial in small.
    """

    one: DataSet
    data: Path
    work: Path
    seeds: Sequence[int] = (0, 1, 2)
    teacher: tuple[Path, ...] = ()
    minutes: float | None = None
    rounds: int | None = None
    jobs: int = 1
    encoder: str = ENCODER
    settings: Mapping[str, Any] | None = None

    @cached_property
    def tables(self) -> dict[str, Path]:
        """The tables that everything reads, by split."""
        return self.one.tables(self.data, self.work / "tables")

    @cached_property
    def splits(self) -> dict[str, Rows]:
        """Train, dev and test."""
        return {split: self.one.read(self.tables[split]) for split in ("train", "dev", "test")}

    @cached_property
    def test_table(self) -> TupleTable:
        """The test pairs that are scored, as speed is measured on them: real texts of real lengths."""
        table = load_table(str(self.tables["test"]), self.one.table, self.one.task)
        return table.take(np.flatnonzero(self.splits["test"].found))

    @property
    def teacher_folders(self) -> tuple[Path, ...]:
        """Where the teacher is, or will be."""
        return self.teacher or (self.work / "teacher",)

    def names(self) -> list[str]:
        """Every row of the table, a seed a row."""
        seeded = [f"{name}_seed{seed}" for name in SEEDED for seed in self.seeds]
        return [*(name for name in LABELS if name not in SEEDED), *seeded]

    def recipe(self, name: str) -> dict[str, Any]:
        """The recipe of a student's row."""
        kind, _, seed = name.partition("_seed")
        usual = self.one.settings if self.settings is None else self.settings
        settings = {key: value for key, value in usual.items() if key != "student"}
        settings["transfer"] = {"seed": 0} | dict(settings.get("transfer", {}))
        if self.rounds is not None:
            settings["transfer"]["rounds"] = self.rounds
        student = self.one.student | dict(usual.get("student", {})) | STUDENTS[kind]
        made = student_recipe(
            self.work,
            name,
            self.tables.get("transfer", self.tables["train"]),
            self.tables["dev"],
            self.one.task,
            self.one.table,
            int(seed or self.seeds[0]),
            student=student,
            encoder=[self.encoder],
            **settings,
        )
        made["teacher"] |= {
            "models": [str(folder) for folder in self.teacher_folders],
            "max_length": self.one.pair_length,
        }
        return made

    def commands(self, name: str) -> dict[str, list[str]]:
        """What is run before a row can be measured, by the name of its minutes."""
        found: dict[str, list[str]] = {}
        if not self.teacher:
            places = (self.teacher_folders[0], self.tables["train"], self.tables["dev"])
            more = ["--max-length", str(self.one.pair_length), "--base-model", self.encoder]
            found["teacher"] = fine_tuning(*places, self.one.task, self.one.table, *more, minutes=self.minutes)
        kind = name.partition("_seed")[0]
        if kind == "teacher" or kind not in (*STUDENTS, TINY):
            return found if kind == "teacher" else {}
        first = f"student_seed{self.seeds[0]}"
        students = [first] if kind == TINY else [name]
        for student in (first, *students):
            train = write_recipe(self.work / student / "recipe.yaml", self.recipe(student))
            if student == first:
                found["labels"] = ["distilmatch.cli", "label", *train[2:]]
            if student in students:
                strong = student.startswith("de_ffnn")
                found[student] = ["benchmarks.strong_feed_forward", *train[2:]] if strong else train
        return found

    def tiny_command(self, minutes: float) -> dict[str, list[str]]:
        """The small cross-encoder, in the student's time."""
        return {
            TINY: [
                "benchmarks.tiny_cross_encoder",
                *("--transfer", str(self.work / f"student_seed{self.seeds[0]}" / "run" / "transfer")),
                *("--output", str(self.work / TINY), "--minutes", f"{minutes:.2f}", "--seed", str(self.seeds[0])),
                *("--task", json.dumps(self.one.task.to_dict()), "--encoder", self.encoder),
                *("--max-length", str(self.one.pair_length)),
            ]
        }

    def minutes_of(self, name: str) -> float:
        """Runs what a row needs; the minutes of its own run."""
        commands = self.commands(name)
        if not commands:
            return 0.0
        spent = run_all(commands, self.work, self.jobs)
        if name == TINY:
            spent |= run_all(self.tiny_command(spent[f"student_seed{self.seeds[0]}"]), self.work)
        return spent.get(name, 0.0)

    def row(self, name: str) -> dict[str, Any]:
        """A row: its metrics on dev and on test, minutes, pairs a second and what computes them; from its file if there."""
        path = self.work / "rows" / f"{name}.json"
        if not path.is_file():
            minutes = self.minutes_of(name)
            made = self._measured(name) | {"minutes": minutes}
            path.parent.mkdir(parents=True, exist_ok=True)
            write_json(path, made)
            print(f"{self.one.name} {name}: {_shown(made)}", flush=True)
        return dict(json.loads(path.read_text(encoding="utf-8")))

    def _measured(self, name: str) -> dict[str, Any]:
        kind = name.partition("_seed")[0]
        train, dev, test = (self.splits[split] for split in ("train", "dev", "test"))
        if kind == "constant":
            return {
                split: untrained_rivals.constant(self.one, train, rows, dev)
                for split, rows in (("dev", dev), ("test", test))
            }
        if kind == "tfidf":
            texts = self.one.known_texts(self.data, train)
            return dict(untrained_rivals.best_tfidf(self.one, texts, train, dev, test))
        if kind in ("bm25", "encoder_cosine", "encoder_maxsim"):
            make: Callable[[], untrained_rivals.Scores] = {
                "bm25": lambda: untrained_rivals.bm25([right for _, right in train.pairs]),
                "encoder_cosine": lambda: untrained_rivals.encoder_scores(self.one, "cosine", self.encoder),
                "encoder_maxsim": lambda: untrained_rivals.encoder_scores(self.one, "maxsim", self.encoder),
            }[kind]
            return dict(untrained_rivals.graded_scores(self.one, make(), train, dev, test))
        if kind in ("teacher", TINY):
            return self._cross_encoder(name, self.teacher_folders if kind == "teacher" else (self.work / kind,))
        return self._student(name)

    def _graded(self, name: str, logits: Callable[[list[tuple[str, str]]], np.ndarray]) -> dict[str, Any]:
        found = {split: logits(rows.scored) for split, rows in self.splits.items() if split != "train"}
        place = self._logits(name)
        place.parent.mkdir(parents=True, exist_ok=True)
        np.save(place, found["test"], allow_pickle=False)
        answers = {split: self.splits[split].answers(own) for split, own in found.items()}
        return {split: self.one.grade(answers["dev"], own) for split, own in answers.items()}

    def _logits(self, name: str) -> Path:
        """The file of a model's logits of the test pairs."""
        return self.work / "logits" / f"{name}.npy"

    def agreement(self, name: str) -> dict[str, float]:
        """How far a model's logits of the test pairs are the teacher's, by its usual measure; empty without either's."""
        own, teacher = (self._logits(each) for each in (name, "teacher"))
        if name == "teacher" or not own.is_file() or not teacher.is_file():
            return {}
        found = agreement_metrics(self.one.task, *(np.load(place, allow_pickle=False) for place in (own, teacher)))
        return {"agreement": next(iter(found.values()))}

    def cross_encoder(self, folders: Sequence[Path], precision: Precision) -> Any:
        """The cross-encoder of a folder, or the mean of several, in the order of the task's classes."""
        models = tuple(str(folder) for folder in folders)
        config = TeacherConfig(models=models, precision=precision, max_length=self.one.pair_length)
        return in_task_order(load_teacher(config), self.one.task)

    def _cross_encoder(self, name: str, folders: Sequence[Path]) -> dict[str, Any]:
        exact, fast = (self.cross_encoder(folders, precision) for precision in ("fp32", "auto"))
        rates = {"fp32": teacher_pairs_per_s(exact, self.test_table)[0]}
        if numbers_of(fast) != "fp32":
            rates[str(numbers_of(fast))] = teacher_pairs_per_s(fast, self.test_table)[0]
        best = max(rates, key=lambda numbers: rates[numbers])
        return self._graded(name, exact.logits) | {
            "pairs_per_s": rates[best],
            "computed_by": f"PyTorch {best}, from text",
        }

    def _student(self, name: str) -> dict[str, Any]:
        place, strong = self.work / name / "run" / "student", name.startswith("de_ffnn")
        model = strong_feed_forward.load(place) if strong else DiPair.from_pretrained(place).eval()
        keep_freed_memory()
        made = self._graded(name, lambda pairs: np.asarray(model.logits(pairs, show_progress_bar=False)))
        _, from_text = student_logits(model, self.test_table, measure=True, precision="auto")
        cached = cached_pairs(model, self.test_table)
        if strong:
            numbers = ("fp32", "bf16")
            rates = {
                precision: rate(
                    lambda precision=precision: model.score(  # type: ignore[misc]
                        *cached.sides, rows=cached.rows, precision=precision, show_progress_bar=False
                    ),
                    len(cached.rows),
                )
                for precision in numbers
            }
            best = max(rates, key=lambda precision: rates[precision])
            found: dict[str, Any] = {"pairs_per_s": rates[best], "computed_by": f"PyTorch {best}"}
        else:
            speed, logits = kernel_speed(model, cached, "auto")
            exact = kernel_speed(model, cached, "torch")[1]
            found = {"pairs_per_s": speed.pairs_per_s, "computed_by": speed.kernel}
            found["kernel_difference"] = float(np.abs(logits - exact).max())
        return made | found | {"from_text_pairs_per_s": from_text}


def _shown(row: Mapping[str, Any]) -> str:
    words = [f"{name} {value:.4f}" for name, value in row["test"].items()]
    return ", ".join([*words, f"{row['minutes']:.1f} min"])


def compare(comparison: Comparison, rows: Sequence[str] | None = None) -> dict[str, dict[str, Any]]:
    """The rows by name, one after another; `rows` for some of them (of all seeds). Models have their `agreement`."""
    made = {
        name: comparison.row(name) for name in comparison.names() if rows is None or name.partition("_seed")[0] in rows
    }
    return {name: row | comparison.agreement(name) for name, row in made.items()}


def figures(one: DataSet, rows: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    """Flat metrics: `ROW_METRIC` on test, with the spread where a row has seeds, minutes, rates and shares."""
    metrics: dict[str, float] = {}
    for kind in LABELS:
        own = [row for name, row in rows.items() if name.partition("_seed")[0] == kind]
        if not own:
            continue
        measured = {metric: [row["test"][metric] for row in own] for metric in own[0]["test"]}
        if all("agreement" in row for row in own):
            measured["agreement"] = [row["agreement"] for row in own]
        for metric, values in measured.items():
            name = f"{kind}_{metric}"
            metrics |= spread(name, values) if len(values) > 1 else {name: values[0]}
        metrics[f"{kind}_minutes"] = sum(row["minutes"] for row in own) / len(own)
        for rate_name in ("pairs_per_s", "from_text_pairs_per_s", "kernel_difference"):
            if rate_name in own[0]:
                metrics[f"{kind}_{rate_name}"] = float(np.median([row[rate_name] for row in own]))
    for kind in ("student", "student_4_8", "feed_forward_relu", "feed_forward_compared"):
        if f"teacher_{one.main}" in metrics and f"{kind}_{one.main}" in metrics:
            metrics[f"{kind}_share"] = metrics[f"{kind}_{one.main}"] / metrics[f"teacher_{one.main}"]
    return metrics


def notes(comparison: Comparison, rows: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """What the page of results needs beside the figures."""
    kinds = dict.fromkeys(name.partition("_seed")[0] for name in rows)
    settings = comparison.one.settings
    rounds = comparison.rounds if comparison.rounds is not None else settings.get("transfer", {}).get("rounds")
    epochs = settings.get("stage2", {}).get("epochs")
    is_usual = rounds is None and epochs is None
    labels = LABELS if is_usual else LABELS | {"student": "**student, trained for less than by default**"}
    return {
        "set": comparison.one.title,
        "main": comparison.one.main,
        "rows": {kind: labels[kind] for kind in labels if kind in kinds},
        "seeds_of": {kind: sum(name.partition("_seed")[0] == kind for name in rows) for kind in kinds},
        "max_lengths": list(comparison.one.max_lengths),
        "pair_length": comparison.one.pair_length,
        "rounds": rounds,
        "epochs": epochs,
        "stage1_epochs": settings.get("stage1", {}).get("epochs"),
        "teachers": len(comparison.teacher_folders),
        "computed_by": {name: row["computed_by"] for name, row in rows.items() if "computed_by" in row},
        "settings": dict(settings),
    }


def options(description: str | None, name: str) -> argparse.ArgumentParser:
    """The command line that every comparison has."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of the data sets")
    parser.add_argument("--work", type=Path, default=Path("runs") / name)
    parser.add_argument(
        "--teacher",
        type=Path,
        nargs="+",
        default=(),
        help="a fine-tuned teacher, or an ensemble; without it one is made",
    )
    parser.add_argument("--minutes", type=float, help="the teacher's time, where finetune-teacher takes one")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--rounds", type=int, help="of the transfer set; as the set says without it")
    parser.add_argument("--stage1-epochs", type=float, help="of students' stage 1; as the set says without it")
    parser.add_argument("--epochs", type=float, help="of students' stage 2; as the set says without it")
    parser.add_argument("--rows", nargs="+", choices=list(LABELS), help="only these")
    parser.add_argument("--publish", action="store_true", help="with --rows: publish them, and name the others")
    parser.add_argument("--jobs", type=int, default=1)
    return parser


def comparison_of(arguments: argparse.Namespace, one: DataSet) -> Comparison:
    """The comparison that a command line asks for."""
    settings = dict(one.settings)
    for stage, epochs in (("stage1", arguments.stage1_epochs), ("stage2", arguments.epochs)):
        if epochs is not None:
            settings[stage] = dict(settings.get(stage, {})) | {"epochs": epochs}
    return Comparison(
        one=replace(one, settings=settings),
        data=arguments.data,
        work=arguments.work,
        seeds=arguments.seeds,
        teacher=tuple(arguments.teacher),
        minutes=arguments.minutes,
        rounds=arguments.rounds,
        jobs=arguments.jobs,
    )


def compare_and_publish(
    name: str, description: str | None, one: str, more: Callable[[Comparison], dict[str, float]] | None = None
) -> None:
    """A benchmark of one set: its rows, and `more` figures; published where no row was left out, or where that is asked for."""
    arguments = options(description, name).parse_args()
    comparison = comparison_of(arguments, SETS[one])
    rows = compare(comparison, arguments.rows)
    spent = comparison.work / "minutes.json"
    labels = json.loads(spent.read_text()).get("labels", 0.0) if spent.is_file() else 0.0
    metrics = (
        figures(comparison.one, rows)
        | {"labels_minutes": labels}
        | (more(comparison) if more is not None and (not arguments.rows or arguments.publish) else {})
    )
    if arguments.rows and not arguments.publish:
        print(json.dumps(metrics))
    else:
        made = {name.partition("_seed")[0] for name in rows}
        left_out = [label for kind, label in LABELS.items() if kind not in made]
        publish(name, metrics, arguments.seeds, notes(comparison, rows) | {"left_out": left_out})


def main() -> None:
    """Compares on one set and prints the figures."""
    parser = options(__doc__, "harness")
    parser.add_argument("set", choices=list(SETS))
    arguments = parser.parse_args()
    started = time.perf_counter()
    comparison = comparison_of(arguments, SETS[arguments.set])
    rows = compare(comparison, arguments.rows)
    print(json.dumps(figures(comparison.one, rows) | {"threads": os.cpu_count(), "s": time.perf_counter() - started}))


if __name__ == "__main__":
    main()
