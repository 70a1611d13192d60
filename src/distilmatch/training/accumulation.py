"""What each batch counts in a step that is made of several: of accumulated gradients, of several processes.

A mean of means is not the mean: batches of different numbers of items, averaged as equals, are another step than all of
them in one batch.

Shape legend: b batches of a step in this process; m means that a loss is made of.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from accelerate import Accelerator


def step_shares(items: Sequence[Sequence[int]], accelerator: Accelerator) -> tuple[torch.Tensor, torch.Tensor]:
    """The share of each batch in the step's means.

    Args:
        items: for each batch over how many items each of its means is taken.
        accelerator: of the trainer; processes average their gradients, so that shares are times their number.

    Returns:
        (b, m) float32 shares, which sum to one for each mean over the batches of all processes, but for that factor; and
        (m,) the step's items in all processes. A mean that has no items has shares of 0.
    """
    counts = torch.tensor([list(batch) for batch in items], dtype=torch.float64)
    totals = counts.sum(0)
    processes = int(accelerator.num_processes)
    if processes > 1:
        everywhere = accelerator.reduce(totals.to(accelerator.device, torch.float32), reduction="sum")
        totals = everywhere.cpu().double()
    shares = counts * processes / totals.clamp_min(1.0)
    return shares.float(), totals.float()
