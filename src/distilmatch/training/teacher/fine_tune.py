"""Fine-tuning of a cross-encoder teacher on gold labels: settings chosen, trained, and kept with what was found.

Shape legend: n rows; c labels.
"""

from __future__ import annotations

import math
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from sentence_transformers import CrossEncoder
from transformers import TrainerCallback

from distilmatch.config.fine_tuning import FineTuneConfig
from distilmatch.config.tables import TableConfig, TaskConfig
from distilmatch.data.tables import TableSource, tuple_table
from distilmatch.errors import ConfigError
from distilmatch.files import locked, read_json, write_atomically, write_json, writing
from distilmatch.fingerprint import fingerprint
from distilmatch.metrics import MetricFunction, checked_metrics
from distilmatch.metrics.decisions import decide_on, decides
from distilmatch.runtime import environment, keep_freed_memory
from distilmatch.teachers.cross_encoder import CrossEncoderTeacher
from distilmatch.training.arguments import training_device
from distilmatch.training.checks import check_reporters
from distilmatch.training.processes import Processes
from distilmatch.training.teacher.beside import compared
from distilmatch.training.teacher.choices import Move, base_model, moves, usual_choices
from distilmatch.training.teacher.dev import DevEvaluator, dev_rows
from distilmatch.training.teacher.fit import Choices, fit
from distilmatch.training.teacher.rows import LabelledRows, labelled_pairs
from distilmatch.training.teacher.search import USUAL, Search, SearchFolder, Try, finished
from distilmatch.types import TupleTable

RECORD = "fine_tuning.json"
_KEY = "key"


def fine_tune_teacher(
    train: TupleTable | TableSource,
    task: TaskConfig,
    output: str | Path,
    config: FineTuneConfig = FineTuneConfig(),
    dev: TupleTable | TableSource | None = None,
    *,
    read_as: TableConfig | None = None,
    metrics: Mapping[str, MetricFunction] | None = None,
    callbacks: Sequence[TrainerCallback] = (),
) -> Path:
    """Fine-tunes a cross-encoder on the rows of `train` that have a gold label.

    classification learns by cross-entropy; binary, regression (the gold value scaled from `label_range` to [0, 1])
    and ranking (the relevance divided by the largest one) by binary cross-entropy on the one logit.

    What `config` leaves open is chosen: the token limit and the epochs by the rows, the rest by a search on dev within
    `config.minutes`: a whole training with the usual settings, short trainings that each try one change, and a whole one of
    what they found; the better whole one on dev is kept. Without dev, or with `minutes=0`, one training with the
    usual settings. A search that is stopped goes on with the same call.

    Args:
        train: n pairs; rows without gold label are left out. A `TupleTable`, a path, or a table in memory (pandas, polars,
            Arrow, `datasets`, rows).
        read_as: which columns are what, of tables that are yet to be read: `TableConfig(label_column="label")` at least. Its
            templates of texts go into the record, so that a student's recipe with others is told so.
        output: a folder that does not exist yet, or is empty; it appears whole, when all is done.
        config: base model, minutes and so on; a `max_length` beyond the base model's positions is cut to them.
        dev: what settings are compared on; of a training the weights that are best on it are kept.
        metrics: of your own, by name, measured on dev too; see `distil_pairs`.
        callbacks: of `transformers.Trainer`.

    Returns:
        `output`: a sentence-transformers `CrossEncoder` folder with its model card, tokenizer, label names and
        `fine_tuning.json`, the record of what was tried, chosen and measured. With `config.seeds` above 1 a folder of such
        folders, `seed-0` and so on, the models of one ensemble.

    Raises:
        ConfigError: `output` holds something already, or the base model's name looks like a folder that is not there.
        DataError: no row with a gold label, rows that are not pairs, or labels that do not fit the task.
        ModelError: the base model cannot be loaded.
        CacheError: the output cannot be written, or the disk is full.
    """
    place = Path(output)
    if place.exists() and (not place.is_dir() or any(place.iterdir())):
        raise ConfigError(f"{place} exists already; choose another output for the teacher, or delete it first")
    check_reporters(config.report_to)
    own = checked_metrics(metrics)
    if dev is None and (own or config.metric_for_best is not None):
        raise ConfigError(
            f"`{'metrics' if own else 'metric_for_best'}` needs a dev table to be measured on: give `dev`"
        )
    train = tuple_table(train, read_as, task)
    dev = None if dev is None else tuple_table(dev, read_as, task)
    pairs, targets = labelled_pairs(train, task, "train")
    rows = LabelledRows(pairs=pairs, targets=targets)
    templates = None if read_as is None else read_as.text_templates
    job = _Job(train=train, rows=rows, dev=dev, task=task, own=own, callbacks=tuple(callbacks), templates=templates)
    if dev is not None:
        job.evaluator(config)  # labels without a metric must show before any work
    keep_freed_memory()
    with _alone(place):
        return job.make(place, config) if config.seeds == 1 else _several(job, place, config)


@contextmanager
def _alone(place: Path) -> Iterator[None]:
    """Keeps a second process from making the same teacher; the processes of one `torchrun` job make it together."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        yield
        return
    with writing(place):
        place.parent.mkdir(parents=True, exist_ok=True)
        held = locked(place.with_name(f".{place.name}.lock"), place)
    try:
        yield
    finally:
        Path(held.lock_file).unlink(missing_ok=True)
        held.release()


def _several(job: _Job, place: Path, config: FineTuneConfig) -> Path:
    """Teachers of several seeds: the first one searches, the others train with what it found."""
    members = _members(place, job.key(config))
    found = config
    for seed in range(config.seed, config.seed + config.seeds):
        folder = members / f"seed-{seed}"
        if not folder.exists():
            job.make(folder, found.replaced(seed=seed))
        if seed == config.seed:
            found = _fixed(config, read_json(folder / RECORD)["chosen"])
    with writing(place):
        (members / _KEY).unlink()
        os.replace(members, place)
    return place


def _fixed(config: FineTuneConfig, chosen: Mapping[str, Any]) -> FineTuneConfig:
    """`config` with nothing left to search."""
    settings = {name: value for name, value in chosen.items() if name != "balanced"}
    return config.replaced(**settings, class_weights="balanced" if chosen["balanced"] else "none", minutes=0)


def _members(place: Path, key: str) -> Path:
    """The folder in which the teachers of several seeds gather; those of another call are thrown away."""
    members = place.with_name(f".{place.name}.seeds")
    mark = members / _KEY
    with writing(place):
        if not mark.is_file() or mark.read_text(encoding="utf-8") != key:
            shutil.rmtree(members, ignore_errors=True)
            members.mkdir(parents=True)
            write_atomically(mark, key)
    return members


@dataclass(frozen=True, kw_only=True)
class _Job:
    """What the teachers of all seeds are made from."""

    train: TupleTable
    rows: LabelledRows
    dev: TupleTable | None
    task: TaskConfig
    own: Mapping[str, MetricFunction]
    callbacks: tuple[TrainerCallback, ...]
    templates: tuple[str, ...] | None = None

    def evaluator(self, config: FineTuneConfig, rows: int | None = None) -> DevEvaluator:
        """Of all rows of dev, or of about `rows` of them."""
        assert self.dev is not None
        return DevEvaluator(dev_rows(self.dev, self.task, rows), self.task, config, self.own)

    def make(self, place: Path, config: FineTuneConfig) -> Path:
        """Trains one teacher and moves it to `place`."""
        processes = Processes(training_device(config.device).type == "cpu")
        with writing(place):
            place.parent.mkdir(parents=True, exist_ok=True)
            work = Path(tempfile.mkdtemp(dir=place.parent, prefix=f".{place.name}."))
        found = place.with_name(f".{place.name}.search")
        try:
            base = base_model(config, self.task.num_labels)
            usual = usual_choices(self.rows, self.task, config, base)
            options = moves(usual, self.rows, self.task, config, base)
            if self.dev is None or config.minutes == 0 or processes.count > 1:
                model, tries = self._once(usual, config, work)
            else:
                model, tries = self._searched(usual, options, config, work, SearchFolder(found, self.key(config)))
            if processes.is_main:
                self._save(model, config, work / "model", place, self._record(config, tries))
                shutil.rmtree(found, ignore_errors=True)
        finally:
            shutil.rmtree(work, ignore_errors=True)
        return place

    def key(self, config: FineTuneConfig) -> str:
        """Of all that the trainings depend on."""
        dev = None if self.dev is None else [list(self.dev.texts), np.asarray(self.dev.gold).tobytes().hex()]
        rows = [[list(pair) for pair in self.rows.pairs], self.rows.targets.tobytes().hex()]
        return fingerprint("fine-tuning", config.to_dict(), self.task.to_dict(), rows, dev)

    def _once(self, usual: Choices, config: FineTuneConfig, work: Path) -> tuple[CrossEncoder, list[Try]]:
        evaluator = None if self.dev is None else self.evaluator(config)
        fitted = fit(
            self.rows, self.task, config, usual, work / "trainer", evaluator=evaluator, callbacks=self.callbacks
        )
        return fitted.model, [finished("whole", USUAL, usual, fitted, evaluator, -math.inf)]

    def _searched(
        self, usual: Choices, options: Sequence[Move], config: FineTuneConfig, work: Path, folder: SearchFolder
    ) -> tuple[CrossEncoder, list[Try]]:
        assert self.dev is not None
        search = Search(
            rows=self.rows,
            task=self.task,
            config=config,
            evaluator=lambda rows: self.evaluator(config, rows),
            dev_rows=len(self.dev),
            folder=folder,
            work=work / "trainer",
            callbacks=self.callbacks,
        )
        model, best = search.run(usual, options)
        return model, [replace(done, chosen=done == best) for done in folder.tries]

    def _record(self, config: FineTuneConfig, tries: Sequence[Try]) -> dict[str, Any]:
        best = next(done for done in tries if done.chosen)
        record: dict[str, Any] = {
            "task": self.task.to_dict(),
            "config": config.to_dict(),
            "rows": len(self.rows.pairs),
            "text_templates": None if self.templates is None else list(self.templates),
            "steps": best.steps,
            "chosen": best.choices,
            "tries": [vars(done) for done in tries],
            "environment": environment(),
        }
        if self.dev is not None:
            record["metric_for_best"] = best.metric
            record["dev"] = best.metrics
            record["dev_history"] = [dict(entry) for entry in best.history]
        return record

    def _save(
        self, model: CrossEncoder, config: FineTuneConfig, folder: Path, place: Path, record: dict[str, Any]
    ) -> None:
        """Writes the model to `folder`, with what dev says of it, and moves it to `place` in one step."""
        if self.dev is not None:
            record |= compared(
                self.train, self.dev, self.task, config, record["dev"], record["metric_for_best"], self.own
            )
        with writing(place):
            model.save_pretrained(str(folder))
            write_json(folder / RECORD, record)
        if self.dev is not None and decides(self.task):
            tested = dev_rows(self.dev, self.task, None)
            teacher = CrossEncoderTeacher(model, batch_size=2 * config.batch_size, precision=config.precision)
            decide_on(
                tested,
                self.task,
                teacher.logits([(left, right) for left, right in tested.tuples()], False),
                config.seed,
            ).save(folder)
        with writing(place):
            folder.chmod(0o755)
            os.replace(folder, place)
