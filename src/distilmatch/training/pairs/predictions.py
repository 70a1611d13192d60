"""Pre-training on the teacher's predictions (PTP of Pea-KD, Cho and Kang 2022, arXiv 2009.14822).

Before it learns the teacher's labels, the student learns what kind of prediction each is: right or wrong, confident or not.
The head gets a layer of four classes for that stage, and its own back afterwards.

Shape legend: n rows; c labels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
from scipy.special import expit, softmax

from distilmatch.config.stages import NamedStageConfig
from distilmatch.config.tables import TaskConfig
from distilmatch.errors import DataError
from distilmatch.models import DiPair
from distilmatch.models.fp32 import Logits
from distilmatch.types import TupleTable

KINDS = ("right, confident", "right, unsure", "wrong, confident", "wrong, unsure")
TASK = TaskConfig(kind="classification", classes=KINDS)


def prediction_kinds(gold: np.ndarray, teacher: np.ndarray, stage: NamedStageConfig) -> np.ndarray:
    """(n,) int64 places in `KINDS` of a teacher's predictions.

    Args:
        gold: (n,) classes, none NaN.
        teacher: (n, c) logits; one is the log-odds of the second of two classes.
        stage: its thresholds: a probability from them on is confident.
    """
    if teacher.shape[1] == 1:
        match = expit(teacher[:, 0].astype(np.float64))
        probabilities = np.stack([1 - match, match], 1)
    else:
        probabilities = softmax(teacher.astype(np.float64), axis=1)
    wrong = probabilities.argmax(axis=1) != gold
    unsure = probabilities.max(axis=1) < np.where(wrong, stage.confident_wrong, stage.confident_right)
    return 2 * wrong.astype(np.int64) + unsure


def predictions_table(table: TupleTable, stage: NamedStageConfig) -> TupleTable:
    """The labelled rows of a transfer set, each pair once, with the kind of the teacher's prediction as their gold label.

    Raises:
        DataError: no row is of one of the four kinds.
    """
    assert table.gold is not None and table.teacher is not None
    labelled = np.flatnonzero(~np.isnan(table.gold) & ~np.isnan(table.teacher).any(axis=1))
    _, first = np.unique(table.rows[labelled], axis=0, return_index=True)
    rows = labelled[np.sort(first)]
    kinds = prediction_kinds(table.gold[rows], table.teacher[rows], stage)
    counts = np.bincount(kinds, minlength=len(KINDS))
    if not counts.all():
        found = "; ".join(f"{name}: {count}" for name, count in zip(KINDS, counts.tolist(), strict=True))
        raise DataError(
            f"stage {stage.name} learns four kinds of the teacher's predictions, and of {len(rows)} labelled rows some kind has "
            f"none ({found}): move `confident_right` ({stage.confident_right:g}) or `confident_wrong` "
            f"({stage.confident_wrong:g}); where the teacher is never wrong on the train table, leave the stage out"
        )
    return replace(table.take(rows), gold=kinds.astype(np.float32), teacher=None, queries=None)


def with_kinds(model: DiPair) -> Callable[[Path], None]:
    """Gives the student a layer of four classes in the place of its own, and its task; what is returned saves it in a folder
    with its own back.
    """
    own, task = model.classifier, model.task
    model.classifier = Logits(model.head.features, TASK.num_labels)
    model._init_weights(model.classifier)
    model.task = TASK

    def save(folder: Path) -> None:
        model.classifier, model.task = own.to(model.device), task
        model.save_pretrained(folder)

    return save
