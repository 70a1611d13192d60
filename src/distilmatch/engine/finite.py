"""Numbers that are not finite, found where a text is folded or a block is scored, not pair by pair.

Shape legend: n texts; m texts of the other side; p tuples; c labels.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from distilmatch.errors import ModelError

# Of a folded text's numbers and of the head's weights in the native kernel: with these no product, sum or normalisation of a
# head of one layer leaves the range of fp32.
LARGEST_FOLDED = 1e18
LARGEST_WEIGHT = 1e6
_DAMAGED = "the weights of the head are damaged or too large: load the student again, or train it with a lower rate"


class NotFinite(ModelError):
    """A kernel met a number that it cannot compute with, or computed none.

    Attributes:
        rows: of the text, or of the texts of a pair, among those that the kernel was given.
    """

    def __init__(self, *rows: int) -> None:
        self.rows = rows
        named = " and ".join(map(str, rows))
        super().__init__(f"row {named}: not a finite number; {_DAMAGED}")

    def of(self, shown: str) -> ModelError:
        """The same of `shown`, such as "side 0: row 7", as users number it."""
        return ModelError(f"{shown}: scores are no finite numbers; {_DAMAGED}")


def check_folded(folded: Mapping[str, torch.Tensor]) -> None:
    """Refuses folded texts, n of each tensor, that scores cannot be computed from.

    Raises:
        NotFinite: the first such text.
    """
    for tensor in folded.values():
        if not tensor.is_floating_point() or not tensor.numel():
            continue
        # The largest magnitude is NaN where any number is.
        good = tensor.abs().flatten(1).amax(1) < LARGEST_FOLDED
        if not bool(good.all()):
            raise NotFinite(int((~good).nonzero()[0, 0]))


def check_block(logits: torch.Tensor, first_row: int, first_column: int) -> None:
    """Refuses (n, m, c) logits of a block with one that is no finite number.

    Raises:
        NotFinite: the first such pair.
    """
    # A sum is one pass over the block; it is finite only where all logits are.
    if bool(logits.sum().isfinite()):
        return
    bad = ~logits.isfinite().all(-1)
    if bool(bad.any()):
        row, column = (int(number) for number in bad.nonzero()[0])
        raise NotFinite(first_row + row, first_column + column)


def check_logits(logits: np.ndarray, rows: np.ndarray, first: int) -> None:
    """Refuses (p, c) logits of tuples with one that is no finite number.

    Args:
        rows: (p, s) what messages call the tuples' texts.
        first: number of the first tuple.

    Raises:
        ModelError: the first such tuple.
    """
    good = np.isfinite(logits).all(axis=1)
    if good.all():
        return
    bad = int(np.argmin(good))
    texts = ", ".join(map(str, rows[bad].tolist()))
    raise ModelError(f"the score of tuple {first + bad} (rows {texts}) is not a finite number; {_DAMAGED}")
