"""The stages of a run: what every stage does, whatever it trains, and the run as a list of them.

DiPair (section 3.4) and DisCo (section 3.1) have two: the new layers settle, then everything learns.
"""

from __future__ import annotations

import json
import logging
import re
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from torch import nn
from torch.utils.tensorboard import SummaryWriter
from transformers import EarlyStoppingCallback, Trainer, TrainerCallback
from transformers.integrations import TensorBoardCallback, get_reporting_integration_callbacks

from distilmatch.files import write_json
from distilmatch.metrics import sign_of
from distilmatch.models.attention import trained_attention
from distilmatch.runtime import keep_freed_memory, pick_device
from distilmatch.training.checkpoints import last_whole_checkpoint
from distilmatch.training.curves import DONE, StageCurve, stage_curve
from distilmatch.training.processes import Processes
from distilmatch.training.progress import StepTimes, flat_history, show_shortly

logger = logging.getLogger(__name__)

CHECKPOINTS = "checkpoints"


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A named stage of a run.

    Attributes:
        name: as the recipe calls it.
        title: what it does, for the log.
        folder: of its checkpoints, TensorBoard logs, summary (`stage.json`, written last) and student.
        train: trains it and leaves the student in `folder/student`; given the folder of the student that it begins with, None
            where there was no stage before.
    """

    name: str
    title: str
    folder: Path
    train: Callable[[Path | None], object]

    @property
    def shown(self) -> str:
        """Its name in sentences: `stage1` is "stage 1"."""
        return re.sub(r"(?<=[a-z])(?=\d)", " ", self.name)

    @property
    def student(self) -> Path:
        """The folder of the student that it leaves."""
        return self.folder / "student"

    def described(self) -> str:
        """What it took and reached, for a model card; it is finished."""
        summary = finished_stage(self.folder) or {}
        best = summary["best_metric"]
        dev = "" if best is None else f", best dev {summary['metric']} {best:.4f}"
        return f"{summary['steps']} steps, {summary['seconds']:.0f} s{dev}"


def stage_curves(stages: Sequence[Stage]) -> tuple[StageCurve, ...]:
    """How the stages that are done went, step by step."""
    summaries = [(stage.name, finished_stage(stage.folder)) for stage in stages]
    return tuple(stage_curve(name, summary) for name, summary in summaries if summary is not None)


def run_stages(stages: Sequence[Stage], left_out: Callable[[Stage, Stage], bool] | None = None) -> Path:
    """Runs the stages that are not done, one after another; the folder of the last one's student.

    Args:
        left_out: whether a stage that is not done is not needed, given the one before it, which is.
    """
    before: Stage | None = None
    for stage in stages:
        if finished_stage(stage.folder) is None:
            if before is not None and left_out is not None and left_out(stage, before):
                continue
            logger.info("%s: %s", stage.shown, stage.title)
            stage.train(None if before is None else before.student)
        before = stage
    assert before is not None, "a recipe without a stage is refused before"
    return before.student


def finished_stage(folder: Path) -> dict[str, Any] | None:
    """The summary of a stage that is done, or None."""
    path = folder / DONE
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def best_stage(stages: Sequence[Stage], advice: str) -> Path:
    """The student of the last stage, or that of an earlier one that is better on dev; `advice` goes to the log then."""
    last = stages[-1]
    best, highest = last, _metric_of(last)
    for stage in reversed(stages[:-1]):
        metric = _metric_of(stage)
        if highest is not None and metric is not None and _sign(stage) * metric > _sign(stage) * highest:
            best, highest = stage, metric
    if best is not last:
        logger.warning(
            "%s ended behind %s on dev (%s %.4f against %.4f): the student of %s is kept; %s",
            last.shown,
            best.shown,
            (finished_stage(best.folder) or {})["metric"],
            _metric_of(last),
            highest,
            best.shown,
            advice,
        )
    return best.student


def _metric_of(stage: Stage) -> float | None:
    summary = finished_stage(stage.folder)
    return None if summary is None else summary["best_metric"]


def _sign(stage: Stage) -> int:
    return sign_of((finished_stage(stage.folder) or {})["metric"])


class StageSettings(Protocol):
    """What every stage's config has that is not the trainer's."""

    @property
    def patience(self) -> int | None:
        """Evaluations without a better dev metric before the stage ends; None never."""
        ...


@dataclass(frozen=True, kw_only=True)
class Watch:
    """What a user has watch every stage.

    Attributes:
        report_to: services by the names that `transformers` has for them.
        callbacks: of the trainer.
    """

    report_to: Sequence[str] = ()
    callbacks: Sequence[TrainerCallback] = ()


def stage_callbacks(
    folder: Path, settings: StageSettings, *, has_dev: bool, processes: Processes, watch: Watch | None = None
) -> list[TrainerCallback]:
    """What watches every stage: TensorBoard, an early end where dev gets no better, and what a user asks for."""
    watch = watch or Watch()
    # Services are added as the trainer itself would; they know which process they are in.
    callbacks: list[TrainerCallback] = [
        service() for service in get_reporting_integration_callbacks(list(watch.report_to))
    ]
    callbacks += watch.callbacks
    if processes.is_main:
        callbacks.append(TensorBoardCallback(SummaryWriter(str(folder / "tensorboard"))))
    if has_dev and settings.patience is not None:
        callbacks.append(EarlyStoppingCallback(settings.patience))
    return callbacks


@dataclass(frozen=True, kw_only=True)
class StageWork:
    """A stage that is ready to train, and what differs from other stages.

    Attributes:
        trainer: `transformers.Trainer` of the job.
        encoders: whose attention is made fast for training.
        metric: on dev, which picks the best checkpoint; None without a dev set.
        shown: metrics that are printed at every evaluation.
        needs: files that callbacks put into every checkpoint.
        finish: what is done with the trained weights before they are saved; its facts go into the summary.
        facts: more of them, such as how much was seen.
        save: writes the student into a folder.
        scratch: folders that are not needed after the stage.
    """

    trainer: Trainer
    encoders: Sequence[nn.Module]
    metric: str | None
    shown: tuple[str, ...]
    save: Callable[[Path], None]
    facts: Callable[[], Mapping[str, Any]]
    finish: Callable[[], Mapping[str, Any]] = dict
    needs: Sequence[str] = ()
    scratch: Sequence[Path] = ()


def train_stage(work: StageWork, folder: Path, processes: Processes, device: str | None) -> dict[str, Any]:
    """Trains a stage and saves its student; goes on from the last whole checkpoint of a stopped run.

    Returns:
        Steps, seconds, what was seen and the log, as in `stage.json`.
    """
    keep_freed_memory()
    trainer, times = work.trainer, StepTimes()
    trainer.add_callback(times)
    show_shortly(trainer, work.shown)
    checkpoints = folder / CHECKPOINTS
    checkpoints.mkdir(parents=True, exist_ok=True)
    last = last_whole_checkpoint(checkpoints, work.needs, removes=processes.is_main)
    started = time.perf_counter()
    with trained_attention(list(work.encoders), pick_device(device)):
        trainer.train(resume_from_checkpoint=last)
    finished = work.finish()
    summary = {
        "steps": trainer.state.global_step,
        "seconds": round(time.perf_counter() - started, 1),
        "seconds_per_step": times.median,
        **work.facts(),
        "best_metric": trainer.state.best_metric,
        "metric": work.metric,
        **finished,
        "history": flat_history(trainer.state.log_history),
    }
    processes.wait()  # every process has read its best checkpoint
    if processes.is_main:
        work.save(folder / "student")
        write_json(folder / DONE, summary)
        for scratch in (checkpoints, *work.scratch):
            shutil.rmtree(scratch, ignore_errors=True)
    processes.wait()
    return summary
