"""The embedding objectives that a config asks for: one registered entry a loss, and their mean over a student's widths.

Shape legend: n texts; t width of the teacher.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.nn.functional import normalize

from distilmatch.config.objectives import (
    CkdMseObjective,
    CkdObjective,
    ComparativeEmbeddingObjective,
    EmbeddingMseObjective,
    EmbeddingObjectiveConfig,
    RelationalObjective,
    SeedObjective,
)
from distilmatch.errors import ConfigError
from distilmatch.objectives.batches import EmbeddingBatch
from distilmatch.objectives.contrastive import (
    comparative_embedding_mse,
    embedding_mse,
    key_distillation,
    similarity_distillation,
)
from distilmatch.objectives.memory_bank import MemoryBank
from distilmatch.objectives.registry import EMBEDDING_LOSSES, embedding_loss


def embedding_objective_loss(batch: EmbeddingBatch, config: EmbeddingObjectiveConfig) -> torch.Tensor:
    """The loss that `config` asks for, the mean over the student's widths; a scalar in fp32.

    Raises:
        ConfigError: no loss is registered for the class of `config`.
    """
    loss = EMBEDDING_LOSSES.get(type(config))
    if loss is None:
        raise ConfigError(
            f"objective {config.kind} has no loss: put @embedding_loss({type(config).__name__}) above a function of the "
            "config, a batch and a projected embedding"
        )
    total = batch.projected[0].new_zeros((), dtype=torch.float32)
    for projected in batch.projected:
        total = total + loss(config, batch, projected)
    return total / len(batch.projected)


def embedding_distillation_loss(
    projected: Sequence[torch.Tensor],
    teacher: torch.Tensor,
    config: EmbeddingObjectiveConfig,
    *,
    temperature: float | torch.Tensor | None = None,
    ids: torch.Tensor | None = None,
    bank: MemoryBank | None = None,
) -> torch.Tensor:
    """`embedding_objective_loss` of the fields of an `EmbeddingBatch`."""
    batch = EmbeddingBatch(projected=projected, teacher=teacher, ids=ids, temperature=temperature, bank=bank)
    return embedding_objective_loss(batch, config)


@embedding_loss(CkdObjective)
def _ckd(objective: CkdObjective, batch: EmbeddingBatch, projected: torch.Tensor) -> torch.Tensor:
    return _against_keys(objective, batch, projected, objective.temperature)


@embedding_loss(EmbeddingMseObjective)
def _mse(objective: EmbeddingMseObjective, batch: EmbeddingBatch, projected: torch.Tensor) -> torch.Tensor:
    error = _squared_error(projected, batch.teacher, objective.normalize)
    return _against_keys(objective, batch, projected, None) + error


@embedding_loss(CkdMseObjective)
def _both(objective: CkdMseObjective, batch: EmbeddingBatch, projected: torch.Tensor) -> torch.Tensor:
    error = _squared_error(projected, batch.teacher, objective.normalize)
    contrast = _against_keys(objective, batch, projected, objective.temperature)
    return contrast + objective.mse_weight * projected.shape[-1] * error


@embedding_loss(ComparativeEmbeddingObjective)
def _comparative(
    objective: ComparativeEmbeddingObjective, batch: EmbeddingBatch, projected: torch.Tensor
) -> torch.Tensor:
    student, target = projected.float(), batch.teacher.float()
    if objective.normalize:
        student, target = normalize(student, dim=-1), normalize(target, dim=-1)
    error = comparative_embedding_mse(student, target, anchor=objective.anchor, gather=objective.gather)
    return _against_keys(objective, batch, projected, None) + error


@embedding_loss(RelationalObjective)
def _rrd(objective: RelationalObjective, batch: EmbeddingBatch, projected: torch.Tensor) -> torch.Tensor:
    temperatures = objective.student_temperature, objective.teacher_temperature
    return _similarities(objective, batch, projected, temperatures, objective.own_key)


@embedding_loss(SeedObjective)
def _seed(objective: SeedObjective, batch: EmbeddingBatch, projected: torch.Tensor) -> torch.Tensor:
    return _similarities(objective, batch, projected, (objective.temperature, objective.temperature), True)


def _similarities(
    objective: EmbeddingObjectiveConfig,
    batch: EmbeddingBatch,
    projected: torch.Tensor,
    temperatures: tuple[float, float],
    own_key: bool,
) -> torch.Tensor:
    bank = batch.bank
    return similarity_distillation(
        projected,
        batch.teacher,
        None if bank is None else bank.embeddings,
        temperature=temperatures[0],
        teacher_temperature=temperatures[1],
        own_key=own_key,
        ids=batch.ids,
        negative_ids=None if bank is None else bank.ids,
        gather=objective.gather,
    )


def _squared_error(projected: torch.Tensor, teacher: torch.Tensor, normalized: bool) -> torch.Tensor:
    student, target = projected.float(), teacher.float()
    if normalized:
        student, target = normalize(student, dim=-1), normalize(target, dim=-1)
    return embedding_mse(student, target)


def _against_keys(
    objective: EmbeddingObjectiveConfig, batch: EmbeddingBatch, projected: torch.Tensor, temperature: float | None
) -> torch.Tensor:
    """The losses that look at other texts' embeddings, in one pass over them: contrastive distillation, where it has a
    temperature, and `similarity_weight` times the distillation of similarities.
    """
    if temperature is None and not objective.similarity_weight:
        return projected.new_zeros((), dtype=torch.float32)
    bank = batch.bank
    learned = temperature if batch.temperature is None else batch.temperature
    contrast, similarity = key_distillation(
        projected,
        batch.teacher,
        None if bank is None else bank.embeddings,
        temperature=None if temperature is None else learned,
        similarity_temperature=objective.similarity_temperature if objective.similarity_weight else None,
        ids=batch.ids,
        negative_ids=None if bank is None else bank.ids,
        gather=objective.gather,
    )
    return contrast + objective.similarity_weight * similarity
