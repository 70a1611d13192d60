"""How many labels a teacher will be asked for, how many are there already, and how long the others take.

Shape legend: n pairs; c labels.
"""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from distilmatch.config.pairs import PairRecipe
from distilmatch.data.saved import save_table
from distilmatch.estimates import disk_bytes, spread_batches
from distilmatch.runtime import keep_freed_memory
from distilmatch.teachers import SoftLabelCache, Teacher, in_task_order, load_teacher
from distilmatch.teachers.base import Pairs
from distilmatch.teachers.label_cache import known_labels
from distilmatch.training.pairs.labelling import unlabelled_rows
from distilmatch.training.pairs.run import RunFolder
from distilmatch.types import TupleTable

_SECONDS = 4.0
_STORED = 20_000


@dataclass(frozen=True, kw_only=True)
class LabelPlan:
    """What labelling takes.

    Attributes:
        asked: distinct pairs that the teacher will be asked for; cached: that are labelled already.
        pairs_per_s: of the teacher, measured; None where it is not asked.
        precision: in which it labels.
        seconds: its loading included.
        disk_bytes: of the cache and of the transfer set.
    """

    asked: int
    cached: int
    pairs_per_s: float | None
    precision: str
    seconds: float
    disk_bytes: int


def plan_labels(recipe: PairRecipe, run: RunFolder, table: TupleTable, dev: TupleTable | None = None) -> LabelPlan:
    """Counts the labels of a transfer set (and a dev table) that are missing, and times the teacher on some of them.

    Args:
        table: the transfer set as planned, or as it is there.

    Raises:
        ConfigError, ModelError: the teacher cannot be loaded, or does not fit the task.
        CacheError: the cache is damaged.
    """
    asked_of = (table, dev if recipe.labels_dev else None)
    missing = [_missing(part) for part in asked_of if part is not None and recipe.teacher is not None]
    pairs = list(dict.fromkeys(pair for some in missing for pair in some))
    labels = recipe.task.num_labels
    stored = 0 if run.has_transfer() else _table_bytes(table, labels)
    if recipe.teacher is None or not pairs:
        return LabelPlan(asked=0, cached=0, pairs_per_s=None, precision="", seconds=0.0, disk_bytes=stored)
    keep_freed_memory()
    started = time.perf_counter()
    teacher = run.inputs.teacher or load_teacher(recipe.teacher, device=recipe.device)
    ordered = in_task_order(teacher, recipe.task)
    cached = known_labels(run.labels, ordered, pairs)
    loading = time.perf_counter() - started
    # The teacher is loaded for the table, and twice for a dev table: to ask it, and to read what it said.
    loads = sum(times for times, some in zip((1, 2), missing, strict=False) if some)
    rate = None if cached == len(pairs) else pairs_per_s(ordered, pairs, recipe.teacher.batch_size)
    asked = len(pairs) - cached
    return LabelPlan(
        asked=asked,
        cached=cached,
        pairs_per_s=rate,
        precision=str(getattr(teacher, "precision", "of each teacher")),
        seconds=loads * loading + (asked / rate if rate else 0.0),
        disk_bytes=stored + round(asked * _label_bytes(pairs, labels)),
    )


def pairs_per_s(teacher: Teacher, pairs: Pairs, batch_size: int, seconds: float = _SECONDS) -> float:
    """Pairs that a teacher labels a second, measured on batches of all the lengths there are.

    Args:
        pairs: all that are to be labelled.
        batch_size: of the teacher.
        seconds: about how long it is measured.
    """
    lengths = [len(left) + len(right) for left, right in pairs]
    middle = [pairs[i] for i in spread_batches(lengths, batch_size, 1)[0]]
    for _ in range(2):  # the first call takes longer
        started = time.perf_counter()
        teacher.logits(middle, show_progress_bar=False)
    batches = max(3, min(64, round(seconds / (time.perf_counter() - started))))
    chosen = [[pairs[i] for i in batch] for batch in spread_batches(lengths, batch_size, batches)]
    started = time.perf_counter()
    for batch in chosen:
        teacher.logits(batch, show_progress_bar=False)
    return sum(map(len, chosen)) / (time.perf_counter() - started)


def _missing(table: TupleTable) -> list[tuple[str, str]]:
    return [(left, right) for left, right in table.take(unlabelled_rows(table)).tuples()]


def random_labels(rows: int, labels: int) -> np.ndarray:
    """(rows, labels) float32 that stand for a teacher's."""
    return np.random.default_rng(0).standard_normal((rows, labels)).astype(np.float32)


class _Standin:
    """Random labels in place of a teacher's, to see how many bytes they take."""

    class_names = None
    fingerprint = "rehearsal"

    def __init__(self, num_labels: int) -> None:
        self.num_labels = num_labels

    def logits(self, pairs: Pairs, show_progress_bar: bool | None = None) -> np.ndarray:
        """(n, c) float32."""
        return random_labels(len(pairs), self.num_labels)


def _label_bytes(pairs: Pairs, labels: int) -> float:
    """Bytes of a pair's label in the cache, by some that are written into one and deleted again."""
    some = pairs[:_STORED]
    with tempfile.TemporaryDirectory() as folder:
        SoftLabelCache(folder).label(_Standin(labels), some, show_progress_bar=False)
        return disk_bytes(folder) / len(some)


def _table_bytes(table: TupleTable, labels: int) -> int:
    """Bytes of the labelled transfer set, which is written and deleted again."""
    with tempfile.TemporaryDirectory() as folder:
        save_table(table.with_teacher(random_labels(len(table), labels)), Path(folder) / "transfer")
        return disk_bytes(folder)
