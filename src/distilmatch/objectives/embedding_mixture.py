"""The mixture of embedding objectives that a config asks for.

Shape legend: n texts; d width of the teacher.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.nn.functional import normalize

from distilmatch.config.embeddings import EmbeddingObjectiveConfig
from distilmatch.objectives.contrastive import embedding_mse, key_distillation
from distilmatch.objectives.memory_bank import MemoryBank


def embedding_distillation_loss(
    projected: Sequence[torch.Tensor],
    teacher: torch.Tensor,
    config: EmbeddingObjectiveConfig,
    *,
    temperature: float | torch.Tensor | None = None,
    ids: torch.Tensor | None = None,
    bank: MemoryBank | None = None,
) -> torch.Tensor:
    """`ckd`, `mse`, or `ckd + mse_weight * d * mse`, to which `similarity_weight` times `similarity_distillation` is added,
    the mean over the student's widths; a scalar in fp32.

    Args:
        projected: for each width of the student's, (n, d) embeddings projected to the teacher's width; without a
            projection the embedding itself.
        teacher: (n, d).
        temperature: in place of the config's, where it is learned.
        ids: (n,) int64, which text each row is.
        bank: earlier embeddings of the teacher; they are read here and not added to.
    """
    total = projected[0].new_zeros((), dtype=torch.float32)
    for own in projected:
        width = own.shape[-1]
        contrasts = config.kind in ("ckd", "both")
        if contrasts or config.similarity_weight:
            contrast, similarity = key_distillation(
                own,
                teacher,
                None if bank is None else bank.embeddings,
                temperature=(config.temperature if temperature is None else temperature) if contrasts else None,
                similarity_temperature=config.similarity_temperature if config.similarity_weight else None,
                ids=ids,
                negative_ids=None if bank is None else bank.ids,
                gather=config.gather,
            )
            total = total + contrast + config.similarity_weight * similarity
        if config.kind in ("mse", "both"):
            pair = (own.float(), teacher.float())
            if config.normalize:
                pair = (normalize(pair[0], dim=-1), normalize(pair[1], dim=-1))
            scale = 1.0 if config.kind == "mse" else config.mse_weight * width
            total = total + scale * embedding_mse(*pair)
    return total / len(projected)
