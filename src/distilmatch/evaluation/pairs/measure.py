"""How good and how fast a student is beside its teacher and the baselines, measured in one run.

Shape legend: n rows; s sides; c labels.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from distilmatch.config.pairs import StudentConfig
from distilmatch.config.tables import TableConfig, TaskConfig
from distilmatch.data.tables import TableSource, tuple_table
from distilmatch.errors import ConfigError, DataError, ModelError
from distilmatch.evaluation.pairs.bootstrap import Intervals, query_intervals, resampled_intervals
from distilmatch.evaluation.pairs.decided import known_decisions, measured_decision
from distilmatch.evaluation.pairs.examples import pair_details
from distilmatch.evaluation.pairs.report import PairReport
from distilmatch.evaluation.pairs.results import CacheSize, DecisionResult, Role, SpeedResult, SystemResult
from distilmatch.evaluation.pairs.simple import BaseModel, SimpleRows, simple_rows
from distilmatch.evaluation.pairs.speed import PairTeacher, measured_speed, student_logits
from distilmatch.metrics import (
    MetricFunction,
    agreement_metrics,
    checked_metrics,
    main_metric,
    own_metrics,
    task_metrics,
)
from distilmatch.metrics.decisions import Decision, check_decides
from distilmatch.models.dipair import DiPair
from distilmatch.models.trained_texts import check_reading
from distilmatch.runtime import Precision, environment, use_bf16
from distilmatch.store.codec import bytes_per_item
from distilmatch.teachers.baselines import safe_own_metrics, trusted
from distilmatch.teachers.classes import in_task_order
from distilmatch.teachers.in_memory import ScoreFunction, loaded_teacher
from distilmatch.teachers.precision import in_precision, numbers_of
from distilmatch.training.curves import StageCurve, training_curves
from distilmatch.types import TupleTable

if TYPE_CHECKING:
    from sentence_transformers import CrossEncoder

Value = TypeVar("Value")

_MAIN_AGREEMENT = {"classification": "agreement"}


def evaluate_pairs(
    model: DiPair,
    table: TupleTable | TableSource,
    *,
    read_as: TableConfig | None = None,
    teacher: PairTeacher | CrossEncoder | ScoreFunction | None = None,
    teacher_logits: np.ndarray | None = None,
    baselines: Mapping[str, np.ndarray] | None = None,
    simple_baselines: bool = False,
    baselines_train: TupleTable | TableSource | None = None,
    baselines_encoder: BaseModel | None = None,
    metrics: Mapping[str, MetricFunction] | None = None,
    decisions: Mapping[str, Decision] | None = None,
    measure_speed: bool = True,
    resamples: int = 200,
    seed: int = 0,
    precision: Precision = "fp32",
) -> PairReport:
    """Measures a student on a table, beside its teacher and baselines on the same rows.

    Args:
        table: n rows with gold labels, a teacher's labels, or both: a `TupleTable`, a path, or a table in memory (pandas,
            polars, Arrow, `datasets`, rows).
        read_as: which columns are what, of a `table` that is yet to be read.
        teacher: a teacher, a loaded `CrossEncoder`, or a function of pairs. It is timed and, where neither `teacher_logits` nor
            the table holds its labels, asked for them; its classes are matched with the student's by name (see `label_order`).
        teacher_logits: (n, c) raw logits in the order of the student's classes (`model.task.classes`), a whole row NaN where
            there is none; by default the table's.
        baselines: (n, c) (or (n,) for one label) raw logits of other systems, by name, in that order too.
        simple_baselines: also measure TF-IDF, BM25 and the like, which the package computes itself; see
            `distilmatch.teachers.baselines.simple_baselines`.
        baselines_train: the table that these are fitted on, read as `table` is; without it only the order of their scores is
            measured, and a classification has none.
        baselines_encoder: a model by name or loaded, of which the untrained encoder is measured too.
        metrics: of your own, by name, a column of the report each, without an interval; see `distil_pairs`.
        decisions: thresholds and calibrations by system ("student", "teacher", a baseline's name), as `dev_decisions` makes them;
            by default the student's own and that of the folder of a single teacher, where they have one.
        measure_speed: time the student and the teacher; about 15 seconds and up to half a minute for the teacher.
        resamples: bootstrap draws of the 95 % intervals; 0 for none.
        seed: of the bootstrap and of the order of the timed pairs.
        precision: in which student and teacher run; "auto" is bf16 where the hardware multiplies in it.

    Raises:
        DataError: an empty table, one with neither gold labels nor a teacher, gold labels that do not fit the task, or
            ranking without queries.
        ModelError: the table has another number of sides than the student, or logits another shape.
        ConfigError: a teacher of other classes, baselines of a wrong shape or with a reserved name, metrics without gold
            labels, or one that gives no number.
    """
    task, own = model.task, checked_metrics(metrics)
    if not isinstance(table, TupleTable):
        check_reading(model, table, None if read_as is None else read_as.text_templates)
    table = tuple_table(table, read_as, task, side_names=model.student.side_names)
    if teacher is not None:
        teacher = in_task_order(in_precision(loaded_teacher(teacher, task), precision), task)
    _check_table(model, table, teacher)
    known = _given_labels(model, table, teacher_logits)
    if not simple_baselines and (baselines_train is not None or baselines_encoder is not None):
        raise ConfigError("`baselines_train` and `baselines_encoder` are for `simple_baselines=True`")
    train = None if baselines_train is None else tuple_table(baselines_train, read_as, task)
    others = {name: _logits_of(f"baseline {name!r}", values, table, task) for name, values in (baselines or {}).items()}
    if own and (table.gold is None or np.isnan(table.gold).all()):
        raise ConfigError("`metrics` compare scores with gold labels, and the table has none: name the label column")
    # Refuses unusable labels before the student and teacher run for minutes.
    _check_gold(model, table, teacher, known)
    simple = simple_rows(table, task, train, baselines_encoder, precision) if simple_baselines else SimpleRows()
    _check_names(others, simple.logits)
    predicted, end_to_end = student_logits(model, table, measure=measure_speed, precision=precision)
    # The teacher is slow: it labels only where no labels of it were given.
    given = known is not None
    if known is None and teacher is not None:
        known = _logits_of("the teacher", teacher.logits(_pairs(table)), table, task)
    logits = ({} if known is None else {"teacher": known}) | {"student": predicted} | others | dict(simple.logits)
    measure = _Measure(task, table, known, resamples, seed, own, simple)
    asked = None if given else teacher
    made, their_notes = known_decisions(model, decisions, logits, bool(len(measure.measured)), asked)
    systems = tuple(measure.system(name, values) for name, values in logits.items())
    speed = None
    if end_to_end is not None:
        speed = measured_speed(model, table, teacher, end_to_end, seed=seed, precision=precision)
    numbers = ("bf16" if use_bf16(precision, model.device) else "fp32", None if given else numbers_of(teacher))
    notes = _notes(measure, table, speed, numbers, given)
    curves, problem = _training_curves(model)
    student = model.student
    return PairReport(
        task=task,
        rows=len(table),
        measured_rows=len(measure.measured),
        queries=None if table.queries is None else len(np.unique(table.queries)),
        distinct_texts={name: len(np.unique(table.rows[:, j])) for j, name in enumerate(table.side_names)},
        main_metric=main_metric(task, table.gold) if len(measure.measured) else None,
        main_agreement=_MAIN_AGREEMENT.get(task.kind, "spearman") if len(measure.agreeing) else None,
        systems=systems,
        speed=speed,
        cache=_cache_sizes(student),
        notes=(*notes, *simple.notes, *problem, *their_notes),
        environment=environment(),
        model=model.name_or_path or None,
        student_numbers=numbers[0],
        teacher_numbers=numbers[1],
        details=pair_details(task, table, logits, measured=measure.measured, agreeing=measure.agreeing, seed=seed),
        curves=curves,
        decisions=tuple(measure.decided(name, made[name], values) for name, values in logits.items() if name in made),
    )


def _cache_sizes(student: StudentConfig) -> tuple[CacheSize, ...]:
    width = student.vector_width
    return tuple(
        CacheSize(
            side_name=name,
            kept_tokens=kept,
            lexical=bool(student.lexical),
            width=width,
            fp32_bytes=bytes_per_item(vectors, width, "float32"),
            fp16_bytes=bytes_per_item(vectors, width, "float16"),
        )
        for name, kept, vectors in zip(student.side_names, student.kept_tokens, student.kept_vectors, strict=True)
    )


def _check_names(baselines: Mapping[str, np.ndarray], simple: Mapping[str, np.ndarray]) -> None:
    taken = sorted({"student", "teacher", *simple} & set(baselines))
    if taken:
        raise ConfigError(f"a baseline cannot be called {taken[0]!r}: choose another name")


def _training_curves(model: DiPair) -> tuple[tuple[StageCurve, ...], list[str]]:
    """What the student's folder knows of its training, and a note where that is damaged."""
    place = model.name_or_path
    try:
        return (training_curves(place) if place and Path(place).is_dir() else ()), []
    except DataError as error:
        return (), [f"{error}."]


def _check_table(model: DiPair, table: TupleTable, teacher: PairTeacher | None) -> None:
    if not len(table):
        raise DataError("the table to evaluate on has no rows")
    if table.sides != model.student.sides:
        raise ModelError(f"the table has {table.sides} sides, the student {model.student.sides}")
    if teacher is not None and table.sides != 2:
        raise ModelError(f"a cross-encoder teacher scores pairs, the table has {table.sides} sides")
    if model.task.kind == "ranking" and table.gold is not None and table.queries is None:
        raise DataError("a ranking is evaluated by query, the table has none; name its id columns")


def _check_gold(model: DiPair, table: TupleTable, teacher: PairTeacher | None, known: np.ndarray | None) -> None:
    """Finds out before the work whether there is something to measure."""
    taught = np.ones(len(table), dtype=bool) if known is None else np.isfinite(known).all(1)
    labelled = np.zeros(len(table), dtype=bool) if table.gold is None else np.isfinite(table.gold)
    if known is None and teacher is None and not labelled.any():
        raise DataError("the table has neither gold labels nor a teacher's: name the label column, or give a teacher")
    if (labelled & taught).any():
        assert table.gold is not None
        gold = table.gold[labelled & taught]
        queries = None if table.queries is None else table.queries[labelled & taught]
        task_metrics(model.task, gold, np.zeros((len(gold), model.task.num_labels), dtype=np.float32), queries)


def _given_labels(model: DiPair, table: TupleTable, teacher_logits: np.ndarray | None) -> np.ndarray | None:
    values = table.teacher if teacher_logits is None else teacher_logits
    if values is None:
        return None
    logits = _logits_of("the teacher", values, table, model.task)
    return logits if np.isfinite(logits).any() else None


def _logits_of(name: str, values: np.ndarray, table: TupleTable, task: TaskConfig) -> np.ndarray:
    logits = np.asarray(values, dtype=np.float32)
    if logits.ndim == 1:
        logits = logits[:, None]
    expected = (len(table), task.num_labels)
    if logits.shape != expected:
        kind = ModelError if name == "the teacher" else ConfigError
        raise kind(f"the logits of {name} have the shape {logits.shape}, not {expected} (rows, labels)")
    return logits


def _pairs(table: TupleTable) -> list[tuple[str, str]]:
    return [(table.texts[left], table.texts[right]) for left, right in table.rows]


def _finite(values: Mapping[str, float]) -> dict[str, float | None]:
    return {name: float(value) if math.isfinite(value) else None for name, value in values.items()}


def _of_the_order(values: dict[str, Value]) -> dict[str, Value]:
    return {name: value for name, value in values.items() if trusted(name, can_fit=False)}


def _role(name: str) -> Role:
    return "teacher" if name == "teacher" else "student" if name == "student" else "baseline"


class _Measure:
    """Measures every system on the same rows: `measured` have gold (and teacher) labels, `agreeing` a teacher's."""

    def __init__(
        self,
        task: TaskConfig,
        table: TupleTable,
        teacher: np.ndarray | None,
        resamples: int,
        seed: int,
        own: Mapping[str, MetricFunction],
        simple: SimpleRows,
    ) -> None:
        self.task, self.table, self.teacher, self.own, self.simple = task, table, teacher, own, simple
        self.resamples, self.seed = resamples, seed
        labelled = np.isfinite(table.gold) if table.gold is not None else np.zeros(len(table), dtype=bool)
        taught = np.isfinite(teacher).all(1) if teacher is not None else np.zeros(len(table), dtype=bool)
        self.agreeing = np.flatnonzero(taught)
        self.measured = np.flatnonzero(labelled & taught if teacher is not None else labelled)

    def decided(self, name: str, decision: Decision, logits: np.ndarray) -> DecisionResult:
        """What a system's decision gives, from its logits, (n, c).

        Raises:
            ConfigError: the task says no match, or no row has a gold label.
        """
        check_decides(self.task, "a decision")
        if self.table.gold is None or not len(self.measured):
            raise ConfigError(
                "`decisions` are measured against gold labels, and the table has none: name the label column"
            )
        gold, scored = self.table.gold[self.measured], logits[self.measured]
        return measured_decision(
            name, _role(name), self.task, decision, gold, scored, resamples=self.resamples, seed=self.seed
        )

    def system(self, name: str, logits: np.ndarray) -> SystemResult:
        """The figures of one system from its logits, (n, c)."""
        role = _role(name)
        metrics, metric_intervals = self._against_gold(name, logits)
        agreement, agreement_intervals = ({}, {}) if role == "teacher" else self._against_teacher(logits)
        is_simple = name in self.simple.logits
        if is_simple and not self.simple.can_fit:
            metrics, metric_intervals = _of_the_order(metrics), _of_the_order(metric_intervals)
            agreement, agreement_intervals = _of_the_order(agreement), _of_the_order(agreement_intervals)
        return SystemResult(
            name=name,
            role=role,
            metrics=metrics,
            metric_intervals=metric_intervals,
            agreement=agreement,
            agreement_intervals=agreement_intervals,
            simple=is_simple,
        )

    def _against_gold(self, name: str, logits: np.ndarray) -> tuple[dict[str, float | None], Intervals]:
        if not len(self.measured):
            return {}, {}
        assert self.table.gold is not None
        gold, scored = self.table.gold[self.measured], logits[self.measured]
        queries = None if self.table.queries is None else self.table.queries[self.measured]
        ranked = queries if self.task.kind == "ranking" else None
        values = _finite(task_metrics(self.task, gold, scored, queries))
        own = safe_own_metrics if name in self.simple.logits else own_metrics
        values |= own(self.own, self.task, gold, scored, ranked)
        if self.task.kind == "ranking":
            assert queries is not None
            return values, query_intervals(self.task, gold, scored, queries, resamples=self.resamples, seed=self.seed)
        return values, resampled_intervals(
            lambda rows: task_metrics(self.task, gold[rows], scored[rows], None),
            len(gold),
            resamples=self.resamples,
            seed=self.seed,
        )

    def _against_teacher(self, logits: np.ndarray) -> tuple[dict[str, float | None], Intervals]:
        if not len(self.agreeing):
            return {}, {}
        assert self.teacher is not None
        scored, taught = logits[self.agreeing], self.teacher[self.agreeing]
        return _finite(agreement_metrics(self.task, scored, taught)), resampled_intervals(
            lambda rows: agreement_metrics(self.task, scored[rows], taught[rows]),
            len(scored),
            resamples=self.resamples,
            seed=self.seed,
        )


def _notes(
    measure: _Measure,
    table: TupleTable,
    speed: SpeedResult | None,
    numbers: tuple[str, str | None],
    given: bool,
) -> list[str]:
    notes = [_said_numbers(*numbers, given=given, has_teacher=bool(len(measure.agreeing)))]
    if table.teacher_scale == "probability":
        notes.append("The teacher's labels of the table are probabilities, which were turned into logits.")
    if not len(measure.agreeing):
        notes.append("No teacher was given: the student is reported alone, without a share of the teacher.")
    if not len(measure.measured):
        notes.append("No row has a gold label: quality is agreement with the teacher alone.")
    elif len(measure.measured) < len(table):
        notes.append(
            f"Task metrics are measured on the {len(measure.measured):,} of {len(table):,} rows that have a gold label"
            + (" and a teacher's." if len(measure.agreeing) else ".")
        )
    if speed is None:
        notes.append("Speed was not measured.")
        return notes
    notes.append(
        "Student, cached: the folded head alone, folded texts in memory, pairs in random order. Student, from text: "
        "every distinct text encoded once, then all rows scored. Each rate is the median of repeated runs."
    )
    if speed.kernel_difference:
        notes.append("Largest difference: of a logit from that of the same head in fp32, over the timed pairs.")
    notes.append(f"The kernel that `score` and `match` take here is {speed.kernel_why}.")
    if speed.teacher_pairs is not None:
        notes.append(
            f"The teacher's rate was measured on {speed.teacher_pairs:,} pairs spread over the table's lengths."
        )
    elif len(measure.agreeing):
        notes.append("The teacher's labels were given, not the teacher: its speed was not measured.")
    return notes


def _said_numbers(student: str, teacher: str | None, *, given: bool, has_teacher: bool) -> str:
    if not has_teacher:
        return f"The student ran in {student}."
    if given:
        return f"The student ran in {student}; the teacher's labels were given with the table."
    if teacher is None:
        return f"The student ran in {student}; the teacher is a function, which computes as it will."
    if teacher == student:
        return f"Student and teacher ran in {student}."
    return f"The student ran in {student}, the teacher in {teacher}, which is all it can."
