"""Training without a teacher: on the teacher labels of the table, or on its gold labels alone; and what is said of it.

Shape legend: n rows; c labels.
"""

from __future__ import annotations

import logging

import numpy as np
import torch

from distilmatch.config.pairs import PairRecipe
from distilmatch.errors import ConfigError, DataError
from distilmatch.objectives.gold_labels import compared_lists
from distilmatch.types import TupleTable

logger = logging.getLogger(__name__)

_LOSSES = {
    "classification": "cross-entropy of the classes",
    "binary": "binary cross-entropy",
    "regression": "binary cross-entropy of the labels, scaled from `label_range` to 0 to 1",
    "ranking": "softmax cross-entropy of each query's list",
}


def check_own_labels(recipe: PairRecipe, train: TupleTable | None, *, trains: bool) -> None:
    """Checks that a recipe without a teacher has labels to learn from, and says what it means that there is none.

    Args:
        train: the train table; None where its transfer set is made already.
        trains: False for what only labels.

    Raises:
        ConfigError: there is nothing to label with, or rows lack a label of the teacher.
        DataError: no gold label, or no list of a ranking that has something to tell apart.
    """
    if not recipe.learns_gold_alone:
        if train is not None and (train.teacher is None or np.isnan(train.teacher).any()):
            raise ConfigError("some rows have no teacher label and the recipe names no `teacher`")
        given = f"The teacher's labels are those of the table ({', '.join(recipe.table.teacher_columns)})"
    elif not trains:
        raise ConfigError(
            "there is no teacher to label with: name a `teacher`, or train on the gold labels alone (distilmatch train)"
        )
    else:
        if train is not None:
            _check_lists(recipe, with_gold(train, says=False))
        given = f"There is no teacher: the student learns from the gold labels alone ({_LOSSES[recipe.task.kind]})"
    logger.warning(
        "%s, and from the given rows alone: new pairs of their texts need a teacher that labels them, so no round of them is "
        "made%s",
        given,
        " and `unlabelled` is not read" if recipe.unlabelled else "",
    )


def with_gold(table: TupleTable, *, says: bool = True) -> TupleTable:
    """The rows of `table` that have a gold label.

    Args:
        says: whether the log tells how many are left out.

    Raises:
        DataError: there is none.
    """
    labelled = np.zeros(len(table), dtype=bool) if table.gold is None else ~np.isnan(table.gold)
    if not labelled.any():
        raise DataError(
            "no row of the train table has a gold label and there is no teacher: name the column of the labels in "
            "`table.label_column`, or a `teacher`"
        )
    if labelled.all():
        return table
    if says:
        logger.warning("%d of %d rows have no gold label and are left out", int((~labelled).sum()), len(table))
    return table.take(labelled)


def _check_lists(recipe: PairRecipe, table: TupleTable) -> None:
    if recipe.task.kind != "ranking":
        return
    assert table.gold is not None and table.queries is not None
    if not compared_lists(torch.from_numpy(table.gold), torch.from_numpy(table.queries)):
        raise DataError(
            "no query of the train table has two rows or more with a relevant one among them, so a ranking has nothing to "
            "learn from: give irrelevant candidates of its queries too, or a `teacher`"
        )
