"""`CosineHead`, folded.

Shape legend: n, m texts of the two sides; p tuples; k kept tokens of a side; d width; c labels.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import torch
from torch import nn
from torch.nn.functional import normalize

from distilmatch.config.pairs import StudentConfig
from distilmatch.engine.heads.base import FoldedTexts, HeadCost
from distilmatch.models.heads import (
    CosineHead,
    mean_token,
)
from distilmatch.types import TokenRepresentations


class FoldedCosine:
    """`CosineHead`, folded: normalised means, and a dot product under the classifier's slope and intercept."""

    def __init__(self, head: CosineHead, classifier: nn.Linear) -> None:
        self.slope, self.intercept = head.scale * classifier.weight[:, 0], head.scale * classifier.weight[:, 1]
        if classifier.bias is not None:
            self.intercept = self.intercept + classifier.bias

    @staticmethod
    def cost(student: StudentConfig, labels: int) -> HeadCost:
        """A dot product."""
        return HeadCost(operations=2 * student.vector_width, products=False, widest=1, gathers=False)

    @torch.no_grad()
    def fold(self, texts: TokenRepresentations, side: int) -> FoldedTexts:
        """`vector` (n, d), of length one."""
        return {"vector": normalize(mean_token(texts), dim=-1)}

    @torch.no_grad()
    def score(self, sides: Sequence[FoldedTexts], rows: torch.Tensor) -> torch.Tensor:
        """As `FoldedHead.score`."""
        vectors = [side["vector"].index_select(0, rows[:, j]) for j, side in enumerate(sides)]
        cosine = torch.stack([(first * second).sum(-1) for first, second in combinations(vectors, 2)]).mean(0)
        return (cosine[:, None] * self.slope + self.intercept).float()

    @torch.no_grad()
    def block(self, left: FoldedTexts, right: FoldedTexts) -> torch.Tensor:
        """As `FoldedHead.block`."""
        if len(self.slope) == 1:  # nothing is written but the logits
            logits = torch.addmm(self.intercept, left["vector"] * self.slope, right["vector"].T)
            return logits[:, :, None].float()
        cosine = left["vector"] @ right["vector"].T
        return (cosine[:, :, None] * self.slope + self.intercept).float()
