"""Reports of tiny students whose teacher is the student with noise, so that it is good or weak as a test wants it."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tests.helpers import COLOURS, THINGS

from distilmatch.config.pairs import StudentConfig
from distilmatch.config.tables import TaskConfig
from distilmatch.evaluation.pairs.measure import evaluate_pairs
from distilmatch.evaluation.pairs.report import PairReport
from distilmatch.evaluation.pairs.results import CacheSize
from distilmatch.metrics.decisions import decide_on
from distilmatch.models import DiPair
from distilmatch.training.curves import StageCurve
from distilmatch.types import TupleTable

TASKS = {
    "classification": TaskConfig(kind="classification", classes=("no", "maybe", "yes")),
    "binary": TaskConfig(kind="binary"),
    "regression": TaskConfig(kind="regression", label_range=(0.0, 5.0)),
    "ranking": TaskConfig(kind="ranking"),
}
CACHE_OF_TESTS = (CacheSize(side_name="query", kept_tokens=2, width=8, fp32_bytes=66, fp16_bytes=34),)
EVIL = "<script>alert(1)</script> & \"quoted\" 'text' \x00\x1b " + "red car " * 60

Teacher = Callable[[list[tuple[str, str]]], np.ndarray]


def tiny_student(encoder: Path, kind: str) -> DiPair:
    """A student of a task whose logits have the mean 0 and the deviation 2 on `tiny_table`."""
    torch.manual_seed(0)
    shape = StudentConfig(width=32, head_heads=2, kept_tokens=(3, 5), max_lengths=(16, 16))
    model = DiPair.from_encoder(encoder, shape, TASKS[kind]).eval()
    torch.nn.init.normal_(model.classifier.weight, std=2.0)
    logits = model.logits(tiny_table().tuples(), show_progress_bar=False)
    with torch.no_grad():
        scale = torch.from_numpy(2 / logits.std(0))
        model.classifier.weight *= scale[:, None]
        model.classifier.bias.copy_(-torch.from_numpy(logits.mean(0)) * scale)
    return model


def tiny_table(rows: int = 240, queries: int = 24) -> TupleTable:
    """Pairs without labels; each text of the first side is one query."""
    generator = np.random.default_rng(0)
    lefts = [f"{colour} {thing}" for colour in COLOURS for thing in THINGS][:queries]
    rights = [
        f"a small {colour} {thing} of wood {number}" for number in range(3) for colour in COLOURS for thing in THINGS
    ]
    rights[0] = EVIL
    left = np.repeat(np.arange(queries), rows // queries)
    right = generator.integers(0, len(rights), len(left)) + len(lefts)
    right[:queries] = len(lefts)
    return TupleTable(texts=lefts + rights, rows=np.stack([left, right], 1), queries=left)


def noisy(student: DiPair, noise: float) -> Teacher:
    """A teacher that says what the student says, with noise in units of the deviation of its logits."""

    def teacher(pairs: list[tuple[str, str]]) -> np.ndarray:
        logits = student.logits(pairs, show_progress_bar=False)
        seeds = [zlib.crc32(repr(pair).encode("utf-8", "replace")) for pair in pairs]
        shift = np.stack([np.random.default_rng(seed).normal(size=logits.shape[1]) for seed in seeds])
        return logits + noise * logits.std() * shift

    return teacher


def gold_of(task: TaskConfig, logits: np.ndarray) -> np.ndarray:
    """Gold labels that logits are right about, in all of a task's classes: (n,) float32."""
    if task.kind == "classification":
        return logits.argmax(1).astype(np.float32)
    order = np.argsort(np.argsort(logits[:, 0])) / len(logits)
    if task.kind == "binary":
        return (order > 0.5).astype(np.float32)
    if task.kind == "regression":
        return np.round(5 / (1 + np.exp(-logits[:, 0])), 1).astype(np.float32)
    return np.clip(np.floor(order * 10) - 7, 0, 2).astype(np.float32)


def rising(
    name: str = "stage2", metric: str = "accuracy", values: tuple[float, ...] = (0.6, 0.7, 0.74, 0.75, 0.75)
) -> StageCurve:
    """A stage whose loss falls, with these values on dev."""
    dev = tuple((100 * number, value) for number, value in enumerate(values, start=1))
    loss = tuple((20 * number, 2.0 / number) for number in range(1, 5 * len(values) + 1))
    return StageCurve(
        name=name, steps=100 * len(values), seconds=12.0, metric=metric, best_metric=max(values), loss=loss, dev=dev
    )


def made_report(
    encoder: Path,
    kind: str,
    *,
    teacher_noise: float | None = 0.3,
    gold: str = "student",
    decided: bool = False,
    **settings: Any,
) -> PairReport:
    """A report of a task.

    Args:
        teacher_noise: None for no teacher.
        gold: whose scores the gold labels follow: "student", "teacher", "nobody", or "none" for no labels.
        decided: with decisions, made on the same rows.
    """
    student, table = tiny_student(encoder, kind), tiny_table()
    teacher = None if teacher_noise is None else noisy(student, teacher_noise)
    pairs: Any = table.tuples()
    followed = {"student": lambda: student.logits(pairs), "teacher": lambda: teacher(pairs)}  # type: ignore[misc]
    if gold != "none":
        random = np.random.default_rng(5).normal(size=(len(table), student.task.num_labels))
        labels = gold_of(student.task, followed[gold]() if gold in followed else random)
        table = TupleTable(texts=table.texts, rows=table.rows, queries=table.queries, gold=labels)
    if decided:
        scored = {"student": student.logits(pairs)} | ({} if teacher is None else {"teacher": teacher(pairs)})
        settings["decisions"] = {name: decide_on(table, student.task, logits) for name, logits in scored.items()}
    return evaluate_pairs(student, table, teacher=teacher, **{"measure_speed": False, "resamples": 50} | settings)
