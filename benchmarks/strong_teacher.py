"""What brings a student nearer to a strong teacher: one change at a time, graded on dev.

    python -m benchmarks.strong_teacher SET --data DIR --teacher DIR [DIR ...] [--work DIR] [--rounds N] [--attempts NAME ...]

Every attempt is a student of the same teacher and the same seed; where its transfer set is the same it shares the labels. No test
split is read. With `--epochs 0` the encoders stay frozen, and the result is `strong_teacher_frozen`. An attempt is a
row in `WORK/rows`: its dev metrics, their share of the teacher's, minutes, bytes of an item in half precision (the side that
takes more), and pairs a second of the kernel that `score` takes. It is not made again.

Theory: the cost of a pair is the folded head's, one token's products, plus one product of width `d` for each pair of kept tokens
where largest similarities are read. So tokens cost bytes first and pairs a second only from about forty a side on.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.harness import Comparison
from benchmarks.results import publish
from benchmarks.runs import run_all, write_recipe
from benchmarks.sets import SETS, cut, read_lines
from distilmatch.data.tables import load_table
from distilmatch.evaluation.pairs.speed import cached_pairs, kernel_speed
from distilmatch.files import write_json
from distilmatch.models import DiPair


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """What an attempt changes in the recipe of the usual student, part by part.

    Attributes:
        catalogue: whether the texts of the set's catalogue, without labels, are `unlabelled` ones.
    """

    label: str
    changes: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    catalogue: bool = False


_SIXTEEN: dict[str, Any] = {"kept_tokens": [16, 16]}
_PLAIN: dict[str, dict[str, Any]] = {"student": _SIXTEEN, "transfer": {"mined": 0}}
ATTEMPTS = {
    "sixteen": Attempt(label="16 + 16 tokens, nothing mined", changes=_PLAIN),
    "kept": Attempt(label="tokens by the texts' lengths", changes={"transfer": {"mined": 0}}),
    "mined": Attempt(label="tokens by length, 4 pairs of each left text mined", changes={"transfer": {"mined": 4}}),
    "catalogue": Attempt(
        label="tokens by length, 4 mined in the whole catalogue", changes={"transfer": {"mined": 4}}, catalogue=True
    ),
    "gaps": Attempt(
        label="tokens by length, gaps in the head",
        changes={"transfer": {"mined": 0}, "student": {"head_gaps": 12}},
    ),
    "lexical": Attempt(
        label="tokens by length, a lexical vector",
        changes={"transfer": {"mined": 0}, "student": {"lexical": True}},
    ),
    "lexical_gaps": Attempt(
        label="tokens by length, a lexical vector, gaps in the head",
        changes={"transfer": {"mined": 0}, "student": {"lexical": True, "head_gaps": 12}},
    ),
    "lexical_sixteen": Attempt(
        label="16 + 16 tokens, a lexical vector", changes=_PLAIN | {"student": _SIXTEEN | {"lexical": True}}
    ),
    "lexical_smooth": Attempt(
        label="tokens by length, a lexical vector, half the rates, averaged weights",
        changes={
            "transfer": {"mined": 0},
            "student": {"lexical": True},
            "stage2": {"learning_rate": 2.5e-4, "encoder_learning_rate": 1e-4, "averaging": 0.99},
        },
    ),
    "gentle": Attempt(
        label="tokens by length, half the rates in stage 2",
        changes={"transfer": {"mined": 0}, "stage2": {"learning_rate": 2.5e-4, "encoder_learning_rate": 1e-4}},
    ),
    "smooth": Attempt(
        label="tokens by length, half the rates, averaged weights",
        changes={
            "transfer": {"mined": 0},
            "stage2": {"learning_rate": 2.5e-4, "encoder_learning_rate": 1e-4, "averaging": 0.99},
        },
    ),
    "weighted": Attempt(
        label="half the rates, averaged weights, weighted matches, altered copies of matches",
        changes={
            "transfer": {"mined": 0},
            "stage2": {"learning_rate": 2.5e-4, "encoder_learning_rate": 1e-4, "averaging": 0.99},
            "objective": {"kind": "bce", "match_weight": 8.0},
        },
    ),
    "near": Attempt(
        label="tokens by length, near cells and hard negatives",
        changes={"transfer": {"mined": 0, "near_cells": 0.5, "hard_negatives": 2}},
    ),
    "mined_sixteen": Attempt(label="16 + 16 tokens, 4 mined", changes={"student": _SIXTEEN, "transfer": {"mined": 4}}),
    "spaced": Attempt(
        label="16 + 16 tokens, evenly spaced",
        changes=_PLAIN | {"student": _SIXTEEN | {"kept_strategy": "spaced"}},
    ),
    "averaged": Attempt(
        label="16 + 16 vectors, means of neighbouring tokens",
        changes=_PLAIN | {"student": _SIXTEEN | {"kept_strategy": "averaged"}},
    ),
    "logits": Attempt(
        label="tokens by length, the teacher's logits as a regression",
        changes={"transfer": {"mined": 0}, "objective": {"kind": "mse"}},
    ),
    "words": Attempt(
        label="tokens by length, word embeddings beside their outputs",
        changes={"transfer": {"mined": 0}, "student": {"word_vectors": True}},
    ),
    "long": Attempt(
        label="tokens by length, 4 mined, three times the epochs",
        changes={"transfer": {"mined": 4}, "stage2": {"epochs": 6.0}},
    ),
    "four_eight": Attempt(
        label="4 + 8 tokens, 4 mined", changes={"student": {"kept_tokens": [4, 8]}, "transfer": {"mined": 4}}
    ),
}


def recipe_of(name: str, comparison: Comparison, start: str) -> dict[str, Any]:
    """The recipe of an attempt."""
    made = comparison.recipe("student_seed0") | {"start": start}
    made["student"] = made["student"] | {"lexical": False}  # one change at a time
    for part, changes in ATTEMPTS[name].changes.items():
        made[part] = dict(made.get(part, {})) | dict(changes)
    if ATTEMPTS[name].catalogue:
        made["unlabelled"] = [str(catalogue_of(comparison))]
    return made | {"output": str(comparison.work / name / "run")}


def catalogue_of(comparison: Comparison) -> Path:
    """The set's catalogue as a file with a text a line, each cut as the set's other texts are."""
    path = comparison.work / "catalogue.txt"
    if not path.is_file():
        one = comparison.one
        rows = (row["text"] for name in one.catalogue for row in read_lines(comparison.data / one.folder / name))
        texts = cut([" ".join(text.split()) for text in rows], max(one.max_lengths) - 2)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(f"{text}\n" for text in texts if text), encoding="utf-8")
    return path


def teacher_row(comparison: Comparison) -> dict[str, Any]:
    """The teacher's dev metrics; kept in a file."""
    path = comparison.work / "rows" / "teacher.json"
    if not path.is_file():
        rows, one = comparison.splits["dev"], comparison.one
        logits = comparison.cross_encoder(comparison.teacher_folders, "fp32").logits(rows.scored)
        answers = rows.answers(logits)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, {"dev": one.grade(answers, answers)})
    return dict(json.loads(path.read_text(encoding="utf-8")))


def attempt_row(name: str, comparison: Comparison, start: str = "auto") -> dict[str, Any]:
    """Trains an attempt, where that is not done, and measures it on dev."""
    path = comparison.work / "rows" / f"{name}.json"
    if not path.is_file():
        command = write_recipe(comparison.work / name / "recipe.yaml", recipe_of(name, comparison, start))
        minutes = run_all({name: command}, comparison.work)[name]
        model = DiPair.from_pretrained(comparison.work / name / "run" / "student").eval()
        one, rows = comparison.one, comparison.splits["dev"]
        answers = rows.answers(np.asarray(model.logits(rows.scored, show_progress_bar=False)))
        table = load_table(str(comparison.tables["dev"]), one.table, one.task)
        speed, _ = kernel_speed(model, cached_pairs(model, table.take(np.flatnonzero(rows.found))), "auto")
        made = {
            "dev": one.grade(answers, answers),
            "minutes": minutes,
            "bytes_an_item": 2 * max(model.student.kept_vectors) * model.student.vector_width,
            "kept_tokens": list(model.student.kept_tokens),
            "pairs_per_s": speed.pairs_per_s,
            "computed_by": speed.kernel,
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, made)
        print(f"{comparison.one.name} {name}: {json.dumps(made)}", flush=True)
    return dict(json.loads(path.read_text(encoding="utf-8")))


def figures(name: str, teacher: Mapping[str, Any], rows: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    """`SET_ATTEMPT_METRIC` and its share of the teacher's, minutes, bytes and pairs a second."""
    metrics = {f"{name}_teacher_{metric}": value for metric, value in teacher["dev"].items()}
    for attempt, row in rows.items():
        for metric, value in row["dev"].items():
            metrics[f"{name}_{attempt}_{metric}"] = value
            if metric != "threshold":
                metrics[f"{name}_{attempt}_{metric}_share"] = value / teacher["dev"][metric]
        for fact in ("minutes", "bytes_an_item", "pairs_per_s"):
            metrics[f"{name}_{attempt}_{fact}"] = float(row[fact])
    return metrics


def main() -> None:
    """Makes the attempts of one set and publishes them beside those of the sets that were made before."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("set", choices=list(SETS))
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--teacher", type=Path, nargs="+", required=True, help="a fine-tuned teacher, or an ensemble")
    parser.add_argument(
        "--work", type=Path, default=Path("runs/strong_teacher"), help="a folder of the set's is made below it"
    )
    parser.add_argument("--rounds", type=int, default=1, help="of the transfer set")
    parser.add_argument("--epochs", type=float, default=2.0, help="of stage 2, where an attempt says nothing else")
    parser.add_argument(
        "--stage1-epochs",
        type=float,
        help="of stage 1; with `--epochs 0` heads are compared over the same frozen layers",
    )
    parser.add_argument(
        "--start", choices=["auto", "encoder", "teacher"], default="auto", help="the students' first weights"
    )
    parser.add_argument("--attempts", nargs="+", choices=list(ATTEMPTS), default=list(ATTEMPTS))
    arguments = parser.parse_args()
    settings: dict[str, dict[str, Any]] = {
        "transfer": {"seed": 0},
        "stage2": {"epochs": arguments.epochs, "evaluations": 4},
    }
    if arguments.stage1_epochs is not None:
        settings["stage1"] = {"epochs": arguments.stage1_epochs, "evaluations": 6}
    one = replace(SETS[arguments.set], settings=settings)
    comparison = Comparison(
        one=one,
        data=arguments.data,
        work=arguments.work / arguments.set,
        seeds=(0,),
        teacher=tuple(arguments.teacher),
        rounds=arguments.rounds,
    )
    teacher = teacher_row(comparison)
    for name in arguments.attempts:
        attempt_row(name, comparison, arguments.start)
    metrics: dict[str, float] = {}
    notes: dict[str, Any] = {"attempts": {name: attempt.label for name, attempt in ATTEMPTS.items()}}
    notes |= {"rounds": arguments.rounds, "epochs": arguments.epochs}
    for place in sorted(arguments.work.iterdir()):
        folder = place / "rows"
        rows = {name: folder / f"{name}.json" for name in ATTEMPTS}
        made = {name: json.loads(path.read_text()) for name, path in rows.items() if path.is_file()}
        if (folder / "teacher.json").is_file() and made:
            teacher = json.loads((folder / "teacher.json").read_text())
            metrics |= figures(place.name, teacher, made)
            notes.setdefault("main", {})[place.name] = SETS[place.name].main
    publish("strong_teacher" if arguments.epochs else "strong_teacher_frozen", metrics, [0], notes, "strong_teacher")


if __name__ == "__main__":
    main()
