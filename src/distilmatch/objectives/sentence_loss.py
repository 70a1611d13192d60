"""Contrastive distillation as a loss of sentence-transformers, for those who train with its trainer.

`distil_embeddings` does not need it: its trainer takes the functions themselves.

Shape legend: n texts; d width of the student; t width of the teacher.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from distilmatch.errors import ConfigError
from distilmatch.objectives.contrastive import contrastive_distillation
from distilmatch.objectives.memory_bank import MemoryBank
from distilmatch.objectives.processes import gather_rows


class ContrastiveDistillationLoss(nn.Module):
    """`contrastive_distillation` over a dataset with a column of texts and a column `label` of the teacher's embeddings.

    sentence-transformers' trainer saves no state of a loss, so a run that goes on begins with an empty bank and a new
    projection: to go on exactly, use `distil_embeddings`.

    Args:
        model: the student, a `SentenceTransformer`; the trainer puts its own wrapped one in its place.
        width, teacher_width: d and t; where they differ a projection is learned.
        bank_size: how many earlier embeddings of the teacher are negatives; 0 none.
        temperature: of the cosines, or what it is learned from.
        gather: whether the texts of all processes are keys.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        width: int,
        teacher_width: int,
        bank_size: int = 65_536,
        temperature: float = math.exp(-1),
        learn_temperature: bool = True,
        gather: bool = False,
    ) -> None:
        super().__init__()
        self.model = model
        self.projection = nn.Linear(width, teacher_width) if width != teacher_width else nn.Identity()
        log_scale = -torch.tensor(float(temperature)).log()
        self.log_scale = nn.Parameter(log_scale, requires_grad=learn_temperature)
        self.gather = gather
        self.bank_size = bank_size
        self.bank: MemoryBank | None = None
        self._last: torch.Tensor | None = None

    def forward(self, sentence_features: Iterable[dict[str, Any]], labels: torch.Tensor) -> torch.Tensor:
        """The loss of a batch; in training mode the teacher's embeddings go into the bank before the next one's loss.

        Args:
            sentence_features: of one column of n texts.
            labels: (n, t).

        Raises:
            ConfigError: more than one column of texts.
        """
        columns = list(sentence_features)
        if len(columns) != 1:
            raise ConfigError(f"this loss takes one column of texts and a column `label`, not {len(columns)} columns")
        projected = self.projection(self.model(columns[0])["sentence_embedding"].float())
        if self.bank is None and self.bank_size:
            self.bank = MemoryBank(self.bank_size, labels.shape[1], device=labels.device)
        if self.bank is not None and self._last is not None:
            # Not sooner: the gradient of the last loss was taken through the bank as it stood.
            self.bank.push(self._last)
            self._last = None
        loss = contrastive_distillation(
            projected,
            labels,
            None if self.bank is None else self.bank.embeddings,
            temperature=(-self.log_scale).exp(),
            gather=self.gather,
        )
        if self.bank is not None and self.training:
            self._last = (gather_rows(labels) if self.gather else labels).detach()
        return loss
