"""`FeedForwardHead`, folded.

Shape legend: n, m texts of the two sides; p tuples; k kept tokens of a side; d width; f hidden width; c labels.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from distilmatch.config.pairs import StudentConfig
from distilmatch.engine.heads.base import FoldedTexts, HeadCost, linear_fp32, take
from distilmatch.engine.heads.products import comparison_weights, folded_products
from distilmatch.models.heads import (
    FeedForwardHead,
)
from distilmatch.types import TokenRepresentations


class FoldedFeedForward:
    """`FeedForwardHead`, folded: W [a; b] = W_a a + W_b b, so that a tuple pays for a sum and what comes after it."""

    def __init__(self, head: FeedForwardHead, classifier: nn.Linear) -> None:
        self.head, self.classifier = head, classifier
        self.read = classifier.weight[:, : head.width]
        self.products = folded_products(head, comparison_weights(head, classifier))

    @staticmethod
    def cost(student: StudentConfig, labels: int) -> HeadCost:
        """A sum and the activation, and where texts are compared a product of vectors; with more layers their products."""
        hidden = student.head_intermediate or student.vector_width
        layers = student.head_layers - 1
        operations = 2 * (layers * hidden * hidden + labels * hidden) if layers else None
        if operations is not None:
            operations += 2 * labels * student.vector_width * (bool(student.head_similarities) + bool(student.lexical))
        return HeadCost(operations=operations, products=layers > 0, widest=hidden, gathers=False)

    @torch.no_grad()
    def fold(self, texts: TokenRepresentations, side: int) -> FoldedTexts:
        """`summand` (n, f); where texts are compared, `similar` (n, d') too."""
        texts, lexical = self.head.parted(texts)
        folded = {"summand": self.head.side_inputs[side](texts.tokens.flatten(1))}
        return folded if self.products is None else folded | self.products.fold(texts, lexical)

    @torch.no_grad()
    def score(self, sides: Sequence[FoldedTexts], rows: torch.Tensor) -> torch.Tensor:
        """As `FoldedHead.score`."""
        gathered = [take(side, rows[:, j]) for j, side in enumerate(sides)]
        merged = sum(side["summand"] for side in gathered)
        logits = linear_fp32(self.head.hidden(merged), self.read, self.classifier.bias)
        return logits if self.products is None else logits + self.products.score(gathered)

    @torch.no_grad()
    def block(self, left: FoldedTexts, right: FoldedTexts) -> torch.Tensor:
        """As `FoldedHead.block`."""
        merged = left["summand"][:, None] + right["summand"][None]
        logits = linear_fp32(self.head.hidden(merged), self.read, self.classifier.bias)
        return logits if self.products is None else logits + self.products.block(left, right)
