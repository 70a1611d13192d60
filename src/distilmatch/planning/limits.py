"""What the machine can do, and what a pair asks of it: the two sides of "share of the limit".

Shape legend: n texts; p pairs.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch

from distilmatch.engine.kernels.native_module import native_module, runs_native
from distilmatch.models import DiPair


def rate(work: Callable[[], object], amount: float, *, rounds: int = 5, seconds: float = 1.0) -> float:
    """Median of `amount` a second over at least `rounds` runs of `work`, for about `seconds`, after one not counted."""
    work()
    _finish()
    times: list[float] = []
    while len(times) < rounds or sum(times) < seconds:
        started = time.perf_counter()
        work()
        _finish()
        times.append(time.perf_counter() - started)
    return amount / statistics.median(times)


def _finish() -> None:
    # A GPU's work goes on after the call that asked for it.
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()


def multiply_rate(
    dtype: torch.dtype, *, size: int | None = None, seconds: float = 1.0, device: torch.device | str = "cpu"
) -> float:
    """Operations a second of a large matrix product on the device, on a CPU with all of PyTorch's threads."""
    size = size or (2048 if torch.device(device).type == "cpu" else 8192)
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    return rate(lambda: a @ b, 2 * size**3, seconds=seconds)


def read_rate(*, megabytes: int = 256, seconds: float = 1.0, device: torch.device | str = "cpu") -> float:
    """Bytes a second read from the device's memory in order, on a CPU with all of PyTorch's threads."""
    numbers = torch.ones(megabytes * 2**18, device=device)
    return rate(lambda: numbers.sum(), numbers.nbytes, seconds=seconds)


def activation_rate(model: DiPair, *, threads: int | None = None, seconds: float = 1.0) -> float | None:
    """Hidden numbers a second of a feed-forward head of one layer, with nothing read or kept: of ReLU a maximum and a
    multiply-add each, of GELU an addition, the activation and a multiply-add, in vectors on registers; None where the native
    kernels do not run.
    """
    if not runs_native():
        return None
    use_gelu = model.student.head_activation == "gelu"
    return float(native_module().hidden_numbers_per_s(use_gelu, threads or torch.get_num_threads(), seconds))
