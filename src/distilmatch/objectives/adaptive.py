"""Adaptive distillation: what the teacher is sure of and what it is not are learnt apart (ATKD, Zhong et al. 2024).

A row of c classes is a list of c scores, a query's tuples are one too: both are the same loss.

Shape legend: n scores of all lists; l lists; p tuples; c labels.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from distilmatch.config.objectives import AtkdObjective
from distilmatch.objectives.batches import PairBatch
from distilmatch.objectives.registry import lists, pair_loss
from distilmatch.objectives.soft_labels import grouped_log_softmax, grouped_max, grouped_sum


@dataclass(frozen=True, kw_only=True)
class DecoupledLists:
    """A divergence of lists in its two parts (Zhao et al. 2022, eq. 7), and how unsure the teacher is.

    Attributes:
        target: (l,) KL of the teacher's best score against all others together.
        others: (l,) KL among the others; 0 of a list of two.
        uncertainty: (l,) one less the teacher's probability of its best.
    """

    target: torch.Tensor
    others: torch.Tensor
    uncertainty: torch.Tensor


def decoupled_lists(student: torch.Tensor, teacher: torch.Tensor, groups: torch.Tensor) -> DecoupledLists:
    """The parts of KL(softmax of the teacher || softmax of the student) over each list.

    Args:
        student, teacher: (n,) scores.
        groups: (n,) the list of each, numbered from 0; each list has two scores or more.
    """
    log_p, log_q = (grouped_log_softmax(scores.float(), groups) for scores in (teacher, student))
    best = _first_of(log_p == grouped_max(log_p, groups)[groups], groups)
    is_best = torch.zeros_like(log_p, dtype=torch.bool)
    is_best[best] = True
    rest = groups[~is_best]
    # What all others have together, by the logarithm of a sum: 1 - p rounds to 0 where a teacher is sure.
    rest_p, rest_q = (_grouped_logsumexp(log[~is_best], rest) for log in (log_p, log_q))
    among_p, among_q = log_p[~is_best] - rest_p[rest], log_q[~is_best] - rest_q[rest]
    target = log_p[best].exp() * (log_p[best] - log_q[best]) + rest_p.exp() * (rest_p - rest_q)
    others = grouped_sum(among_p.exp() * (among_p - among_q), rest)
    return DecoupledLists(target=target, others=others, uncertainty=rest_p.exp())


def atkd(
    student: torch.Tensor,
    teacher: torch.Tensor,
    queries: torch.Tensor,
    temperature: float = 1.0,
    easy_weight: float = 0.2,
) -> torch.Tensor:
    """T^2 times `easy_weight` times the mean over easy lists of their KL among the others, plus the rest of the weight times
    the mean over hard lists of both parts of theirs (ATKD, section 4). A list is easy where the teacher's uncertainty is below
    the median of all that are given.

    Args:
        student, teacher: (p, 1) logits.
        queries: (p,) tuples with the same number are one list; a list of one is left out.

    Returns:
        A scalar in fp32; 0 (with a gradient of 0) without a list of two.
    """
    _, groups, counts = torch.unique(queries, return_inverse=True, return_counts=True)
    compared = counts[groups] >= 2
    if not compared.any():
        return student.float().sum() * 0.0
    groups = torch.unique(groups[compared], return_inverse=True)[1]
    own, target = (logits.float()[compared, 0] / temperature for logits in (student, teacher))
    parts = decoupled_lists(own, target, groups)
    easy = parts.uncertainty < torch.quantile(parts.uncertainty, 0.5)
    hard = (parts.target + parts.others)[~easy].mean()
    loss = (1 - easy_weight) * hard
    if easy.any():
        loss = loss + easy_weight * parts.others[easy].mean()
    return temperature**2 * loss


@pair_loss(AtkdObjective, labels="ranking", items=lists)
def _atkd_of_lists(objective: AtkdObjective, batch: PairBatch) -> torch.Tensor:
    return atkd(batch.logits, batch.teacher, batch.lists, objective.temperature, objective.easy_weight)


@pair_loss(AtkdObjective, labels="several")
def _atkd_of_classes(objective: AtkdObjective, batch: PairBatch) -> torch.Tensor:
    rows, labels = batch.logits.shape
    lists_of_classes = torch.arange(rows, device=batch.logits.device).repeat_interleave(labels)
    student, teacher = (logits.reshape(-1, 1) for logits in (batch.logits, batch.teacher))
    return atkd(student, teacher, lists_of_classes, objective.temperature, objective.easy_weight)


def _first_of(chosen: torch.Tensor, groups: torch.Tensor) -> torch.Tensor:
    """(l,) the place of the first chosen score of each list; one is chosen at least."""
    places = torch.arange(len(groups), device=groups.device)
    none = torch.full((int(groups.max()) + 1,), len(groups), device=groups.device)
    return none.scatter_reduce(0, groups[chosen], places[chosen], "amin")


def _grouped_logsumexp(values: torch.Tensor, groups: torch.Tensor) -> torch.Tensor:
    highest = grouped_max(values, groups)
    return highest + grouped_sum((values - highest[groups]).exp(), groups).log()
