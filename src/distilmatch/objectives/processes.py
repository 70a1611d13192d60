"""Rows of all processes in one tensor, with gradients.

Shape legend: n rows of this process; g rows of all processes.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist


class _GatherRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: torch.Tensor, counts: list[int]) -> torch.Tensor:
        ctx.first, ctx.count = sum(counts[: dist.get_rank()]), len(tensor)
        padded = tensor.new_zeros(max(counts), *tensor.shape[1:])
        padded[: len(tensor)] = tensor
        everywhere = [torch.empty_like(padded) for _ in counts]
        dist.all_gather(everywhere, padded)
        return torch.cat([rows[:count] for rows, count in zip(everywhere, counts, strict=True)])

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None]:
        # Every process's loss depends on every process's rows.
        total = gradients[0].contiguous().clone()
        dist.all_reduce(total)
        return total[ctx.first : ctx.first + ctx.count], None


def gather_rows(tensor: torch.Tensor) -> torch.Tensor:
    """The rows of all processes in the order of their ranks, (n, ...) to (g, ...), with gradients to each; alone, the
    tensor itself. The processes' n may differ.
    """
    return gathered(tensor, True)[0]


def gathered(tensor: torch.Tensor, gather: bool) -> tuple[torch.Tensor, int, list[int]]:
    """The rows, where this process's own begin, and how many each process has."""
    if not gather or not dist.is_available() or not dist.is_initialized() or dist.get_world_size() == 1:
        return tensor, 0, [len(tensor)]
    length = torch.tensor([len(tensor)], device=tensor.device)
    sizes = [torch.empty_like(length) for _ in range(dist.get_world_size())]
    dist.all_gather(sizes, length)
    counts = [int(size) for size in sizes]
    return _GatherRows.apply(tensor, counts), sum(counts[: dist.get_rank()]), counts
