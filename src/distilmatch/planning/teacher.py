"""How long a teacher's fine-tuning takes and what it leaves on disk, by some real steps of it."""

from __future__ import annotations

import math
import tempfile
import time
from pathlib import Path

import numpy as np

from distilmatch.config.fine_tuning import FineTuneConfig
from distilmatch.config.tables import TaskConfig
from distilmatch.estimates import Estimate, disk_bytes, spread_batches
from distilmatch.planning.labels import pairs_per_s
from distilmatch.planning.training import Rehearsed
from distilmatch.teachers import CrossEncoderTeacher
from distilmatch.training.teacher.choices import base_model, count, moves, usual_choices
from distilmatch.training.teacher.fine_tune import fine_tune_teacher
from distilmatch.training.teacher.rows import LabelledRows, labelled_pairs
from distilmatch.training.teacher.search import planned
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
    pairs, targets = labelled_pairs(train, task, "train")
    labelled = LabelledRows(pairs=pairs, targets=targets)
    base = base_model(config, task.num_labels)
    usual = usual_choices(labelled, task, config, base)
    assert train.gold is not None
    rows = np.flatnonzero(~np.isnan(train.gold))
    lengths = [len(left) + len(right) for left, right in pairs]
    chosen = rows[np.concatenate(spread_batches(lengths, config.batch_size, _BATCHES))]
    if task.kind == "ranking":  # the largest relevance is what the others are divided by
        chosen = np.unique(np.append(chosen, rows[np.argmax(train.gold[rows])]))
    rehearsed = Rehearsed(seconds=math.inf)
    settings = {"minutes": 0, "seeds": 1, "report_to": (), "max_length": usual.max_length}
    once_config = config.replaced(**settings, epochs=max(1.0, 4 * config.batch_size / len(chosen)))
    evaluation, dev_count = 0.0, 0
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "teacher"
        started = time.perf_counter()
        fine_tune_teacher(train.take(chosen), task, place, once_config, callbacks=[rehearsed])
        once = time.perf_counter() - started - sum(rehearsed.steps) - rehearsed.step
        size = disk_bytes(place)
        if dev is not None:
            tested, _ = labelled_pairs(dev, task, "dev")
            dev_count, batch_size = len(tested), 2 * config.batch_size
            teacher = CrossEncoderTeacher(place, batch_size=batch_size, precision=config.precision)
            evaluation = dev_count / pairs_per_s(teacher, tested, batch_size, seconds=2.0)
    if dev is not None and config.minutes > 0:
        options = count(moves(usual, labelled, task, config, base))
        plan = planned(rehearsed.step, usual, options, config, rows=len(pairs), dev_rows=dev_count)
        # Where the search finds other settings than the usual ones, both are trained.
        whole = (2 if plan.tries else 1) * plan.whole_seconds
        seconds = {"search": plan.tries * plan.try_seconds, "trainings": whole}
    else:
        steps = math.ceil(math.ceil(len(pairs) / config.batch_size) * usual.epochs)
        seconds = {"steps": steps * rehearsed.step, "dev": math.ceil(usual.epochs) * evaluation}
    made = {name: config.seeds * value for name, value in {"load_and_save": max(0.0, once), **seconds}.items()}
    return Estimate(seconds={"start": start, **made}, disk_bytes=config.seeds * size)
