"""Finds what a report shows of single rows and queries: where the student goes wrong, and what the texts are.

Shape legend: n rows; c labels; q queries.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import numpy as np
from scipy.special import expit, softmax

from distilmatch.config.tables import TaskConfig
from distilmatch.evaluation.pairs.details import (
    Answer,
    Confusion,
    PairDetails,
    QueryResult,
    QuerySpread,
    RankedText,
    Scatter,
    WorstRow,
)
from distilmatch.metrics import main_metric, task_metrics
from distilmatch.types import TupleTable

_POINTS = 500
_WORST_ROWS = 20
_WORST_QUERIES = 8
_RANKED_TEXTS = 5
_RELEVANT_TEXTS = 3
_SHUFFLES = 10
_LONGEST_TEXT = 2000  # characters that are kept of one
_UNPRINTABLE = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")


def pair_details(
    task: TaskConfig,
    table: TupleTable,
    logits: Mapping[str, np.ndarray],
    *,
    measured: np.ndarray,
    agreeing: np.ndarray,
    seed: int,
) -> PairDetails:
    """Looks at the rows behind the figures.

    Args:
        table: n rows.
        logits: (n, c) float32 of "student" and, where there is one, "teacher".
        measured: numbers of the rows that the task's metrics are measured on.
        agreeing: numbers of the rows that have the teacher's logits.
        seed: of what is drawn.
    """
    scores = {name: _scores(task, values) for name, values in logits.items() if name in ("student", "teacher")}
    against = "teacher" if len(agreeing) else "gold" if len(measured) else None
    spread, queries = _queries(task, table, scores, logits, measured) if task.kind == "ranking" else (None, ())
    trivial_name, trivial = _trivial(task, table, measured, seed)
    return PairDetails(
        confusion=_confusion(task, table, logits, measured),
        scatter=_scatter(task, table, scores, agreeing, seed) if len(agreeing) else None,
        against=against,  # type: ignore[arg-type]
        worst_rows=_worst_rows(task, table, scores, agreeing if len(agreeing) else measured, against),
        query_spread=spread,
        worst_queries=queries,
        trivial=trivial,
        trivial_name=trivial_name,
    )


def shown_text(text: str) -> str:
    """A text that any file and browser can hold: cut where it is very long, and without control characters."""
    if len(text) > _LONGEST_TEXT:
        text = text[: _LONGEST_TEXT - 1] + "…"
    return _UNPRINTABLE.sub("\N{REPLACEMENT CHARACTER}", text)


def _scores(task: TaskConfig, logits: np.ndarray) -> np.ndarray:
    """(n, c) float64: probabilities of the classes, or the one score, as `predict` gives it or in units of the label."""
    values = np.asarray(logits, dtype=np.float64)
    if task.kind == "classification":
        return np.asarray(softmax(values, axis=1))
    low, high = task.label_range if task.kind == "regression" else (0.0, 1.0)
    return np.asarray(low + expit(values) * (high - low))


def _predicted(task: TaskConfig, logits: np.ndarray) -> np.ndarray:
    """(n,) the class that is predicted, as the metrics have it."""
    return logits.argmax(1) if task.kind == "classification" else (logits[:, 0] > 0).astype(np.int64)


def _gold_classes(task: TaskConfig, gold: np.ndarray) -> np.ndarray:
    return gold.astype(np.int64) if task.kind == "classification" else (gold >= 0.5).astype(np.int64)


def _class_names(task: TaskConfig) -> tuple[str, ...]:
    return task.classes if task.kind == "classification" else ("0", "1")


def _confusion(
    task: TaskConfig, table: TupleTable, logits: Mapping[str, np.ndarray], measured: np.ndarray
) -> Confusion | None:
    if task.kind not in ("classification", "binary") or not len(measured):
        return None
    assert table.gold is not None
    gold, names = _gold_classes(task, table.gold[measured]), _class_names(task)
    counts = {}
    for system in ("student", "teacher"):
        if system in logits:
            cells = gold * len(names) + _predicted(task, logits[system][measured])
            matrix = np.bincount(cells, minlength=len(names) ** 2).reshape(len(names), len(names))
            counts[system] = tuple(tuple(int(count) for count in row) for row in matrix)
    return Confusion(classes=names, counts=counts)


def _scatter(
    task: TaskConfig, table: TupleTable, scores: Mapping[str, np.ndarray], agreeing: np.ndarray, seed: int
) -> Scatter:
    drawn = agreeing
    if len(agreeing) > _POINTS:
        drawn = np.sort(np.random.default_rng(seed).choice(agreeing, _POINTS, replace=False))
    student, teacher = scores["student"][drawn], scores["teacher"][drawn]
    groups: tuple[str, ...] = ("all rows",)
    group = np.zeros(len(drawn), dtype=np.int64)
    what, limits = "score", (0.0, 1.0)
    column = np.zeros(len(drawn), dtype=np.int64)
    if task.kind == "classification":
        column = teacher.argmax(1)
        groups, group = ("same class", "another class"), (student.argmax(1) != column).astype(np.int64)
        what = "probability of the teacher's class"
    elif task.kind == "binary" and table.gold is not None:
        gold = table.gold[drawn]
        groups, group = ("gold 0", "gold 1", "no gold label"), np.where(np.isfinite(gold), gold >= 0.5, 2)
    elif task.kind == "regression":
        what, limits = "value", task.label_range
    rows = np.arange(len(drawn))
    return Scatter(
        what=what,
        limits=limits,
        student=_rounded(student[rows, column]),
        teacher=_rounded(teacher[rows, column]),
        groups=groups,
        group=tuple(int(number) for number in group),
        rows=len(agreeing),
    )


def _rounded(values: np.ndarray) -> tuple[float, ...]:
    return tuple(round(float(value), 4) for value in values)


def _worst_rows(
    task: TaskConfig, table: TupleTable, scores: Mapping[str, np.ndarray], rows: np.ndarray, against: str | None
) -> tuple[WorstRow, ...]:
    if against is None:
        return ()
    student = scores["student"][rows]
    if against == "teacher":
        distance = np.abs(student - scores["teacher"][rows]).sum(1)
        if task.kind == "classification":
            distance = distance / 2  # of two distributions: from 0 to 1
        elif task.kind == "regression":
            distance = distance / (task.label_range[1] - task.label_range[0])
    elif task.kind == "ranking":
        return ()  # a relevance is no score: the worst queries show it
    else:
        assert table.gold is not None
        gold = table.gold[rows]
        classes = task.kind == "classification"
        distance = 1 - student[np.arange(len(rows)), gold.astype(int)] if classes else np.abs(student[:, 0] - gold)
    order = np.argsort(-distance, kind="stable")
    # Rows of the same texts would tell the same again.
    _, firsts = np.unique(table.rows[rows[order]], axis=0, return_index=True)
    worst = order[np.sort(firsts)[:_WORST_ROWS]]
    return tuple(
        WorstRow(
            row=int(row) + 1,
            texts=tuple(shown_text(table.texts[text]) for text in table.rows[row]),
            student=_answer(task, scores["student"][row]),
            teacher=_answer(task, scores["teacher"][row]) if against == "teacher" else None,
            gold=_gold_name(task, None if table.gold is None else table.gold[row]),
            distance=round(float(far), 4),
        )
        for row, far in zip(rows[worst], distance[worst], strict=True)
        if far > 0
    )


def _answer(task: TaskConfig, scores: np.ndarray) -> Answer:
    best = int(scores.argmax())
    label = task.classes[best] if task.kind == "classification" else None
    return Answer(score=round(float(scores[best]), 4), label=label)


def _gold_name(task: TaskConfig, gold: float | None) -> str | None:
    if gold is None or not np.isfinite(gold):
        return None
    return task.classes[int(gold)] if task.kind == "classification" else f"{gold:g}"


def _trivial(task: TaskConfig, table: TupleTable, measured: np.ndarray, seed: int) -> tuple[str, dict[str, float]]:
    """The best that can be had without reading a text, in the metrics that say so."""
    if not len(measured):
        return "", {}
    assert table.gold is not None
    gold = np.asarray(table.gold[measured], dtype=np.float64)
    if task.kind == "classification":
        counts = np.bincount(gold.astype(np.int64), minlength=task.num_labels)
        name = f"always answering “{task.classes[int(counts.argmax())]}”"
        return name, {"accuracy": float(counts.max() / len(gold))}
    if task.kind == "binary":
        return "guessing", {"auc": 0.5, "average_precision": float((gold >= 0.5).mean())}
    if task.kind == "regression":
        return "always answering the mean", {"spearman": 0.0, "rmse": float(gold.std())}
    assert table.queries is not None
    generator, main = np.random.default_rng(seed), main_metric(task)
    shuffled = [
        task_metrics(task, gold, generator.random((len(gold), 1)), table.queries[measured])[main]
        for _ in range(_SHUFFLES)
    ]
    return "a random order", {main: float(np.mean(shuffled))}


def _queries(
    task: TaskConfig,
    table: TupleTable,
    scores: Mapping[str, np.ndarray],
    logits: Mapping[str, np.ndarray],
    measured: np.ndarray,
) -> tuple[QuerySpread | None, tuple[QueryResult, ...]]:
    """How queries differ, and those that the student ranks worst."""
    if not len(measured):
        return None, ()
    assert table.gold is not None and table.queries is not None
    ordered = measured[np.argsort(table.queries[measured], kind="stable")]
    cuts = np.flatnonzero(np.diff(table.queries[ordered])) + 1
    groups = [rows for rows in np.split(ordered, cuts) if (table.gold[rows] > 0).any()]
    main = main_metric(task)
    metrics: list[dict[str, dict[str, float]]] = [
        {system: task_metrics(task, table.gold[rows], logits[system][rows], table.queries[rows]) for system in scores}
        for rows in groups
    ]
    values = {system: np.array([each[system][main] for each in metrics]) for system in scores}
    quantiles = {
        system: tuple(float(value) for value in np.quantile(each, [0, 0.1, 0.5, 0.9, 1]))
        for system, each in values.items()
    }
    counted = {}
    if "teacher" in values:
        gain = values["student"] - values["teacher"]
        equal = np.abs(gain) < 1e-9
        counted = {"better": (gain > 0) & ~equal, "equal": equal, "worse": (gain < 0) & ~equal}
    spread = QuerySpread(
        metric=main,
        quantiles=quantiles,  # type: ignore[arg-type]
        **{name: int(which.sum()) for name, which in counted.items()},
    )
    worst = [int(i) for i in np.argsort(values["student"], kind="stable")[:_WORST_QUERIES]]
    shown = tuple(_query(table, groups[i], scores, logits, metrics[i]) for i in worst if values["student"][i] < 1)
    return spread, shown


def _query(
    table: TupleTable,
    rows: np.ndarray,
    scores: Mapping[str, np.ndarray],
    logits: Mapping[str, np.ndarray],
    metrics: dict[str, dict[str, float]],
) -> QueryResult:
    assert table.gold is not None
    gold = table.gold[rows]
    ranks = {}
    for system in scores:
        # As the metrics have it: of equal logits the less relevant text counts as ranked first.
        order = np.lexsort((gold, -logits[system][rows, 0]))
        ranks[system] = np.empty(len(rows), dtype=np.int64)
        ranks[system][order] = np.arange(1, len(rows) + 1)
    best_ranked = np.flatnonzero(ranks["student"] <= _RANKED_TEXTS)
    relevant = np.flatnonzero(gold > 0)
    relevant = relevant[np.argsort(-gold[relevant], kind="stable")][:_RELEVANT_TEXTS]
    shown = sorted({*best_ranked.tolist(), *relevant.tolist()}, key=lambda i: int(ranks["student"][i]))
    has_teacher = "teacher" in scores
    return QueryResult(
        query=shown_text(table.texts[table.rows[rows[0], 0]]),
        texts=len(rows),
        metrics=metrics,
        ranked=tuple(
            RankedText(
                text=shown_text(" | ".join(table.texts[text] for text in table.rows[rows[i], 1:])),
                relevance=float(gold[i]),
                student_rank=int(ranks["student"][i]),
                student_score=round(float(scores["student"][rows[i], 0]), 4),
                teacher_rank=int(ranks["teacher"][i]) if has_teacher else None,
                teacher_score=round(float(scores["teacher"][rows[i], 0]), 4) if has_teacher else None,
            )
            for i in shown
        ),
    )
