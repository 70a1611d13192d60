"""What a trainer hands a loss: a batch by name, of which each loss takes what it needs.

Shape legend: p tuples; s sides; c labels; n distinct texts of a side; k kept tokens; d width; t width of the teacher.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from distilmatch.objectives.memory_bank import MemoryBank
from distilmatch.types import TokenRepresentations


@dataclass(frozen=True, kw_only=True)
class PairBatch:
    """A batch of the pair job.

    Attributes:
        logits: (p, c) of the student, with a gradient.
        teacher: (p, c) logits.
        gold: (p,), NaN where a row has none; None where the table has no labels.
        queries: (p,) numbers; tuples with the same number are one list, within a block of the transfer set.
        blocks: (p,) numbers of the blocks; None makes the batch one block.
        tokens: for each side the (n, k, d) kept tokens of the batch's distinct texts, with a gradient; None from a caller
            that has logits alone.
        rows: (p, s) which of them each tuple is made of.
        texts: (p, s) ids: the numbers of the texts in the table, the same in every batch.
    """

    logits: torch.Tensor
    teacher: torch.Tensor
    gold: torch.Tensor | None = None
    queries: torch.Tensor | None = None
    blocks: torch.Tensor | None = None
    tokens: Sequence[TokenRepresentations] | None = None
    rows: torch.Tensor | None = None
    texts: torch.Tensor | None = None

    @property
    def lists(self) -> torch.Tensor:
        """(p,) `queries`; without them the batch is one query."""
        if self.queries is None:
            return torch.zeros(len(self.logits), dtype=torch.int64, device=self.logits.device)
        return self.queries

    def embeddings(self, side: int) -> torch.Tensor:
        """(p, d) fp32: the mean of the kept tokens of each tuple's text on `side`."""
        if self.tokens is None or self.rows is None:
            raise ValueError("this batch has no kept tokens: it was made from logits alone")
        kept = self.tokens[side]
        mask = kept.mask[..., None].float()
        means = (kept.tokens.float() * mask).sum(1) / mask.sum(1).clamp_min(1)
        return means[self.rows[:, side]]


@dataclass(frozen=True, kw_only=True)
class EmbeddingBatch:
    """A batch of the embedding job's distillation.

    Attributes:
        projected: for each width of the student's, (n, t) embeddings projected to the teacher's width; without a projection
            the embedding itself.
        teacher: (n, t).
        ids: (n,) int64, which text of the corpus each row is.
        temperature: in place of the objective's, where it is learned.
        bank: earlier embeddings of the teacher; they are read here and not added to.
        embeddings: (n, d) of the student, before the projection; None from a caller that has none.
    """

    projected: Sequence[torch.Tensor]
    teacher: torch.Tensor
    ids: torch.Tensor | None = None
    temperature: float | torch.Tensor | None = None
    bank: MemoryBank | None = None
    embeddings: torch.Tensor | None = None
