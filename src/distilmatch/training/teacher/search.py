"""The search for a teacher's settings: short trainings and whole ones compared on dev, within a budget of minutes.

A short training is a whole one in small: warm-up, decay and all, on as many of the rows as its share of the time allows.
Each tries one change of the best settings so far; a change that is better on dev is kept. What is finished is kept in a
folder beside the output, so that a search that was stopped goes on.
"""

from __future__ import annotations

import logging
import math
import shutil
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from sentence_transformers import CrossEncoder
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from distilmatch.config.fine_tuning import FineTuneConfig
from distilmatch.config.tables import TaskConfig
from distilmatch.estimates import spread_batches
from distilmatch.files import read_json, write_json, writing
from distilmatch.teachers.cross_encoder import load_cross_encoder
from distilmatch.training.progress import StepTimes
from distilmatch.training.teacher.choices import Move, changed, count
from distilmatch.training.teacher.dev import DevEvaluator
from distilmatch.training.teacher.fit import Choices, Fitted, fit
from distilmatch.training.teacher.rows import LabelledRows

logger = logging.getLogger(__name__)

STATE = "search.json"
_SHORTEST = 150  # steps of a short training: of fewer the order of two settings is a matter of luck
_SHORT_SHARE = 0.5  # of the minutes, at most, for short trainings
_REHEARSED = 10  # batches whose steps are timed
_OVER = 1.2  # a training is ended when it took so many times what was meant for it
USUAL = "the usual settings"
_DEV_ROWS = 2_000  # that short trainings are compared on


@dataclass(frozen=True, kw_only=True)
class Try:
    """One training of the search.

    Attributes:
        name: what was changed; kind: "short" or "whole".
        metric: by which trainings are compared; None without dev.
        score: its value on dev, turned so that more is better; metrics: all of them.
        kept: whether its settings were the best so far; chosen: whether it is the teacher.
        history: the metrics of each evaluation, and its `epoch`; loss: (epoch, mean training loss).
    """

    name: str
    kind: str
    choices: dict[str, Any]
    steps: int
    seconds: float
    metric: str | None
    score: float | None
    metrics: dict[str, float] | None
    kept: bool
    chosen: bool
    history: tuple[dict[str, float], ...] = ()
    loss: tuple[tuple[float, float], ...] = ()

    @property
    def value(self) -> float:
        """`score`, minus infinity without one."""
        return -math.inf if self.score is None else self.score


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How the minutes are spent, from the time of a few steps.

    Attributes:
        step_seconds: of one training step of usual length.
        tries: how many short trainings; try_rows: how many rows each sees; try_seconds: what each is meant to take.
        whole_epochs: of the trainings after them.
        whole_seconds: what one of these is meant to take.
    """

    step_seconds: float
    tries: int
    try_rows: int
    try_seconds: float
    whole_epochs: float
    whole_seconds: float


def planned(
    step_seconds: float, usual: Choices, moves: int, config: FineTuneConfig, *, rows: int, dev_rows: int
) -> Plan:
    """How the minutes of `config` are spent on `rows` rows: a whole training with the usual settings and, where there is time
    for a second one and for short trainings of `moves` changes, these.
    """
    batch, budget = config.batch_size, 60 * config.minutes
    epoch_steps = math.ceil(rows / batch)
    pair_seconds = step_seconds / 3 / batch  # on dev: a forward pass is a third of a step
    epoch = epoch_steps * step_seconds + dev_rows * pair_seconds
    epochs = min(usual.epochs, max(budget / epoch, 16 * batch / rows)) if config.epochs is None else config.epochs
    whole = epochs * epoch
    for_tries = min(_SHORT_SHARE * budget, budget - 2 * whole) if moves else 0.0
    scored = min(dev_rows, _DEV_ROWS) * pair_seconds
    shortest = min(_SHORTEST, epoch_steps)
    tries = min(1 + moves, int(for_tries / (shortest * step_seconds + scored)))
    tries = tries if tries >= 2 else 0
    steps = min(epoch_steps, int((for_tries / tries - scored) / step_seconds)) if tries else 0
    return Plan(
        step_seconds=step_seconds,
        tries=tries,
        try_rows=min(rows, steps * batch),
        try_seconds=steps * step_seconds + scored,
        whole_epochs=round(epochs, 2),
        whole_seconds=whole,
    )


class SearchFolder:
    """What a search has finished: its plan, its short trainings, and the models of its whole ones.

    Args:
        folder: kept until the teacher is done.
        key: of all that the search depends on; what another key left is thrown away.
    """

    def __init__(self, folder: Path, key: str) -> None:
        self.folder = folder
        try:
            state = read_json(folder / STATE)
        except (OSError, ValueError):
            state = None
        if not isinstance(state, dict) or state.get("key") != key:
            with writing(folder):
                shutil.rmtree(folder, ignore_errors=True)
                folder.mkdir(parents=True)
            state = {"key": key, "plan": None, "seconds": 0.0, "tries": []}
        elif state["tries"]:
            logger.info("Going on with the search in %s: %d trainings are done", folder, len(state["tries"]))
        self._state: dict[str, Any] = state

    @property
    def tries(self) -> list[Try]:
        """The finished trainings, in their order."""
        return [_read(entry) for entry in self._state["tries"]]

    @property
    def seconds(self) -> float:
        """How long the finished trainings took."""
        return float(self._state["seconds"])

    def planned(self, make: Callable[[], Plan]) -> Plan:
        """The plan that was made, or a new one."""
        if self._state["plan"] is None:
            self._state["plan"] = vars(make())
            self._write()
        return Plan(**self._state["plan"])

    def add(self, done: Try, seconds: float) -> None:
        """Keeps a finished training."""
        self._state["tries"].append(vars(done))
        self._state["seconds"] += seconds
        self._write()

    def model(self, name: str) -> Path:
        """Where the model of a whole training lies."""
        return self.folder / name

    def _write(self) -> None:
        with writing(self.folder):
            write_json(self.folder / STATE, self._state)


def _read(entry: dict[str, Any]) -> Try:
    loss = tuple((float(x), float(y)) for x, y in entry["loss"])
    return Try(**{**entry, "history": tuple(entry["history"]), "loss": loss})


class TimeLimit(TrainerCallback):
    """Ends a training after some seconds, evaluating once more."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._end = math.inf

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Starts the clock."""
        self._end = time.monotonic() + self.seconds

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Looks at it."""
        if time.monotonic() > self._end and not control.should_training_stop:
            logger.warning(
                "The time is over at step %d of %d: the training ends here", state.global_step, state.max_steps
            )
            control.should_evaluate = control.should_training_stop = True


@dataclass(frozen=True, kw_only=True)
class Search:
    """All that trainings of one search share.

    Attributes:
        evaluator: makes a dev evaluator of so many rows; None for all.
        callbacks: of whole trainings.
        work: a folder for what trainers write.
    """

    rows: LabelledRows
    task: TaskConfig
    config: FineTuneConfig
    evaluator: Callable[[int | None], DevEvaluator]
    dev_rows: int
    folder: SearchFolder
    work: Path
    callbacks: Sequence[TrainerCallback] = ()

    def run(self, usual: Choices, moves: Sequence[Move]) -> tuple[CrossEncoder, Try]:
        """The best whole training of all that the minutes allow."""
        plan = self.folder.planned(lambda: self._planned(usual, moves))
        # The usual settings first: short trainings may like what whole ones do not, a high learning rate above all.
        best = self._whole("whole-1", USUAL, usual, plan, None)
        if plan.tries:
            name, found = self._short_tries(usual, moves, plan)
            if found != usual:
                other = self._whole("whole-2", name, found, plan, best)
                best = other if other.value > best.value else best
        number = next(i for i, done in enumerate(self._done("whole"), 1) if done == best)
        place = self.folder.model(f"whole-{number}")
        return load_cross_encoder(place, self.config.device, dtype=self.config.dtype), best

    def _planned(self, usual: Choices, moves: Sequence[Move]) -> Plan:
        step = self._seconds_a_step(usual)
        return planned(step, usual, count(moves), self.config, rows=len(self.rows.pairs), dev_rows=self.dev_rows)

    def _seconds_a_step(self, usual: Choices) -> float:
        lengths = [len(left) + len(right) for left, right in self.rows.pairs]
        chosen = np.unique(np.concatenate(spread_batches(lengths, self.config.batch_size, _REHEARSED)))
        times = StepTimes()
        epochs = max(1.0, (_REHEARSED + 1) * self.config.batch_size / len(chosen))
        fit(
            self.rows.take(chosen),
            self.task,
            self.config.replaced(report_to=()),
            replace(usual, epochs=epochs),
            self.work,
            callbacks=[times],
        )
        # Batches of all lengths: their mean is that of an epoch, the first ones apart.
        return statistics.fmean(times.seconds[2:] or times.seconds or [0.1])

    def _done(self, kind: str) -> list[Try]:
        return [done for done in self.folder.tries if done.kind == kind]

    def _short_tries(self, usual: Choices, moves: Sequence[Move], plan: Plan) -> tuple[str, Choices]:
        """What the short trainings found, and its name."""
        chosen = np.random.default_rng(self.config.seed).permutation(len(self.rows.pairs))[: plan.try_rows]
        rows = self.rows.take(np.sort(chosen))
        logger.info(
            "Search: %d short trainings of %d steps, about %.0f minutes",
            plan.tries,
            math.ceil(plan.try_rows / self.config.batch_size),
            plan.tries * plan.try_seconds / 60,
        )
        best, best_score = usual, -math.inf
        before, number = self._done("short"), 0
        kept: dict[str, str] = {}  # by setting, the change that is the best so far
        for move in [Move(name=USUAL, changes={}), *moves]:
            if number == plan.tries or (move.only is not None and (move.only[0] in kept.values()) != move.only[1]):
                continue
            choices = changed(best, move)
            done = before[number] if number < len(before) else self._short(move.name, rows, choices, best_score)
            number += 1
            if done.value > best_score:
                best, best_score = choices, done.value
                kept |= dict.fromkeys(move.changes, move.name)
        return ", ".join(kept.values()) or USUAL, best

    def _short(self, name: str, rows: LabelledRows, choices: Choices, best: float) -> Try:
        started = time.monotonic()
        evaluator = self.evaluator(_DEV_ROWS)
        config = self.config.replaced(report_to=())
        fitted = fit(rows, self.task, config, replace(choices, epochs=1.0), self.work, evaluator=evaluator)
        done = finished("short", name, choices, fitted, evaluator, best)
        logger.info("  %s: %s %.4f%s", name, done.metric, abs(done.value), " (kept)" if done.kept else "")
        self.folder.add(done, time.monotonic() - started)
        return done

    def _whole(self, place: str, name: str, choices: Choices, plan: Plan, best: Try | None) -> Try:
        number = int(place.rpartition("-")[2]) - 1
        before = self._done("whole")
        if number < len(before):
            return before[number]
        started = time.monotonic()
        logger.info("Training with %s", name)
        evaluator = self.evaluator(None)
        choices = replace(choices, epochs=plan.whole_epochs)
        limit = TimeLimit(max(_OVER * plan.whole_seconds, 60 * self.config.minutes - self.folder.seconds))
        fitted = fit(
            self.rows,
            self.task,
            self.config,
            choices,
            self.work,
            evaluator=evaluator,
            evaluations=evaluations(plan.whole_epochs),
            callbacks=[*self.callbacks, *([limit] if self.config.epochs is None else [])],
        )
        done = finished("whole", name, choices, fitted, evaluator, -math.inf if best is None else best.value)
        with writing(self.folder.folder):
            fitted.model.save_pretrained(str(self.folder.model(place)))
        self.folder.add(done, time.monotonic() - started)
        return done


def evaluations(epochs: float) -> int | None:
    """How often a training is scored on dev: once an epoch, and four times at least."""
    return None if epochs >= 4 and epochs == int(epochs) else max(4, math.ceil(epochs))


def finished(
    kind: str, name: str, choices: Choices, fitted: Fitted, evaluator: DevEvaluator | None, best: float
) -> Try:
    """The record of a training; `best` is the score of the best one before it."""
    score = math.nan if evaluator is None else evaluator.score
    return Try(
        name=name,
        kind=kind,
        choices=choices.to_dict(),
        steps=fitted.steps,
        seconds=round(fitted.seconds, 1),
        metric=None if evaluator is None else evaluator.primary_metric,
        score=None if evaluator is None else score,
        metrics=None if evaluator is None else evaluator.best,
        kept=evaluator is None or score > best,
        chosen=kind == "whole",
        history=() if evaluator is None else tuple({"epoch": epoch, **found} for epoch, found in evaluator.history),
        loss=fitted.loss,
    )
