"""Comparative distillation: differences between pairs instead of what each is worth.

Shape legend: p tuples; c labels; b blocks.
"""

from __future__ import annotations

import torch

from distilmatch.config.objectives import ComparativeObjective
from distilmatch.objectives.batches import PairBatch
from distilmatch.objectives.registry import pair_loss


def comparative_mse(
    student: torch.Tensor, teacher: torch.Tensor, blocks: torch.Tensor | None = None, anchor: float = 0.0
) -> torch.Tensor:
    """The mean over a block's pairs (i, j) of tuples of `((s_i - s_j) - (t_i - t_j))^2` (Comparative KD, Wilf et al. 2024, with
    groups of one), blocks weighted by their tuples, plus `anchor` times the mean of `(s_i - t_i)^2`; means over labels too.

    With `e = s - t` the mean over all i and j, i = j included, of `(e_i - e_j)^2` is twice the variance of e: all pairs of
    pairs cost as much as the pairs.

    Args:
        student, teacher: (p, c) logits.
        blocks: (p,) tuples with the same number are compared; a block of one adds its anchor alone. None is one block.
        anchor: 0 or more.

    Returns:
        A scalar in fp32, a mean over tuples.
    """
    error = student.float() - teacher.float()
    if blocks is None:
        groups = torch.zeros(len(error), dtype=torch.int64, device=error.device)
    else:
        groups = torch.unique(blocks, return_inverse=True)[1]
    sums = error.new_zeros(int(groups.max()) + 1, error.shape[1]).index_add(0, groups, error)
    means = sums / torch.bincount(groups)[:, None]
    return 2 * (error - means[groups]).square().mean() + anchor * error.square().mean()


@pair_loss(ComparativeObjective)
def _comparative_mse(objective: ComparativeObjective, batch: PairBatch) -> torch.Tensor:
    return comparative_mse(batch.logits, batch.teacher, batch.blocks, objective.anchor)
