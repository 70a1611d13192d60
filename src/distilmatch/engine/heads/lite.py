"""`LiteHead`, folded.

Shape legend: n texts of a side; p tuples; k kept tokens of a side; a attention heads of width e; d width;
f hidden width; c labels.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from distilmatch.config.pairs import StudentConfig
from distilmatch.engine.heads.base import FoldedTexts, HeadCost, every_pair, linear_fp32, take
from distilmatch.models.heads import (
    LiteHead,
)
from distilmatch.types import TokenRepresentations


class FoldedLite:
    """`LiteHead`, folded: scaled tokens and what a first token adds to the hidden layer are a text's own."""

    def __init__(self, head: LiteHead, classifier: nn.Linear) -> None:
        self.head, self.classifier = head, classifier

    @staticmethod
    def cost(student: StudentConfig, labels: int) -> HeadCost:
        """Dot products of the tokens, and a hidden layer over them."""
        width = student.vector_width
        hidden = student.head_intermediate or width
        left, right = student.kept_tokens
        adds = left * right * width + student.attention_heads * left * right * hidden + hidden * labels
        return HeadCost(operations=2 * adds, products=True, widest=hidden)

    @torch.no_grad()
    def fold(self, texts: TokenRepresentations, side: int) -> FoldedTexts:
        """`tokens` (n, a, k, e) and `summand` (n, f)."""
        return {"tokens": self.head.split(texts), "summand": self.head.side_inputs[side](texts.tokens[:, 0])}

    @torch.no_grad()
    def score(self, sides: Sequence[FoldedTexts], rows: torch.Tensor) -> torch.Tensor:
        """As `FoldedHead.score`."""
        left, right = (take(side, rows[:, j]) for j, side in enumerate(sides))
        similarities = self.head.similarity_norm((left["tokens"] @ right["tokens"].transpose(-1, -2)).flatten(1))
        hidden = self.head.similarity_input(similarities) + left["summand"] + right["summand"]
        return linear_fp32(self.head.hidden(hidden), self.classifier.weight, self.classifier.bias)

    def block(self, left: FoldedTexts, right: FoldedTexts) -> torch.Tensor:
        """As `FoldedHead.block`."""
        return every_pair(self, left, right)
