"""What a student without a teacher minimises: gold labels alone.

Shape legend: p tuples; c labels.
"""

from __future__ import annotations

import torch

from distilmatch.config.tables import TaskConfig
from distilmatch.objectives.pair_mixture import gold_loss
from distilmatch.objectives.soft_labels import grouped_log_softmax, grouped_sum


def listwise_gold(student: torch.Tensor, gold: torch.Tensor, queries: torch.Tensor) -> torch.Tensor:
    """The softmax cross-entropy of each query's list (Bruch et al. 2019, eq. 4): the target of a tuple is its share of the
    list's relevance. The mean over the lists that `compared_lists` counts.

    Args:
        student: (p, 1) logits.
        gold: (p,) graded relevances, 0 or more.
        queries: (p,) tuples with the same number are one list.

    Returns:
        A scalar in fp32; 0 (with a gradient of 0) where no list has something to tell apart.
    """
    _, groups = torch.unique(queries, return_inverse=True)
    relevance = gold.float()
    total = grouped_sum(relevance, groups)
    compared = (total > 0) & (torch.bincount(groups) >= 2)
    target = torch.where(compared[groups], relevance / total.clamp_min(1e-12)[groups], 0.0)
    cross_entropy = -target * grouped_log_softmax(student.float()[:, 0], groups)
    return cross_entropy.sum() / compared.sum().clamp_min(1)


def compared_lists(gold: torch.Tensor, queries: torch.Tensor) -> int:
    """How many queries have two tuples or more, one of them relevant; arguments as of `listwise_gold`."""
    _, groups = torch.unique(queries, return_inverse=True)
    relevant = grouped_sum(gold.float(), groups) > 0
    return int((relevant & (torch.bincount(groups) >= 2)).sum())


def gold_alone_loss(
    student: torch.Tensor,
    gold: torch.Tensor,
    task: TaskConfig,
    queries: torch.Tensor,
    share: float | torch.Tensor = 1.0,
) -> torch.Tensor:
    """The loss of a batch without teacher labels: `listwise_gold` for a ranking, else `gold_loss`; a scalar in fp32.

    Args:
        student: (p, c) logits.
        gold: (p,), none of them NaN.
        queries: (p,) numbers of the queries, which a ranking is compared within.
        share: what the mean is multiplied by: the batch's share of the `gold_items` of a step.
    """
    loss = listwise_gold(student, gold, queries) if task.kind == "ranking" else gold_loss(student, gold, task)
    return share * loss


def gold_items(task: TaskConfig, gold: torch.Tensor, queries: torch.Tensor) -> int:
    """Over how many items `gold_alone_loss` takes its mean: lists of a ranking, else rows."""
    return compared_lists(gold, queries) if task.kind == "ranking" else len(gold)
