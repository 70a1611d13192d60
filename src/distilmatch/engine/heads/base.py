"""Heads folded for scoring: what depends on one text alone is computed once a text, the rest once a tuple. Exact.

A text's part is a set of named tensors whose first dimension is the text; a tuple pays for what its sides say to each
other. The derivation, with its counts of operations and bytes, is in `docs/explanation/folding.md`.

Shape legend: n, m texts of the two sides; p tuples; s sides; k kept tokens of a side; a attention heads of width e;
q queries a text; d width; f hidden width; c labels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch.nn.functional import linear

from distilmatch.config.pairs import StudentConfig
from distilmatch.types import TokenRepresentations

FoldedTexts = dict[str, torch.Tensor]


@dataclass(frozen=True, kw_only=True)
class HeadCost:
    """What a pair costs a folded head, by its shape alone.

    Attributes:
        operations: two a multiply-add, as `docs/explanation/folding.md` counts them; None for a head that is not limited by
            products: it adds and activates.
        products: whether some of them are matrix products with weights, which bf16 makes faster.
        widest: numbers of the widest layer that a pair goes through, fp32.
        gathers: whether a block of pairs holds the texts' numbers once a pair, not once a text.
    """

    operations: int | None
    products: bool
    widest: int
    gathers: bool = True


class FoldedHead(Protocol):
    """A head and its classifier, taken apart; weights stay the model's own tensors."""

    @staticmethod
    def cost(student: StudentConfig, labels: int) -> HeadCost:
        """What a pair costs."""
        ...

    def fold(self, texts: TokenRepresentations, side: int) -> FoldedTexts:
        """The per-text part of `texts`, (n, k, d), as texts of `side`."""
        ...

    def score(self, sides: Sequence[FoldedTexts], rows: torch.Tensor) -> torch.Tensor:
        """(p, c) fp32 logits of tuples; `rows` is (p, s) int64, row of each tuple's text on each side."""
        ...

    def block(self, left: FoldedTexts, right: FoldedTexts) -> torch.Tensor:
        """(n, m, c) fp32 logits of n texts against m; heads of two sides."""
        ...


def every_pair(head: FoldedHead, left: FoldedTexts, right: FoldedTexts) -> torch.Tensor:
    """(n, m, c) logits of all of `left` with all of `right`, pair by pair."""
    n, m = (len(next(iter(side.values()))) for side in (left, right))
    device = next(iter(left.values())).device
    rows = torch.cartesian_prod(torch.arange(n, device=device), torch.arange(m, device=device))
    return head.score([left, right], rows).unflatten(0, (n, m))


def linear_fp32(features: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """The last layer, in fp32 under autocast too: rounded to bf16, different logits tie."""
    with torch.autocast(features.device.type, enabled=False):
        return linear(features.float(), weight, bias)


def take(texts: FoldedTexts, rows: torch.Tensor) -> FoldedTexts:
    """The folded texts at `rows`, (p,) int64."""
    return {name: tensor.index_select(0, rows) for name, tensor in texts.items()}
