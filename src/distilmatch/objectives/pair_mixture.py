"""Gold labels, and the mixture of soft and gold that a config asks for.

Shape legend: p tuples; c labels.
"""

from __future__ import annotations

import logging

import numpy as np
import torch
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

from distilmatch.config.objectives import AutoObjective, BceObjective, KlObjective, ListwiseObjective, ObjectiveConfig
from distilmatch.config.tables import TaskConfig
from distilmatch.objectives import adaptive, comparative, soft_labels  # noqa: F401 - they register their losses
from distilmatch.objectives.batches import PairBatch
from distilmatch.objectives.registry import registered_loss

logger = logging.getLogger(__name__)

_FLAT = 0.01  # standard deviation of probabilities
_USUAL: dict[str, type[ObjectiveConfig]] = {"classification": KlObjective, "ranking": ListwiseObjective}


def objective_for(config: ObjectiveConfig, task: TaskConfig) -> ObjectiveConfig:
    """The objective that `config` means for `task`: itself, or the task's usual one in the place of "auto".

    Raises:
        ConfigError: the two do not go together.
    """
    if isinstance(config, AutoObjective):
        usual = _USUAL.get(task.kind, BceObjective)
        config = usual(temperature=config.temperature, gold_weight=config.gold_weight)
    config.check_task(task)
    registered_loss(config, task)
    return config


def objective_kind(config: ObjectiveConfig, task: TaskConfig) -> str:
    """The kind of `objective_for`."""
    return objective_for(config, task).kind


def check_soft_labels(config: ObjectiveConfig, task: TaskConfig, teacher: np.ndarray) -> None:
    """Warns where the objective would see next to nothing in the teacher's (n, c) logits.

    A reranker trained on margins or lists may give scores of any size; as log-odds nearly all then say the same.
    """
    objective = objective_for(config, task)
    if not isinstance(objective, BceObjective) or len(teacher) < 2:
        return
    probabilities = 1 / (1 + np.exp(-np.clip(teacher[:, 0].astype(np.float64) / objective.temperature, -60, 60)))
    if probabilities.std() < _FLAT and np.ptp(teacher) > 1.0:
        logger.warning(
            "the teacher's scores (%.1f to %.1f) are nearly one probability (%.3f) when they are read as log-odds: "
            "for a teacher that only ranks set objective.kind to listwise or margin_mse, or raise objective.temperature",
            teacher.min(),
            teacher.max(),
            probabilities.mean(),
        )


def gold_loss(student: torch.Tensor, gold: torch.Tensor, task: TaskConfig, highest_grade: float = 1.0) -> torch.Tensor:
    """The supervised loss over rows that have a gold label: cross-entropy for classes, else binary cross-entropy.

    Args:
        student: (p, c) logits.
        gold: (p,) class index, value in the task's label range, or graded relevance; NaN where there is none.
        highest_grade: of the whole table, above 0: a relevance is divided by it, so that a row's target is the same in
            every batch; a grade above it counts as it.

    Returns:
        The mean over labelled rows; 0 (with a gradient of 0) when there is none.
    """
    labelled = ~torch.isnan(gold)
    logits, gold = student.float()[labelled], gold[labelled].float()
    if len(gold) == 0:
        return student.float().sum() * 0.0
    if task.kind == "classification":
        return cross_entropy(logits, gold.long())
    if task.kind == "ranking":
        gold = (gold / highest_grade).clamp(max=1.0)
    elif task.kind == "regression":
        low, high = task.label_range
        gold = (gold - low) / (high - low)
    return binary_cross_entropy_with_logits(logits[:, 0], gold)


def pair_objective_loss(
    batch: PairBatch,
    task: TaskConfig,
    config: ObjectiveConfig,
    *,
    highest_grade: float = 1.0,
    shares: tuple[float | torch.Tensor, float | torch.Tensor] = (1.0, 1.0),
) -> torch.Tensor:
    """`(1 - gold_weight) * soft + gold_weight * gold_loss`, a scalar in fp32.

    Args:
        batch: with `gold` where `gold_weight` is above 0.
        highest_grade: of a ranking table, see `gold_loss`.
        shares: what the soft and the gold mean are multiplied by: the batch's share of the `loss_items` of a step, where
            a step is made of several batches. The sum over its batches is then the loss of the whole step.
    """
    objective = objective_for(config, task)
    soft = shares[0] * registered_loss(objective, task).compute(objective, batch)
    if objective.gold_weight == 0 or batch.gold is None:
        return soft
    labelled = shares[1] * gold_loss(batch.logits, batch.gold, task, highest_grade)
    return (1 - objective.gold_weight) * soft + objective.gold_weight * labelled


def distillation_loss(
    student: torch.Tensor,
    teacher: torch.Tensor,
    task: TaskConfig,
    config: ObjectiveConfig,
    gold: torch.Tensor | None = None,
    queries: torch.Tensor | None = None,
    *,
    highest_grade: float = 1.0,
    shares: tuple[float | torch.Tensor, float | torch.Tensor] = (1.0, 1.0),
) -> torch.Tensor:
    """`pair_objective_loss` of logits alone.

    Args:
        student, teacher: (p, c) raw logits.
        gold: (p,), NaN where a row has none; needed when `gold_weight` is above 0.
        queries: (p,) numbers of the queries, for margin_mse and listwise; None makes the batch one query.
        highest_grade, shares: as of `pair_objective_loss`.
    """
    batch = PairBatch(logits=student, teacher=teacher, gold=gold, queries=queries)
    return pair_objective_loss(batch, task, config, highest_grade=highest_grade, shares=shares)


def loss_items(
    config: ObjectiveConfig,
    task: TaskConfig,
    rows: int,
    gold: torch.Tensor | None = None,
    queries: torch.Tensor | None = None,
) -> tuple[int, int]:
    """Over how many items `distillation_loss` takes its soft and its gold mean.

    The soft ones are rows; for listwise queries of two rows or more; for margin_mse ordered pairs of rows of one query.

    Args:
        rows: p.
        gold, queries: (p,) as of `distillation_loss`.
    """
    counts = torch.tensor([rows]) if queries is None else torch.unique(queries, return_counts=True)[1]
    soft = registered_loss(objective_for(config, task), task).items(counts)
    return soft, 0 if gold is None else int((~torch.isnan(gold)).sum())
