"""Thresholds and calibrations that were made on dev, measured on other rows.

Shape legend: n rows; c labels.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from scipy.special import expit

from distilmatch.config.tables import TableConfig, TaskConfig
from distilmatch.data.tables import TableSource, tuple_table
from distilmatch.errors import ConfigError, DataError, ModelError
from distilmatch.evaluation.pairs.results import DecisionResult, Role
from distilmatch.evaluation.pairs.speed import PairTeacher, student_logits
from distilmatch.metrics.calibration import error_of, reliability
from distilmatch.metrics.decisions import (
    DECISION,
    Decision,
    check_decides,
    decide_on,
    decides,
    load_decision,
    match_logits,
)
from distilmatch.metrics.resampling import resampled_intervals
from distilmatch.metrics.thresholds import BEST_F1
from distilmatch.models.dipair import DiPair
from distilmatch.runtime import Precision
from distilmatch.teachers.classes import InTaskOrder, in_task_order, name_order
from distilmatch.teachers.cross_encoder import CrossEncoderTeacher
from distilmatch.teachers.in_memory import ScoreFunction, loaded_teacher
from distilmatch.teachers.precision import in_precision
from distilmatch.types import TupleTable

if TYPE_CHECKING:
    from sentence_transformers import CrossEncoder

logger = logging.getLogger(__name__)

_OF_A_TEACHER = "give `--dev` (`decisions` in Python), or fine-tune the teacher again"


def dev_decisions(
    model: DiPair,
    dev: TupleTable | TableSource,
    *,
    read_as: TableConfig | None = None,
    teacher: PairTeacher | CrossEncoder | ScoreFunction | None = None,
    seed: int = 0,
    precision: Precision = "fp32",
) -> dict[str, Decision]:
    """Thresholds and calibrations of a student, and of its teacher where there is one, on a dev table.

    `student.decision = decisions["student"]` gives the student its own, which `save_pretrained` writes.

    Args:
        dev: rows with gold labels that none of them was trained on; a teacher's labels of it are taken where it has them.
        read_as, teacher, precision: as of `evaluate_pairs`.
        seed: of resamples and folds.

    Returns:
        "student" and, with a teacher or its labels, "teacher".

    Raises:
        ConfigError: the task does not say match or no match.
        DataError: a table that cannot be used, or gold labels of one class alone.
        ModelError: the table has another number of sides than the student.
    """
    task = model.task
    check_decides(task, "a decision")
    table = tuple_table(dev, read_as, task, side_names=model.student.side_names)
    if table.sides != model.student.sides:
        raise ModelError(f"the dev table has {table.sides} sides, the student {model.student.sides}")
    if table.gold is None:
        raise DataError("a decision needs gold labels, and the dev table has none: name the label column")
    table = table.take(np.isfinite(table.gold))
    logits, _ = student_logits(model, table, measure=False, precision=precision)
    decisions = {"student": decide_on(table, task, logits, seed)}
    taught = table.teacher
    if taught is None or not np.isfinite(taught).all():
        if teacher is None:
            return decisions
        asked = in_task_order(in_precision(loaded_teacher(teacher, task), precision), task)
        taught = asked.logits([(left, right) for left, right in table.tuples()])
    return decisions | {"teacher": decide_on(table, task, taught, seed)}


def known_decisions(
    model: DiPair,
    decisions: Mapping[str, Decision] | None,
    systems: Mapping[str, np.ndarray],
    has_gold: bool,
    teacher: PairTeacher | None = None,
) -> tuple[dict[str, Decision], list[str]]:
    """The decisions to measure, by default the student's own and the teacher's, and what a reader should know of them.

    Args:
        systems: what was scored, by name.
        has_gold: whether there are rows to measure on; without them no folder is looked at.
        teacher: what gave the teacher's labels; None where they were given.

    Raises:
        ConfigError: a decision of a system that is not there.
    """
    if decisions is not None:
        unknown = sorted(set(decisions) - set(systems))
        if unknown:
            raise ConfigError(f"there is a decision for {unknown[0]!r}, but no such system: {', '.join(systems)}")
        return dict(decisions), []
    if not (has_gold and decides(model.task)):
        return {}, []
    found: dict[str, Decision] = {}
    notes = []
    for name, folder_decision in (
        ("student", lambda: model.decision),
        ("teacher", lambda: _teacher_decision(teacher, model.task)),
    ):
        try:
            found[name] = folder_decision()
            notes.append(
                f"The {name}'s threshold and calibration are its own ({DECISION}), made on {found[name].rows:,} rows of dev."
            )
        except ConfigError:  # it has none
            continue
        except ModelError as error:  # one that cannot be trusted loses no report
            logger.warning("%s", error)
            notes.append(f"{error}.")
    return found, notes


def _teacher_decision(teacher: PairTeacher | None, task: TaskConfig) -> Decision:
    """What lies in the folder of a single teacher.

    Raises:
        ConfigError: there is no such folder, or no decision in it.
        ModelError: it is damaged, or belongs to other weights or classes.
    """
    folder = _folder_of(teacher)
    if folder is None:
        raise ConfigError("the teacher is no single folder, so it has no decision")
    decision = load_decision(folder, advice=_OF_A_TEACHER)
    if not is_same_match(decision.task, task):
        of = f"the classes {list(decision.task.classes)}" if decision.task.classes else f"a {decision.task.kind} task"
        wanted = f"the classes {list(task.classes)}" if task.classes else f"a {task.kind} task"
        raise ModelError(
            f"{folder / DECISION} is for {of}, this evaluation for {wanted}, so that its thresholds do not hold: "
            f"{_OF_A_TEACHER}"
        )
    return decision


def _folder_of(teacher: PairTeacher | None) -> Path | None:
    inside = teacher.teacher if isinstance(teacher, InTaskOrder) else teacher
    return inside.folder if isinstance(inside, CrossEncoderTeacher) else None


def is_same_match(of: TaskConfig, task: TaskConfig) -> bool:
    """Whether a match is the same class in both tasks."""
    if of.kind != task.kind:
        return False
    try:
        return task.kind != "classification" or name_order(of.classes, task.classes, "the teacher's decision") is None
    except ConfigError:
        return False


def measured_decision(
    name: str,
    role: Role,
    task: TaskConfig,
    decision: Decision,
    gold: np.ndarray,
    logits: np.ndarray,
    *,
    resamples: int,
    seed: int,
) -> DecisionResult:
    """A decision on rows that it was not made on.

    Args:
        gold: (n,) labels.
        logits: (n, c) raw logits.
        resamples, seed: of the intervals.
    """
    scores, positive = match_logits(task, logits), gold >= 0.5
    limit = decision.threshold(BEST_F1).logit

    def metrics(rows: np.ndarray) -> dict[str, float]:
        said, true = scores[rows] > limit, positive[rows]
        hits, predicted, matches = (said & true).sum(), said.sum(), true.sum()
        return {
            "f1": float(2 * hits / (predicted + matches)) if predicted + matches else 0.0,
            "precision": float(hits / predicted) if predicted else 0.0,
            "recall": float(hits / matches) if matches else 0.0,
        }

    tables = {"raw": reliability(gold, expit(scores)), "calibrated": reliability(gold, decision.calibration(scores))}
    return DecisionResult(
        name=name,
        role=role,
        threshold=limit,
        metrics=metrics(np.arange(len(scores))),
        intervals=resampled_intervals(metrics, len(scores), resamples=resamples, seed=seed),
        method=decision.calibration.method,
        ece={kind: error_of(table) for kind, table in tables.items()},
        reliability=tables,
    )
