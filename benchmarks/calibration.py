"""How far probabilities are from shares of matches, before and after calibration on dev, on three sets of pairs.

    python -m benchmarks.calibration --data DIR --model SET=FOLDER ... [--rows N]

`DIR` holds the folders `walmart_amazon` (records of two shops), `wikiqa` (questions and sentences) and `sick` (here: does the
first sentence entail the second?) as JSON lines. A model is a student's or a fine-tuned teacher's folder that another benchmark
trained on the set's train split; name one for each set. Threshold and calibration are made on dev and measured on test. The worst
of the sets is published: a calibration that helps two and hurts the third has not helped.

Theory: a cross-encoder that is fine-tuned by log loss until its dev metric stops rising is too sure of itself, by a scale (Guo et
al. 2017), and one that was trained on another share of matches is off by a shift. Two numbers, fitted on 500 to 2,000 dev rows,
mend both. What is left is the luck of the rows: a perfect model shows up to about sqrt(15 / n) / 3 with n rows in 15 bins.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import expit, logsumexp
from sklearn.metrics import f1_score

from benchmarks.results import publish
from benchmarks.runs import pairs_of
from distilmatch.config.tables import TableConfig, TaskConfig
from distilmatch.data.tables import load_table
from distilmatch.files import read_json
from distilmatch.metrics.calibration import expected_calibration_error, log_loss
from distilmatch.metrics.decisions import decide_on
from distilmatch.metrics.thresholds import BEST_F1
from distilmatch.models import DiPair
from distilmatch.teachers import CrossEncoderTeacher
from distilmatch.types import TupleTable

BINARY = TaskConfig(kind="binary")
SEED = 0
MATCH = "entailment"


@dataclass(frozen=True, kw_only=True)
class PairSet:
    """A set of labelled pairs: its files, how they are read, and which class is a match (None: the labels are 0 and 1)."""

    dev: str
    test: str
    table: TableConfig
    task: TaskConfig = BINARY
    match: str | None = None

    def read(self, path: Path, rows: int) -> TupleTable:
        """A split with labels 0 and 1, cut to `rows` rows that are spread evenly over it."""
        table = load_table(str(path), self.table, self.task)
        if len(table) > rows:
            table = table.take(np.linspace(0, len(table) - 1, rows).astype(int))
        if self.match is None:
            return table
        assert table.gold is not None
        return replace(table, gold=(table.gold == self.task.classes.index(self.match)).astype(np.float32))


SETS = {
    "walmart_amazon": PairSet(
        dev="valid.jsonl.gz",
        test="test.jsonl.gz",
        table=TableConfig(text_columns=("left", "right"), label_column="label"),
    ),
    "wikiqa": PairSet(
        dev="valid.jsonl.gz",
        test="test.jsonl.gz",
        table=TableConfig(text_columns=("query", "document"), label_column="label"),
    ),
    "sick": PairSet(
        dev="dev.jsonl",
        test="test.jsonl",
        table=TableConfig(text_columns=("sentence1", "sentence2"), label_column="entailment"),
        task=TaskConfig(kind="classification", classes=("contradiction", "neutral", MATCH)),
        match=MATCH,
    ),
}


def match_scores(logits: np.ndarray, classes: Sequence[str] | None, match: str | None) -> np.ndarray:
    """(n,) match logits of (n, c) logits: the only one, or the log-odds of the class that is a match.

    Args:
        classes: names of the c classes, in the order of the logits; None where there are none.
        match: the class; None takes the second of two.
    """
    values = np.asarray(logits, dtype=np.float64).reshape(len(logits), -1)
    if values.shape[1] == 1:
        return values[:, 0]
    named = [str(name).lower() for name in classes or ()]
    if match is not None and match not in named or match is None and values.shape[1] != 2:
        raise SystemExit(f"a model of {values.shape[1]} classes ({', '.join(named)}) does not say what a match is")
    place = 1 if match is None else named.index(match)
    return np.asarray(values[:, place] - logsumexp(np.delete(values, place, axis=1), axis=1))


def scores_of(folder: Path, table: TupleTable, match: str | None) -> np.ndarray:
    """(n,) match logits of a student's or a cross-encoder's folder."""
    if read_json(folder / "config.json").get("model_type") == "dipair":
        student = DiPair.from_pretrained(folder).eval()
        logits = student.logits(table.tuples(), show_progress_bar=False)
        return match_scores(logits, student.task.classes, match)
    teacher = CrossEncoderTeacher(str(folder))
    return match_scores(teacher.logits(pairs_of(table)), teacher.class_names, match)


def figures(dev: TupleTable, dev_scores: np.ndarray, test: TupleTable, test_scores: np.ndarray) -> dict[str, float]:
    """Calibration error, log loss and F1 on test, before and after what was fitted on dev."""
    assert test.gold is not None
    decision = decide_on(dev, BINARY, dev_scores, SEED)
    gold, limit = test.gold >= 0.5, decision.threshold(BEST_F1).logit
    raw, calibrated = expit(test_scores), decision.calibration(test_scores)
    return {
        "ece_before": expected_calibration_error(gold, raw),
        "ece_after": expected_calibration_error(gold, calibrated),
        "equal_mass_ece_before": expected_calibration_error(gold, raw, equal_mass=True),
        "equal_mass_ece_after": expected_calibration_error(gold, calibrated, equal_mass=True),
        "log_loss_before": log_loss(gold, raw),
        "log_loss_after": log_loss(gold, calibrated),
        "f1_at_half": float(f1_score(gold, test_scores > 0, zero_division=0.0)),
        "f1_at_dev_threshold": float(f1_score(gold, test_scores > limit, zero_division=0.0)),
        "isotonic": float(decision.calibration.method == "isotonic"),
        "rows": float(len(test)),
        "matches": float(gold.sum()),
    }


def worst(by_set: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """The largest calibration error of all sets, before and after."""
    return {name: max(each[name] for each in by_set.values()) for name in ("ece_before", "ece_after")}


def models(named: Sequence[str]) -> dict[str, Path]:
    """The folder of each set, from `SET=FOLDER`.

    Raises:
        SystemExit: an unknown set, a set without a model, or a folder that holds none.
    """
    folders = {}
    for each in named:
        name, _, folder = each.partition("=")
        if name not in SETS or not (Path(folder) / "config.json").is_file():
            raise SystemExit(f"--model {each}: give SET=FOLDER, a set of {', '.join(SETS)} and a model's folder")
        folders[name] = Path(folder)
    missing = [name for name in SETS if name not in folders]
    if missing:
        raise SystemExit(
            f"no model for {', '.join(missing)}: the worst of all sets is published, give --model for each"
        )
    return folders


def main() -> None:
    """Scores dev and test of each set, fits on dev, measures on test and publishes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model", action="append", default=[], metavar="SET=FOLDER", help="repeatable, one a set")
    parser.add_argument("--rows", type=int, default=2500, help="most rows of a split")
    arguments = parser.parse_args()
    by_set = {}
    for name, folder in models(arguments.model).items():
        pairs = SETS[name]
        dev, test = (pairs.read(arguments.data / name / file, arguments.rows) for file in (pairs.dev, pairs.test))
        scores = [scores_of(folder, table, pairs.match) for table in (dev, test)]
        by_set[name] = figures(dev, scores[0], test, scores[1])
        print(name, by_set[name], flush=True)
    metrics = worst(by_set)
    for name, values in by_set.items():
        metrics |= {f"{name}_{key}": value for key, value in values.items()}
    notes: dict[str, Any] = {
        "bins": "15 of equal width (Guo et al. 2017), of the probability of a match",
        "models": {name: folder.name for name, folder in models(arguments.model).items()},
        "rows": arguments.rows,
    }
    publish("calibration", metrics, [SEED], notes)


if __name__ == "__main__":
    main()
