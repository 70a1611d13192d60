"""Tuples by row number, of sides in memory, in files or neither.

Shape legend: p tuples; s sides; c labels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from distilmatch.engine.kernels.base import Kernel
from distilmatch.engine.sides import LoadedSide


def score_block(kernel: Kernel, block: np.ndarray, sides: Sequence[LoadedSide], whole: Sequence[bool]) -> np.ndarray:
    """(p, c) fp32 logits of (p, s) rows, which are renumbered: a text of several tuples is read and folded once.

    Args:
        whole: which sides are folded in memory.
    """
    texts: list[Any] = []
    last = len(sides) - 1
    for j, side in enumerate(sides):
        if whole[j]:
            texts.append(side.whole)
        elif side.folder is None or j < last:
            distinct, block[:, j] = np.unique(block[:, j], return_inverse=True)
            texts.append(side.take(distinct))
    if len(texts) == len(sides):
        return kernel.pairs(texts, block)
    # Chunks that are kept in files are looked at where they lie, one after another.
    side = sides[last]
    numbers, block[:, last] = np.divmod(block[:, last], side.chunk_texts)
    order = np.argsort(numbers, kind="stable")
    logits: np.ndarray | None = None
    for group in np.split(order, np.flatnonzero(np.diff(numbers[order])) + 1):
        found = kernel.pairs([*texts, side.opened(int(numbers[group[0]]))], block[group])
        logits = np.empty((len(block), found.shape[1]), dtype=np.float32) if logits is None else logits
        logits[group] = found
    assert logits is not None, "a block has tuples"
    return logits
