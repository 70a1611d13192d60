"""How long a teacher's fine-tuning takes and what it leaves on disk, by some real steps of it."""

from __future__ import annotations

import math
import tempfile
import time
from pathlib import Path

import numpy as np

from distilmatch.config.pairs import FineTuneConfig
from distilmatch.config.tables import TaskConfig
from distilmatch.estimates import Estimate, disk_bytes, spread_batches
from distilmatch.planning.labels import pairs_per_s
from distilmatch.planning.training import Rehearsed
from distilmatch.teachers import CrossEncoderTeacher
from distilmatch.training.teacher import fine_tune_teacher, labelled_pairs
from distilmatch.types import TupleTable

_BATCHES = 12


def plan_fine_tuning(
    train: TupleTable, task: TaskConfig, config: FineTuneConfig, dev: TupleTable | None, start: float
) -> Estimate:
    """Fine-tunes on some batches, in a folder that is deleted again, and counts the rest.

    Args:
        start: seconds of all that came before, which the run does too.

    Raises:
        DataError, ModelError: as `fine_tune_teacher`.
    """
    pairs, _ = labelled_pairs(train, task, "train")
    assert train.gold is not None
    rows = np.flatnonzero(~np.isnan(train.gold))
    lengths = [len(left) + len(right) for left, right in pairs]
    chosen = rows[np.concatenate(spread_batches(lengths, config.batch_size, _BATCHES))]
    if task.kind == "ranking":  # the largest relevance is what the others are divided by
        chosen = np.unique(np.append(chosen, rows[np.argmax(train.gold[rows])]))
    rehearsed = Rehearsed(seconds=math.inf)
    epochs = max(1.0, 4 * config.batch_size / len(chosen))
    evaluation = 0.0
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "teacher"
        started = time.perf_counter()
        fine_tune_teacher(
            train.take(chosen), task, place, config.replaced(epochs=epochs, report_to=()), callbacks=[rehearsed]
        )
        once = time.perf_counter() - started - sum(rehearsed.steps) - rehearsed.step
        size = disk_bytes(place)
        if dev is not None:
            tested, _ = labelled_pairs(dev, task, "dev")
            batch_size = 2 * config.batch_size
            teacher = CrossEncoderTeacher(place, batch_size=batch_size, precision=config.precision)
            evaluation = len(tested) / pairs_per_s(teacher, tested, batch_size, seconds=2.0)
    steps = math.ceil(math.ceil(len(pairs) / config.batch_size) * config.epochs)
    return Estimate(
        seconds={
            "start": start,
            "load_and_save": max(0.0, once),
            "steps": steps * rehearsed.step,
            "dev": math.ceil(config.epochs) * evaluation,
        },
        disk_bytes=size,
    )
