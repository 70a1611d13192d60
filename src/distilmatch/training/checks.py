"""What is looked at before any work: models that are there, folders, dev tables on which a checkpoint can be picked.

Shape legend: n rows; c labels.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from transformers.integrations import get_available_reporting_integrations

from distilmatch.config.tables import TaskConfig
from distilmatch.errors import ConfigError, DataError
from distilmatch.files import read_json
from distilmatch.metrics import task_metrics
from distilmatch.models.trained_texts import say_other_texts
from distilmatch.pretrained.names import resolve_model
from distilmatch.pretrained.sentence import check_model_folder
from distilmatch.training.run_folder import check_folder
from distilmatch.types import TupleTable

_RECORD = "fine_tuning.json"


def check_teacher_texts(teachers: Sequence[str], templates: Sequence[str] | None) -> None:
    """Warns of teachers that `fine_tune_teacher` made from texts of another form than a recipe's.

    Args:
        teachers: folders or hub names; those without a record, or with one that does not say, are passed over.
        templates: of the recipe's texts; None where they are columns.
    """
    for teacher in teachers:
        try:
            record = read_json(Path(teacher) / _RECORD)
        except (OSError, ValueError):
            continue
        if isinstance(record, dict) and "text_templates" in record:
            say_other_texts(teacher, record["text_templates"], templates)


def check_dev(table: TupleTable, task: TaskConfig, name: str, has_teacher: bool) -> None:
    """Checks that checkpoints can be compared on a dev table.

    Args:
        name: of the table, for messages.
        has_teacher: whether a teacher will label it; without gold labels agreement with it is measured.

    Raises:
        DataError: the task's metric is not defined on its gold labels (one label only, no relevant row), or there are no
            labels at all.
    """
    gold = table.gold
    if gold is None or np.isnan(gold).all():
        if not has_teacher and table.teacher is None:
            raise DataError(
                f"the dev table {name} has no labels to measure by: name `table.label_column`, or leave `dev` out"
            )
        return
    labelled = ~np.isnan(gold)
    queries = None if table.queries is None else table.queries[labelled]
    try:
        task_metrics(task, gold[labelled], np.zeros((int(labelled.sum()), task.num_labels)), queries)
    except DataError as error:
        reason = str(error).removeprefix("task metrics: ")
        raise DataError(
            f"the dev table {name} cannot pick the best checkpoint: {reason}; nothing was started: give other rows, or "
            "leave `dev` out"
        ) from error


def check_gold_decides(table: TupleTable, name: str) -> None:
    """Checks that a threshold can be chosen on a dev table.

    Args:
        name: of the table, for messages.

    Raises:
        DataError: it has no gold labels, or those of one class alone.
    """
    gold = np.empty(0) if table.gold is None else table.gold[~np.isnan(table.gold)]
    positive = gold >= 0.5
    if positive.all() or not positive.any():
        shown = f"all {len(gold)} gold labels are the same" if len(gold) else "there are no gold labels"
        raise DataError(f"the dev table {name} cannot choose a threshold: {shown}; give rows of both labels")


def check_model(name: str, revision: str | None = None) -> None:
    """Checks that a model's folder is there and holds a model; of the hub's, that it (of `revision`) is to be had.

    Raises:
        ConfigError, ModelError: see `resolve_model` and `check_model_folder`.
    """
    path = resolve_model(name, revision=revision)
    if Path(path).is_dir():
        check_model_folder(path)


def check_reporters(names: Sequence[str]) -> None:
    """Checks that the packages of the services to log to are installed.

    Raises:
        ConfigError: one is not.
    """
    available = get_available_reporting_integrations()
    missing = [name for name in names if name not in available]
    if missing:
        raise ConfigError(
            f"`report_to` names {missing[0]}, which is not installed: pip install {missing[0].replace('_', '-')}"
        )


def check_new_folder(place: str | Path, name: str) -> None:
    """Refuses a folder that holds something already, or that cannot be made.

    Raises:
        ConfigError: see `check_folder`.
    """
    check_folder(place, name)
    path = Path(place).expanduser()
    if path.is_dir() and any(path.iterdir()):
        raise ConfigError(f"{name} is {path}, which exists already: choose another place, or delete it first")


def check_scores(table: TupleTable, name: str) -> None:
    """The same for a dev table of scored pairs, by correlation.

    Raises:
        DataError: all scores are one, or there is one pair only.
    """
    if table.gold is None or np.isnan(table.gold).any():
        raise DataError(f"the dev table {name} needs a score in every row: leave those without one out")
    if len(table) < 2 or np.ptp(table.gold) == 0:
        raise DataError(
            f"the dev table {name} cannot pick the best checkpoint: all {len(table)} scores are the same, so that no "
            "correlation is defined; nothing was started: give other rows, or leave `dev` out"
        )
