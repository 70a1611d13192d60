"""How long an evaluation takes: the encoders' rates on some of its texts, the rest by counting.

Shape legend: n rows; s sides.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np

from distilmatch.config.pairs import TeacherConfig
from distilmatch.config.tables import TaskConfig
from distilmatch.estimates import Estimate, spread_batches
from distilmatch.metrics import agreement_metrics, task_metrics
from distilmatch.models import DiPair
from distilmatch.planning.labels import pairs_per_s, random_labels
from distilmatch.planning.text_times import text_seconds
from distilmatch.pretrained.sentence import load_sentence_encoder
from distilmatch.runtime import Precision
from distilmatch.teachers import load_teacher
from distilmatch.teachers.baselines import ENCODED_ROWS
from distilmatch.teachers.baselines import simple_baselines as computed_baselines
from distilmatch.teachers.lexical import UNITS, LexicalScores
from distilmatch.teachers.sentence import SentenceTeacher
from distilmatch.teachers.untrained import untrained_scores
from distilmatch.types import TupleTable

_BATCH = 64
_SECONDS = 3.0
_TIMED = 2.0  # seconds that a speed is measured for
_TIMED_PAIRS, _TIMED_ROWS, _TIMED_TEXTS = 256, 2048, 512
_RESAMPLES = 200
_BASELINE_ROWS = 1000
_REPORT_SECONDS, _REPORT_BYTES = 3.0, 120_000  # plots and tables, whatever is measured


def plan_evaluation(
    student: DiPair,
    table: TupleTable,
    teacher: TeacherConfig | None,
    *,
    device: str | None,
    precision: Precision,
    speed: bool,
    start: float,
    dev: TupleTable | None = None,
    simple_baselines: bool = False,
    baselines_train: TupleTable | None = None,
    baselines_encoder: str | None = None,
) -> Estimate:
    """What `evaluate_pairs` and its report take.

    Args:
        dev: rows that decisions are made on.
        simple_baselines, baselines_train, baselines_encoder: as of `evaluate_pairs`.
        start: seconds of all that came before, which the run does too.
    """
    texts = [[table.texts[i] for i in np.unique(table.rows[:, side])] for side in range(table.sides)]
    by_text = [text_seconds(student, side, j, precision) for j, side in enumerate(texts)]
    student_seconds = sum(len(side) * each for side, each in zip(texts, by_text, strict=True))
    seconds = {"start": start, "student": student_seconds}
    if dev is not None:
        seconds["student"] += sum(len(np.unique(dev.rows[:, side])) * each for side, each in enumerate(by_text))
    if teacher is not None:
        began = time.perf_counter()
        loaded = load_teacher(teacher, device=device)
        loading = time.perf_counter() - began
        pairs = [(left, right) for left, right in table.tuples()]
        rate = pairs_per_s(loaded, pairs, teacher.batch_size)
        seconds["teacher"] = loading + (len(pairs) / rate if table.teacher is None else 0.0)
        if dev is not None and dev.teacher is None:
            seconds["teacher"] += len(dev) / rate
        if speed:
            seconds["speed of the teacher"] = _repeated(min(_TIMED_PAIRS, len(pairs)) / rate, once_more=True)
    if speed:
        head = sum(min(_TIMED_ROWS, len(side)) * each for side, each in zip(texts, by_text, strict=True))
        seconds["speed of the student"] = _repeated(student_seconds) + head + _TIMED
    both = teacher is not None or table.teacher is not None
    metrics = _metric_seconds(table, student.task, both)
    if simple_baselines:
        seconds["simple baselines"], count = _baseline_seconds(table, student.task, baselines_train, baselines_encoder)
        metrics *= 1 + count / (2 if both else 1)
    seconds["intervals"] = _RESAMPLES * metrics
    seconds["report"] = _REPORT_SECONDS
    return Estimate(seconds=seconds, disk_bytes=_REPORT_BYTES)


def _baseline_seconds(
    table: TupleTable, task: TaskConfig, train: TupleTable | None, encoder: str | None
) -> tuple[float, int]:
    """Seconds of the simple baselines, and how many there are; measured on some rows."""
    tables = [each for each in (table, train) if each is not None]
    parts = [_some_rows(each) for each in tables]
    began = time.perf_counter()
    logits = computed_baselines(parts[1] if len(parts) == 2 else None, parts[0], task)
    seconds = (time.perf_counter() - began) * sum(map(len, tables)) / sum(map(len, parts))
    if encoder is None:
        return seconds, len(logits)
    began = time.perf_counter()
    loaded = load_sentence_encoder(encoder)
    seconds += time.perf_counter() - began
    few = [part.take(np.arange(min(len(part), _BATCH))) for part in parts]
    began = time.perf_counter()
    for part in few:
        untrained_scores(loaded, part)
    rows = len(table) + (0 if train is None else min(len(train), ENCODED_ROWS))
    return seconds + (time.perf_counter() - began) * rows / sum(map(len, few)), len(logits) + 2


def _repeated(run: float, once_more: bool = False) -> float:
    """Seconds of repeated runs of `run` seconds each: three at least, for two seconds, unless one takes as long."""
    first = run if once_more else 0.0
    return first if run >= _TIMED else first + max(2 * run, _TIMED)


def _metric_seconds(table: TupleTable, task: TaskConfig, both: bool) -> float:
    """Seconds of the metrics of all systems, once."""
    logits = random_labels(len(table), task.num_labels)
    began = time.perf_counter()
    if table.gold is not None:
        labelled = ~np.isnan(table.gold)
        queries = None if table.queries is None else table.queries[labelled]
        for _ in range(2 if both else 1):
            task_metrics(task, table.gold[labelled], logits[labelled], queries)
    if both:
        agreement_metrics(task, logits, logits[::-1])
    return time.perf_counter() - began


def plan_sts(
    models: Sequence[str],
    texts: Sequence[str],
    *,
    device: str | None,
    precision: Precision,
    speed: bool,
    start: float,
    baseline_tables: Sequence[TupleTable] = (),
) -> Estimate:
    """What `evaluate_sts` and its report take.

    Args:
        texts: the distinct texts that every model embeds.
        baseline_tables: the tasks' pairs, where the simple baselines are measured on them.
        start: seconds of all that came before, which the run does too.
    """
    seconds = {"start": start}
    for number, name in enumerate(models, start=1):
        began = time.perf_counter()
        encoder = SentenceTeacher(load_sentence_encoder(name, device=device), batch_size=_BATCH, precision=precision)
        loading = time.perf_counter() - began
        rate = _texts_per_s(encoder, texts)
        timed = _repeated(min(_TIMED_TEXTS, len(texts)) / rate, once_more=True) if speed else 0.0
        seconds[f"model {number}"] = loading + len(texts) / rate + timed
    if baseline_tables:
        seconds["simple baselines"] = sum(map(_lexical_seconds, baseline_tables))
    seconds["report"] = _REPORT_SECONDS
    return Estimate(seconds=seconds, disk_bytes=_REPORT_BYTES)


def _lexical_seconds(table: TupleTable) -> float:
    """Seconds of the TF-IDF cosines of words and of letters of a task; measured on some of its rows."""
    part = _some_rows(table)
    began = time.perf_counter()
    for unit in UNITS:
        LexicalScores(part, unit).scores(part)
    return (time.perf_counter() - began) * len(table) / max(len(part), 1)


def _some_rows(table: TupleTable) -> TupleTable:
    return table.take(np.linspace(0, len(table) - 1, min(len(table), _BASELINE_ROWS)).astype(int))


def _texts_per_s(encoder: SentenceTeacher, texts: Sequence[str]) -> float:
    lengths = [len(text) for text in texts]

    def embed(chosen: np.ndarray) -> float:
        began = time.perf_counter()
        encoder.embed([texts[i] for i in chosen], show_progress_bar=False)
        return time.perf_counter() - began

    middle = spread_batches(lengths, _BATCH, 1)[0]
    embed(middle)
    batches = spread_batches(lengths, _BATCH, max(3, min(64, round(_SECONDS / max(embed(middle), 1e-6)))))
    return sum(map(len, batches)) / sum(map(embed, batches))
