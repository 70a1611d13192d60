"""The simple baselines of a report: what is computed of them, and what a reader must know.

Shape legend: n rows; c labels.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from sentence_transformers import CrossEncoder, SentenceTransformer

from distilmatch.config.tables import TaskConfig
from distilmatch.errors import ConfigError
from distilmatch.runtime import Precision
from distilmatch.teachers.baselines import FEATURES, has_labels, simple_baselines
from distilmatch.types import TupleTable

BaseModel = str | Path | CrossEncoder | SentenceTransformer


@dataclass(frozen=True, kw_only=True)
class SimpleRows:
    """What the simple baselines say of a table.

    Attributes:
        logits: (n, c) float32 by name.
        can_fit: whether there were labels to fit them on; without, only metrics of the order are taken.
        notes: what a reader must know, in sentences.
    """

    logits: Mapping[str, np.ndarray] = field(default_factory=dict)
    can_fit: bool = True
    notes: tuple[str, ...] = ()


def check_simple(task: TaskConfig, sides: int, train: TupleTable | None) -> None:
    """Refuses what simple baselines cannot be computed for.

    Raises:
        ConfigError: more than two texts a row; classes, which need a train table with gold labels.
    """
    if sides != 2:
        raise ConfigError(
            f"the simple baselines compare two texts, and a row has {sides}: leave `simple_baselines` out"
        )
    if task.kind == "classification" and not has_labels(train):
        raise ConfigError(
            "the simple baselines of a classification are fitted on a train table with gold labels: give `baselines_train` "
            "(--train-table)"
        )


def simple_rows(
    table: TupleTable, task: TaskConfig, train: TupleTable | None, base_model: BaseModel | None, precision: Precision
) -> SimpleRows:
    """Computes the simple baselines of a table; see `simple_baselines`.

    Raises:
        ConfigError: as of `check_simple`.
        DataError, ModelError: as of `simple_baselines`.
    """
    check_simple(task, table.sides, train)
    logits = simple_baselines(train, table, task, base_model=base_model, precision=precision)
    can_fit = has_labels(train)
    names = ", ".join(logits)
    if can_fit:
        told = "fitted on the train table alone: how rare words are, a regression of its labels on each score"
        told += ", for a binary task the threshold with the best F1" if task.kind == "binary" else ""
        told += f", and `{FEATURES}`, which reads all scores and the lengths of the texts"
    elif train is not None:
        told = "without labels to fit on: only the order of their scores is measured"
    else:
        told = "without a train table: only the order of their scores is measured, and words are counted in this table"
    return SimpleRows(logits=logits, can_fit=can_fit, notes=(f"Simple baselines ({names}), {told}.",))
