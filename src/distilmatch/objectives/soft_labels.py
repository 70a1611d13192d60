"""Objectives on a teacher's soft labels: pure functions of tensors, mean over rows.

Both sides are raw logits; everything is computed in fp32, because bf16 saturates and ties. Below each function stands the entry
that gives it to a recipe's `objective`.

Shape legend: p tuples; c labels.
"""

from __future__ import annotations

import math

import torch
from torch.nn.functional import binary_cross_entropy_with_logits, kl_div, log_softmax, mse_loss

from distilmatch.config.objectives import (
    BceObjective,
    DecoupledKlObjective,
    KlObjective,
    ListwiseObjective,
    MarginMseObjective,
    MseObjective,
    SkewedKlObjective,
)
from distilmatch.objectives.batches import PairBatch
from distilmatch.objectives.registry import lists, ordered_pairs, pair_loss


def soft_label_kl(student: torch.Tensor, teacher: torch.Tensor, temperature: float = 1.0) -> torch.Tensor:
    """T^2 KL(softmax(teacher / T) || softmax(student / T)), the mean over rows (Hinton et al. 2015, section 2).

    Args:
        student: (p, c) logits, c >= 2.
        teacher: (p, c) logits.
        temperature: T > 0; T^2 keeps the size of the gradient as T changes.
    """
    target = log_softmax(teacher.float() / temperature, dim=-1)
    log_student = log_softmax(student.float() / temperature, dim=-1)
    return temperature**2 * kl_div(log_student, target, reduction="batchmean", log_target=True)


@pair_loss(KlObjective, labels="several")
def _soft_label_kl(objective: KlObjective, batch: PairBatch) -> torch.Tensor:
    return soft_label_kl(batch.logits, batch.teacher, objective.temperature)


def decoupled_kl(
    student: torch.Tensor, teacher: torch.Tensor, temperature: float = 1.0, non_target_weight: float = 1.0
) -> torch.Tensor:
    """Decoupled distillation (Zhao et al. 2022, eq. 7): T^2 (KL of the target class against the rest, plus
    `non_target_weight` times the KL among the other classes), the mean over rows.

    The target is the teacher's most probable class, for most rows have no gold label.

    Args:
        student, teacher: (p, c) logits, c >= 3 for the second part to be more than 0.
    """
    target = log_softmax(teacher.float() / temperature, dim=-1)
    log_student = log_softmax(student.float() / temperature, dim=-1)
    is_target = torch.zeros_like(target, dtype=torch.bool).scatter(1, target.argmax(-1, keepdim=True), True)
    both = [
        torch.stack([log_p[is_target], log_p.masked_fill(is_target, -torch.inf).logsumexp(-1)], dim=-1)
        for log_p in (target, log_student)
    ]
    among_others = [
        log_softmax(logits[~is_target].view(len(logits), -1), dim=-1)
        for logits in (teacher.float() / temperature, student.float() / temperature)
    ]
    divergence = kl_div(both[1], both[0], reduction="batchmean", log_target=True)
    others = kl_div(among_others[1], among_others[0], reduction="batchmean", log_target=True)
    return temperature**2 * (divergence + non_target_weight * others)


@pair_loss(DecoupledKlObjective, labels="several")
def _decoupled_kl(objective: DecoupledKlObjective, batch: PairBatch) -> torch.Tensor:
    return decoupled_kl(batch.logits, batch.teacher, objective.temperature, objective.non_target_weight)


def skewed_kl(
    student: torch.Tensor,
    teacher: torch.Tensor,
    temperature: float = 1.0,
    skew: float = 0.1,
    *,
    reverse: bool = False,
) -> torch.Tensor:
    """T^2 KL(p || skew p + (1 - skew) q), or reversed T^2 KL(q || (1 - skew) p + skew q), teacher p and student q (DistiLLM,
    Ko et al. 2024, section 3.1), the mean over rows.

    Args:
        student, teacher: (p, c) logits; one alone is the log-odds of two classes.
        skew: in [0, 1); 0 is the plain divergence.
    """
    rows = torch.arange(len(student), device=student.device)
    if student.shape[1] == 1:
        student, teacher = (torch.cat([torch.zeros_like(logits), logits], 1) for logits in (student, teacher))
    groups = rows.repeat_interleave(student.shape[1])
    return listwise_skewed_kl(
        student.reshape(-1, 1), teacher.reshape(-1, 1), groups, temperature, skew, reverse=reverse
    )


@pair_loss(SkewedKlObjective)
def _skewed_kl(objective: SkewedKlObjective, batch: PairBatch) -> torch.Tensor:
    return skewed_kl(batch.logits, batch.teacher, objective.temperature, objective.skew, reverse=objective.reverse)


def listwise_skewed_kl(
    student: torch.Tensor,
    teacher: torch.Tensor,
    queries: torch.Tensor,
    temperature: float = 1.0,
    skew: float = 0.1,
    *,
    reverse: bool = False,
) -> torch.Tensor:
    """`skewed_kl` of the softmaxes over each query's tuples, the mean over queries with two or more.

    The mixture is of probabilities, its logarithm is taken of their sum, in fp32.

    Args:
        student, teacher: (p, 1) logits.
        queries: (p,) as in `margin_mse`.
    """
    _, groups = torch.unique(queries, return_inverse=True)
    log_p = grouped_log_softmax(teacher.float()[:, 0] / temperature, groups)
    log_q = grouped_log_softmax(student.float()[:, 0] / temperature, groups)
    own, other = (log_q, log_p) if reverse else (log_p, log_q)
    mixed = torch.logaddexp(own + math.log(skew), other + math.log1p(-skew)) if skew > 0 else other
    divergence = (own.exp() * (own - mixed)).sum()
    return temperature**2 * divergence / (torch.bincount(groups) >= 2).sum().clamp_min(1)


@pair_loss(SkewedKlObjective, labels="ranking", items=lists)
def _listwise_skewed_kl(objective: SkewedKlObjective, batch: PairBatch) -> torch.Tensor:
    return listwise_skewed_kl(
        batch.logits, batch.teacher, batch.lists, objective.temperature, objective.skew, reverse=objective.reverse
    )


def soft_binary_cross_entropy(
    student: torch.Tensor, teacher: torch.Tensor, temperature: float = 1.0, match_weight: float = 1.0
) -> torch.Tensor:
    """T^2 times the cross-entropy of sigmoid(student / T) against sigmoid(teacher / T), each row times
    `1 + (match_weight - 1) sigmoid(teacher)`, the mean over rows.

    Args:
        student, teacher: (p, 1) logits.
    """
    target = torch.sigmoid(teacher.float() / temperature)
    weight = 1 + (match_weight - 1) * torch.sigmoid(teacher.float())
    return temperature**2 * binary_cross_entropy_with_logits(student.float() / temperature, target, weight=weight)


@pair_loss(BceObjective, labels="one")
def _soft_binary_cross_entropy(objective: BceObjective, batch: PairBatch) -> torch.Tensor:
    return soft_binary_cross_entropy(batch.logits, batch.teacher, objective.temperature, objective.match_weight)


def logit_mse(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """Mean squared difference of the logits, (p, c) each (Ba and Caruana 2014, section 2.2)."""
    return mse_loss(student.float(), teacher.float())


@pair_loss(MseObjective)
def _logit_mse(objective: MseObjective, batch: PairBatch) -> torch.Tensor:
    return logit_mse(batch.logits, batch.teacher)


def margin_mse(student: torch.Tensor, teacher: torch.Tensor, queries: torch.Tensor) -> torch.Tensor:
    """Mean squared difference of score margins, over all pairs of tuples of one query (Hofstaetter et al. 2020).

    Args:
        student, teacher: (p, 1) logits.
        queries: (p,) tuples with the same number belong to one query; a query of one tuple adds nothing.

    Returns:
        A scalar; 0 (with a gradient of 0) when no query has two tuples.
    """
    error = student.float()[:, 0] - teacher.float()[:, 0]
    _, groups = torch.unique(queries, return_inverse=True)
    # Over a query's n tuples the mean of (e_i - e_j)^2 over i != j is 2 n / (n - 1) times the variance of e.
    count, squares = grouped_sum(torch.ones_like(error), groups), grouped_sum(error**2, groups)
    total = grouped_sum(error, groups)
    margins = 2 * (count * squares - total**2)
    return margins.sum() / (count * (count - 1)).sum().clamp_min(1)


@pair_loss(MarginMseObjective, labels="one", items=ordered_pairs)
def _margin_mse(objective: MarginMseObjective, batch: PairBatch) -> torch.Tensor:
    return margin_mse(batch.logits, batch.teacher, batch.lists)


def listwise_kl(
    student: torch.Tensor, teacher: torch.Tensor, queries: torch.Tensor, temperature: float = 1.0
) -> torch.Tensor:
    """T^2 KL between the teacher's and the student's softmax over each query's tuples, the mean over queries with
    two or more (ListNet, Cao et al. 2007, with the teacher's scores as the target).

    Args:
        student, teacher: (p, 1) logits.
        queries: (p,) as in `margin_mse`.
    """
    _, groups = torch.unique(queries, return_inverse=True)
    target = grouped_log_softmax(teacher.float()[:, 0] / temperature, groups)
    log_student = grouped_log_softmax(student.float()[:, 0] / temperature, groups)
    divergence = grouped_sum(target.exp() * (target - log_student), groups)
    compared = (torch.bincount(groups) >= 2).sum().clamp_min(1)
    return temperature**2 * divergence.sum() / compared


@pair_loss(ListwiseObjective, labels="one", items=lists)
def _listwise_kl(objective: ListwiseObjective, batch: PairBatch) -> torch.Tensor:
    return listwise_kl(batch.logits, batch.teacher, batch.lists, objective.temperature)


def grouped_sum(values: torch.Tensor, groups: torch.Tensor) -> torch.Tensor:
    """The sum of (p,) values in each of the groups, numbered from 0, that (p,) `groups` names."""
    return values.new_zeros(int(groups.max()) + 1).index_add(0, groups, values)


def grouped_max(values: torch.Tensor, groups: torch.Tensor) -> torch.Tensor:
    """The largest of (p,) values in each group, without a gradient; arguments as of `grouped_sum`."""
    lowest = values.new_full((int(groups.max()) + 1,), -torch.inf)
    return lowest.scatter_reduce(0, groups, values.detach(), "amax")


def grouped_log_softmax(values: torch.Tensor, groups: torch.Tensor) -> torch.Tensor:
    """(p,) log-softmax of (p,) values within each group; arguments as of `grouped_sum`."""
    shifted = values - grouped_max(values, groups)[groups]
    return shifted - grouped_sum(shifted.exp(), groups).log()[groups]
