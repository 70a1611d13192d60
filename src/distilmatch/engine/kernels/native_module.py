"""The compiled module, where it was built, and what PyTorch's kernel takes from it.

Shape legend: n, m texts of the two sides; k best.
"""

from __future__ import annotations

import importlib
from functools import cache
from typing import Any

import numpy as np
import torch


@cache
def native_module() -> Any:
    """The compiled module, or None where it was not built."""
    try:
        return importlib.import_module("distilmatch.engine._native")
    except ImportError:
        return None


def runs_native() -> bool:
    """Whether the module was built and this CPU runs it."""
    return native_module() is not None and bool(native_module().supported())


class NativeBestRows:
    """`BestRows` on the CPU, compiled: a block of scores is read once and compared with the worst that is kept."""

    def __init__(self, rows: int, k: int, first: int = 0) -> None:
        self.top = native_module().TopK(rows, k, first)

    def add(self, first_row: int, scores: torch.Tensor, first_column: int) -> None:
        """As `BestRows.add`."""
        block = np.ascontiguousarray(scores.detach().numpy())
        self.top.add(first_row, block, first_column, torch.get_num_threads())

    def best(self) -> tuple[np.ndarray, np.ndarray]:
        """As `BestRows.best`."""
        return self.top.best()  # type: ignore[no-any-return]

    def restore(self, scores: np.ndarray, rows: np.ndarray) -> None:
        """As `BestRows.restore`."""
        self.top.restore(scores, rows)
