"""What users ask a scorer for, checked before any work.

Shape legend: n texts of the first side; m of the second; p tuples; s sides.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from distilmatch.arguments import real_number, whole_number
from distilmatch.errors import ConfigError, ModelError


def how_many(
    top_k: Any, threshold: Any, reverse_top_k: Any, left: int, right: int
) -> tuple[int | None, float | None, int | None]:
    """The three as numbers; `left` and `right` are how many texts there are.

    Raises:
        ConfigError: not one of `top_k` and `threshold`, or one that is no such number.
    """
    if (top_k is None) == (threshold is None):
        raise ConfigError("say either `top_k` or `threshold`")
    if top_k is None and reverse_top_k is not None:
        raise ConfigError("`reverse_top_k` goes with `top_k`; a threshold keeps a pair once for both")
    counts: list[int | None] = []
    for name, k, most in (("top_k", top_k, right), ("reverse_top_k", reverse_top_k, left)):
        number = None if k is None else whole_number(name, k)
        if number is not None and number > most:
            raise ConfigError(f"`{name}` is {number}, there are {most} texts to choose from")
        counts.append(number)
    return counts[0], None if threshold is None else real_number("threshold", threshold), counts[1]


def row_numbers(rows: Any, sizes: Sequence[int]) -> np.ndarray:
    """(p, s) int64 of the row numbers of tuples; `sizes` are the numbers of texts of the sides.

    Raises:
        ModelError: they are no whole numbers, not one a side, or such that there are none of.
    """
    numbers = np.asarray(rows.cpu() if isinstance(rows, torch.Tensor) else rows)
    if numbers.size and numbers.dtype.kind not in "iu":
        raise ModelError(f"`rows` must be whole numbers, they are {numbers.dtype}")
    if numbers.ndim != 2 or numbers.shape[1] != len(sizes):
        raise ModelError(f"`rows` must be (p, {len(sizes)}), it is {tuple(numbers.shape)}")
    for j, size in enumerate(sizes):
        if len(numbers) and not 0 <= int(numbers[:, j].min()) <= int(numbers[:, j].max()) < size:
            raise ModelError(f"`rows` of side {j}: row numbers out of range, the side has 0 to {size - 1}")
    return np.asarray(numbers, dtype=np.int64)
