"""Gold labels, and the mixture of soft and gold that a config asks for.

Shape legend: p tuples; c labels.
"""

from __future__ import annotations

import logging

import numpy as np
import torch
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

from distilmatch.config.pairs import ObjectiveConfig, ObjectiveKind
from distilmatch.config.tables import TaskConfig
from distilmatch.errors import ConfigError
from distilmatch.objectives.soft_labels import (
    decoupled_kl,
    listwise_kl,
    logit_mse,
    margin_mse,
    skewed_kl,
    soft_binary_cross_entropy,
    soft_label_kl,
)

logger = logging.getLogger(__name__)

_FLAT = 0.01  # standard deviation of probabilities
_CLASS_KINDS = ("kl", "decoupled_kl", "skewed_kl")


def objective_kind(config: ObjectiveConfig, task: TaskConfig) -> ObjectiveKind:
    """The objective that `config` means for `task`.

    Raises:
        ConfigError: the two do not go together.
    """
    defaults: dict[str, ObjectiveKind] = {"classification": "kl", "ranking": "listwise"}
    kind = defaults.get(task.kind, "bce") if config.kind == "auto" else config.kind
    if kind in _CLASS_KINDS and task.num_labels == 1:
        raise ConfigError(f"objective {kind} needs two or more labels, {task.kind} has one: use bce or mse")
    if kind in ("bce", "margin_mse", "listwise") and task.num_labels > 1:
        raise ConfigError(f"objective {kind} needs one label, this task has {task.num_labels}: use kl or mse")
    return kind


def check_soft_labels(config: ObjectiveConfig, task: TaskConfig, teacher: np.ndarray) -> None:
    """Warns where the objective would see next to nothing in the teacher's (n, c) logits.

    A reranker trained on margins or lists may give scores of any size; as log-odds nearly all then say the same.
    """
    if objective_kind(config, task) != "bce" or len(teacher) < 2:
        return
    probabilities = 1 / (1 + np.exp(-np.clip(teacher[:, 0].astype(np.float64) / config.temperature, -60, 60)))
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
    """`(1 - gold_weight) * soft + gold_weight * gold_loss`, a scalar in fp32.

    Args:
        student, teacher: (p, c) raw logits.
        gold: (p,), NaN where a row has none; needed when `gold_weight` is above 0.
        queries: (p,) numbers of the queries, for margin_mse and listwise; None makes the batch one query.
        highest_grade: of a ranking table, see `gold_loss`.
        shares: what the soft and the gold mean are multiplied by: the batch's share of the `loss_items` of a step, where
            a step is made of several batches. The sum over its batches is then the loss of the whole step.
    """
    kind = objective_kind(config, task)
    if queries is None:
        queries = torch.zeros(len(student), dtype=torch.int64, device=student.device)
    if kind == "kl":
        soft = soft_label_kl(student, teacher, config.temperature)
    elif kind == "decoupled_kl":
        soft = decoupled_kl(student, teacher, config.temperature, config.non_target_weight)
    elif kind == "skewed_kl":
        soft = skewed_kl(student, teacher, config.temperature, config.skew)
    elif kind == "bce":
        soft = soft_binary_cross_entropy(student, teacher, config.temperature)
    elif kind == "mse":
        soft = logit_mse(student, teacher)
    elif kind == "margin_mse":
        soft = margin_mse(student, teacher, queries)
    else:
        soft = listwise_kl(student, teacher, queries, config.temperature)
    soft = shares[0] * soft
    if config.gold_weight == 0 or gold is None:
        return soft
    labelled = shares[1] * gold_loss(student, gold, task, highest_grade)
    return (1 - config.gold_weight) * soft + config.gold_weight * labelled


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
    kind = objective_kind(config, task)
    soft = rows
    if kind in ("margin_mse", "listwise"):
        counts = torch.tensor([rows]) if queries is None else torch.unique(queries, return_counts=True)[1]
        soft = int((counts >= 2).sum() if kind == "listwise" else (counts * (counts - 1)).sum())
    return soft, 0 if gold is None else int((~torch.isnan(gold)).sum())
