"""How long a training takes and what it leaves on disk: some real steps of each stage, the rest by counting.

A stage takes its steps, its evaluations on dev, a checkpoint at each, and what comes once: its trainer, the outputs of
frozen encoders, its student. Steps and what comes once are measured by a short run of the real stage in a folder that is
deleted again.

Shape legend: n rows or texts.
"""

from __future__ import annotations

import math
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from distilmatch.config.pairs import PairRecipe
from distilmatch.config.stages import NamedStageConfig
from distilmatch.estimates import Estimate, disk_bytes
from distilmatch.models import DiPair
from distilmatch.planning.labels import LabelPlan, random_labels
from distilmatch.planning.mining import MiningPlan, plan_mining
from distilmatch.planning.text_times import text_seconds
from distilmatch.runtime import pick_device
from distilmatch.training.pairs.distil import new_student
from distilmatch.training.pairs.frozen import cache_kept_outputs
from distilmatch.training.pairs.run import RunFolder
from distilmatch.training.pairs.stage import run_stage
from distilmatch.training.pairs.starts import possible_starts, stages_from
from distilmatch.training.pairs.trainer import DevSet
from distilmatch.training.processes import Processes
from distilmatch.training.stages import Watch, finished_stage
from distilmatch.types import TupleTable

_SECONDS = 3.0
_FEWEST, _MOST = 4, 24  # steps of a rehearsal
_WARMED = 2  # steps that do not count
_DEV_ROWS = 256
_RECORDS = 20_000  # recipe, environment, summaries and the log of the loss


class Rehearsed(TrainerCallback):
    """Ends a training after some seconds, with a checkpoint, and keeps how long its steps took.

    Args:
        seconds: about how long steps are taken.
    """

    def __init__(self, seconds: float = _SECONDS) -> None:
        self.steps: list[float] = []
        self.saving = 0.0
        self._seconds = seconds
        self._began = self._ended = 0.0

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Notes how long the step before took, its data included."""
        now = time.perf_counter()
        if self._began:
            self.steps.append(now - self._began)
        self._began = now

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Ends the training once there was time enough."""
        self._ended = time.perf_counter()
        if len(self.steps) >= _FEWEST and sum(self.steps) >= self._seconds:
            control.should_training_stop = control.should_save = True

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Notes how long the checkpoint took."""
        self.saving = time.perf_counter() - self._ended

    @property
    def step(self) -> float:
        """Seconds of a step, the first ones apart."""
        counted = self.steps[_WARMED:] or self.steps or [0.0]
        return float(np.mean(counted))


@dataclass(frozen=True, kw_only=True)
class StageTimes:
    """What a stage takes.

    Attributes:
        step: seconds of a step; once: of what comes once, its first checkpoint included; saving: of a checkpoint.
        student_bytes: of the student that it leaves.
    """

    step: float
    once: float
    saving: float
    student_bytes: int


def plan_training(
    recipe: PairRecipe,
    run: RunFolder,
    table: TupleTable,
    dev: TupleTable | None,
    labels: LabelPlan,
    start: float,
) -> Estimate:
    """What `distil_pairs` takes, of a recipe that is checked.

    Args:
        table: the transfer set as planned, or as it is there.
        labels: see `plan_labels`.
        start: seconds of all that came before, which the run does too.
    """
    assert table.blocks is not None
    given = random_labels(len(table), recipe.task.num_labels) if table.teacher is None else np.nan_to_num(table.teacher)
    labelled = table.with_teacher(given)
    dev_set = None if dev is None else DevSet(table=_with_labels(dev, recipe), task=recipe.task)
    seconds = {"start": start, "labels": labels.seconds}
    starts = possible_starts(recipe)
    blocks = len(np.unique(table.blocks))
    sizes = [0]
    mining = MiningPlan()
    evaluation: float | None = None
    model: DiPair | None = None
    for number, stage in enumerate(recipe.all_stages):
        if not stage.epochs or finished_stage(run.stage(stage.name)) is not None:
            continue
        # Of two starts either may go on after the first stage; the layers that are there take their time in both.
        begins = starts if number == 0 else starts[-1:]
        for begin in begins:
            if finished_stage(run.starts / begin) is not None:
                continue
            model = new_student(recipe, table, begin)
            if number == 1:
                mining = plan_mining(recipe, run, table, model, labels)
                seconds |= {"mined pairs": mining.seconds} if mining.blocks else {}
            config = stages_from(recipe, begin)[number]
            times = stage_times(model, labelled, config, recipe)
            if evaluation is None and dev_set is not None:
                evaluation = evaluation_seconds(model, dev_set, config)
            name = stage.name if len(begins) == 1 else f"{stage.name} from the {begin}"
            seconds[name] = _stage_seconds(config, times, blocks + mining.blocks, evaluation)
        sizes.append(times.student_bytes)
    seconds["finish"] = 0.0 if model is None else _loading(model)
    # A student a stage, and the best of them once more.
    disk = labels.disk_bytes + mining.disk_bytes + sum(sizes) + (sizes[-1] + _RECORDS if model is not None else 0)
    notes = (
        ("Stages that end early, as patience has it, take less.",)
        if any(stage.patience for stage in recipe.all_stages)
        else ()
    )
    return Estimate(seconds=seconds, disk_bytes=disk, notes=notes)


def _with_labels(dev: TupleTable, recipe: PairRecipe) -> TupleTable:
    if recipe.teacher is None or dev.teacher is not None:
        return dev
    return dev.with_teacher(random_labels(len(dev), recipe.task.num_labels))


def _stage_seconds(stage: NamedStageConfig, times: StageTimes, blocks: int, evaluation: float | None) -> float:
    steps = max(1, math.ceil(blocks / stage.blocks_per_batch / stage.gradient_accumulation_steps * stage.epochs))
    evaluations = min(stage.evaluations, steps)
    more = evaluations * evaluation if evaluation is not None else 0.0
    return steps * times.step + times.once + (evaluations - 1) * times.saving + more


def stage_times(model: DiPair, table: TupleTable, stage: NamedStageConfig, recipe: PairRecipe) -> StageTimes:
    """Runs some steps of a stage on blocks drawn from a labelled table.

    Args:
        model: the student at the start of the stage; it learns.
    """
    assert table.blocks is not None
    numbers = np.unique(table.blocks)
    per_step = stage.blocks_per_batch * stage.gradient_accumulation_steps
    wanted = min(len(numbers), _MOST * per_step)
    chosen = np.random.default_rng(0).choice(numbers, wanted, replace=False)
    sample = table.take(np.flatnonzero(np.isin(table.blocks, chosen)))
    model.to(pick_device(recipe.device))  # type: ignore[arg-type]
    encoding = 0.0
    rehearsed = Rehearsed()
    with tempfile.TemporaryDirectory() as folder:
        if stage.frozen_encoders:
            encoding = kept_output_seconds(model, table, stage)
            cache_kept_outputs(model, sample, Path(folder) / "kept_outputs", stage.precision)
        started = time.perf_counter()
        run_stage(
            model,
            sample,
            Path(folder),
            stage.replaced(epochs=max(1.0, _FEWEST * per_step / wanted), evaluations=1),
            recipe.objective,
            frozen_encoders=stage.frozen_encoders,
            dev_set=None,
            processes=Processes(cpu=model.device.type == "cpu"),
            device=recipe.device,
            watch=Watch(callbacks=[rehearsed]),
        )
        # Of the last step only its end is not seen.
        once = time.perf_counter() - started - sum(rehearsed.steps) - rehearsed.step
        size = disk_bytes(Path(folder) / "student")
    return StageTimes(step=rehearsed.step, once=max(0.0, once) + encoding, saving=rehearsed.saving, student_bytes=size)


def kept_output_seconds(model: DiPair, table: TupleTable, stage: NamedStageConfig) -> float:
    """Seconds in which frozen encoders read every text of each side once, by batches of all lengths."""
    seconds, done = 0.0, set()
    for side in range(model.student.sides):
        key = (model.side_streams[side], model.student.kept_tokens[side])
        if key in done:
            continue
        done.add(key)
        sides = [j for j in range(model.student.sides) if (model.side_streams[j], model.student.kept_tokens[j]) == key]
        texts = [table.texts[i] for i in np.unique(table.rows[:, sides])]
        seconds += len(texts) * text_seconds(model, texts, side, stage.precision)
    return seconds


def evaluation_seconds(model: DiPair, dev_set: DevSet, stage: NamedStageConfig) -> float:
    """Seconds in which a student is scored on dev: its texts count, as each is read once."""
    table = dev_set.table
    rows = np.arange(len(table)) if len(table) <= _DEV_ROWS else spread_rows(table, _DEV_ROWS)
    sample = table.take(rows)
    started = time.perf_counter()
    model.eval().logits(sample.tuples(), precision=stage.precision, show_progress_bar=False)
    distinct = [sum(len(np.unique(part.rows[:, j])) for j in range(part.sides)) for part in (table, sample)]
    return (time.perf_counter() - started) * distinct[0] / distinct[1]


def spread_rows(table: TupleTable, rows: int) -> np.ndarray:
    """(rows,) row numbers, evenly spaced among all rows sorted by the length of their texts."""
    lengths = np.array([len(text) for text in table.texts])[table.rows].sum(1)
    order = np.argsort(lengths, kind="stable")
    return order[np.linspace(0, len(order) - 1, min(rows, len(order))).round().astype(int)]


def _loading(model: DiPair) -> float:
    """Seconds in which the finished student is read, written and read again."""
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        model.save_pretrained(folder)
        DiPair.from_pretrained(folder)
        return 2 * (time.perf_counter() - started)
