"""Gold labels, and the mixture of soft and gold that a config asks for.

Shape legend: p tuples; c labels.
"""

from __future__ import annotations

import torch
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

from distilmatch.config import ObjectiveConfig, ObjectiveKind, TaskConfig
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

_DEFAULT_KINDS: dict[str, ObjectiveKind] = {
    "classification": "kl",
    "binary": "bce",
    "regression": "bce",
    "ranking": "margin_mse",
}
_CLASS_KINDS = ("kl", "decoupled_kl", "skewed_kl")


def objective_kind(config: ObjectiveConfig, task: TaskConfig) -> ObjectiveKind:
    """The objective that `config` means for `task`.

    Raises:
        ConfigError: the two do not go together.
    """
    kind = _DEFAULT_KINDS[task.kind] if config.kind == "auto" else config.kind
    if kind in _CLASS_KINDS and task.num_labels == 1:
        raise ConfigError(f"objective {kind} needs two or more labels, {task.kind} has one: use bce or mse")
    if kind in ("bce", "margin_mse", "listwise") and task.num_labels > 1:
        raise ConfigError(f"objective {kind} needs one label, this task has {task.num_labels}: use kl or mse")
    return kind


def gold_loss(student: torch.Tensor, gold: torch.Tensor, task: TaskConfig) -> torch.Tensor:
    """The supervised loss over rows that have a gold label: cross-entropy for classes, else binary cross-entropy.

    Args:
        student: (p, c) logits.
        gold: (p,) class index, value in the task's label range, or graded relevance (in a batch scaled by its
            highest grade); NaN where there is none.

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
        gold = gold / gold.max().clamp_min(1.0)
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
) -> torch.Tensor:
    """`(1 - gold_weight) * soft + gold_weight * gold_loss`, a scalar in fp32.

    Args:
        student, teacher: (p, c) raw logits.
        gold: (p,), NaN where a row has none; needed when `gold_weight` is above 0.
        queries: (p,) numbers of the queries, for margin_mse and listwise; None makes the batch one query.
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
    if config.gold_weight == 0 or gold is None:
        return soft
    return (1 - config.gold_weight) * soft + config.gold_weight * gold_loss(student, gold, task)
