"""Pairs per second of a student and its teacher, measured on the table that is evaluated.

What limits each: the teacher and the student end to end, the encoder's matrix products; the head alone, gathering
its rows from memory and its own small products.

Shape legend: n rows; s sides.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from distilmatch.engine.kernels.choice import KernelName
from distilmatch.engine.scorer import Scorer
from distilmatch.evaluation.look import median_seconds
from distilmatch.evaluation.pairs.results import SpeedResult
from distilmatch.models.dipair import DiPair
from distilmatch.runtime import Precision
from distilmatch.types import TokenRepresentations, TupleTable

_SAMPLED_ROWS = 2048
_HEAD_PAIRS = 8192
_TEACHER_PAIRS = 256
_TEACHER_SECONDS = 20.0
_TEACHER_WARM_UP = 8


class PairTeacher(Protocol):
    """What is asked of a teacher: its logits, (n, c) float32, for pairs of text."""

    def logits(
        self, pairs: Sequence[tuple[str, str]], show_progress_bar: bool | None = None
    ) -> np.ndarray:  # pragma: no cover
        """(n, c) float32 raw logits."""
        ...


def spread_over_lengths(table: TupleTable, rows: int) -> np.ndarray:
    """Row numbers of at most `rows` rows, evenly spaced among all rows sorted by the length of their texts: (m,)."""
    lengths = np.array([len(text) for text in table.texts], dtype=np.int64)[table.rows].sum(1)
    order = np.argsort(lengths, kind="stable")
    count = min(rows, len(order))
    return order[((np.arange(count) + 0.5) * len(order) / count).astype(np.int64)]


def student_logits(
    model: DiPair, table: TupleTable, *, measure: bool, precision: Precision = "fp32"
) -> tuple[np.ndarray, float | None]:
    """The student's logits, (n, c) float32, and its pairs per second end to end: each distinct text of a side is
    encoded once, then every row is scored, all in `precision`; None where nothing is to be measured.
    """
    tuples = table.tuples()
    if not measure:
        return model.logits(tuples, precision=precision), None
    model.logits(tuples[:64], precision=precision, show_progress_bar=False)
    started = time.perf_counter()
    logits = model.logits(tuples, precision=precision)
    first = time.perf_counter() - started
    seconds = median_seconds(lambda: model.logits(tuples, precision=precision, show_progress_bar=False), first=first)
    return logits, len(tuples) / seconds


@dataclass(frozen=True, kw_only=True)
class CachedPairs:
    """Pairs of a table whose texts are encoded, to be scored: (m, s) `rows` of the s representations in `sides`."""

    sides: tuple[TokenRepresentations, ...]
    rows: np.ndarray


@dataclass(frozen=True, kw_only=True)
class KernelSpeed:
    """Pairs per second of a scorer's kernel, its name, and why it is this one."""

    pairs_per_s: float
    kernel: str
    why: str


def cached_pairs(model: DiPair, table: TupleTable, *, seed: int = 0) -> CachedPairs:
    """8,192 pairs in random order, drawn from at most 2,048 rows whose lengths are spread as the table's."""
    sample = table.rows[spread_over_lengths(table, _SAMPLED_ROWS)]
    sides, columns = [], []
    for side in range(table.sides):
        distinct, column = np.unique(sample[:, side], return_inverse=True)
        sides.append(model.encode([table.texts[i] for i in distinct], side, show_progress_bar=False))
        columns.append(column)
    rows = np.stack(columns, axis=1)[np.random.default_rng(seed).integers(0, len(sample), _HEAD_PAIRS)]
    return CachedPairs(sides=tuple(sides), rows=rows)


def kernel_speed(model: DiPair, pairs: CachedPairs, kernel: KernelName) -> tuple[KernelSpeed, np.ndarray]:
    """The speed of the folded head alone, from texts in memory, by a kernel, and the (m, c) logits of the pairs."""
    scorer = Scorer(model, kernel=kernel)
    loaded = [scorer.load(texts, side, uses=len(pairs.rows)) for side, texts in enumerate(pairs.sides)]

    def score() -> np.ndarray:
        return scorer.score(*loaded, rows=pairs.rows, show_progress_bar=False)

    logits = score()
    rate = len(pairs.rows) / median_seconds(score)
    return KernelSpeed(pairs_per_s=rate, kernel=scorer.kernel.name, why=scorer.why), logits


def head_pairs_per_s(model: DiPair, table: TupleTable, *, seed: int = 0, precision: Precision = "fp32") -> float:
    """Pairs per second of the folded head alone, from representations in memory, in random order, by the kernel that
    scores in `precision` here: the fastest one with "auto" and "bf16", PyTorch in fp32 with "fp32".
    """
    pairs = cached_pairs(model, table, seed=seed)
    speed, _ = kernel_speed(model, pairs, "torch" if precision == "fp32" else "auto")
    return speed.pairs_per_s


def measured_speed(
    model: DiPair,
    table: TupleTable,
    teacher: PairTeacher | None,
    end_to_end_pairs_per_s: float,
    *,
    seed: int,
    precision: Precision,
) -> SpeedResult:
    """All of a report's speeds: of the teacher, and of the student in fp32 and by the kernel that is used.

    Args:
        end_to_end_pairs_per_s: of the student from text, as `student_logits` measured it.
    """
    rate, count = (None, None) if teacher is None else teacher_pairs_per_s(teacher, table)
    pairs = cached_pairs(model, table, seed=seed)
    full, full_logits = kernel_speed(model, pairs, "torch")
    used, logits = kernel_speed(model, pairs, "auto")
    return SpeedResult(
        head_pairs_per_s=full.pairs_per_s if precision == "fp32" else used.pairs_per_s,
        end_to_end_pairs_per_s=end_to_end_pairs_per_s,
        teacher_pairs_per_s=rate,
        teacher_pairs=count,
        kernel_pairs_per_s=used.pairs_per_s,
        kernel=used.kernel,
        kernel_why=used.why,
        kernel_difference=float(np.abs(logits - full_logits).max()),
    )


def teacher_pairs_per_s(teacher: PairTeacher, table: TupleTable) -> tuple[float, int]:
    """Pairs per second of the teacher, and how many pairs that was measured on.

    At most 256 pairs whose lengths are spread as the table's, fewer where that would take longer than 20 seconds.
    """
    pairs = [
        (table.texts[left], table.texts[right])
        for left, right in table.rows[spread_over_lengths(table, _TEACHER_PAIRS)]
    ]
    warm_up = [pairs[i] for i in np.linspace(0, len(pairs) - 1, min(_TEACHER_WARM_UP, len(pairs))).astype(int)]
    teacher.logits(warm_up, show_progress_bar=False)
    started = time.perf_counter()
    teacher.logits(warm_up, show_progress_bar=False)
    rate = len(warm_up) / (time.perf_counter() - started)
    count = int(np.clip(rate * _TEACHER_SECONDS, min(16, len(pairs)), len(pairs)))
    chosen = [pairs[i] for i in np.linspace(0, len(pairs) - 1, count).astype(int)]
    started = time.perf_counter()
    teacher.logits(chosen, show_progress_bar=False)
    first = time.perf_counter() - started
    seconds = median_seconds(lambda: teacher.logits(chosen, show_progress_bar=False), first=first)
    return len(chosen) / seconds, len(chosen)
