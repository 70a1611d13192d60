"""Which function is the loss of which config: one registered entry a loss."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import torch

from distilmatch.config.objectives import EmbeddingObjectiveConfig, ObjectiveConfig
from distilmatch.errors import ConfigError
from distilmatch.objectives.batches import EmbeddingBatch, PairBatch

Items = Callable[[torch.Tensor], int]
"""From the (q,) numbers of tuples of each query of a batch, over how many items a loss takes its mean."""
Labels = Literal["one", "several", "any"]
EmbeddingLoss = Callable[[Any, EmbeddingBatch, torch.Tensor], torch.Tensor]
P = TypeVar("P", bound=ObjectiveConfig)
E = TypeVar("E", bound=EmbeddingObjectiveConfig)


def rows(counts: torch.Tensor) -> int:
    """A mean over tuples."""
    return int(counts.sum())


def lists(counts: torch.Tensor) -> int:
    """A mean over queries of two tuples or more."""
    return int((counts >= 2).sum())


def ordered_pairs(counts: torch.Tensor) -> int:
    """A mean over ordered pairs of tuples of one query."""
    return int((counts * (counts - 1)).sum())


@dataclass(frozen=True, kw_only=True)
class PairLoss:
    """A registered loss of the pair job.

    Attributes:
        compute: a mean, a scalar in fp32, from the loss's config and a batch.
        labels: how many logits a tuple must have.
        items: over what the mean is: a step of several batches is weighted by it.
    """

    compute: Callable[[Any, PairBatch], torch.Tensor]
    labels: Labels
    items: Items


PAIR_LOSSES: dict[type[ObjectiveConfig], PairLoss] = {}
EMBEDDING_LOSSES: dict[type[EmbeddingObjectiveConfig], EmbeddingLoss] = {}


def pair_loss(
    config: type[P], *, labels: Labels = "any", items: Items = rows
) -> Callable[[Callable[[P, PairBatch], torch.Tensor]], Callable[[P, PairBatch], torch.Tensor]]:
    """Registers the function below it as the loss of `config`, a kind of `ObjectiveConfig`.

    Args:
        labels: "one" logit a tuple, "several", or "any".
        items: over what the function takes its mean: `rows`, `lists`, `ordered_pairs`, or a function like these.
    """

    def register(compute: Callable[[P, PairBatch], torch.Tensor]) -> Callable[[P, PairBatch], torch.Tensor]:
        PAIR_LOSSES[config] = PairLoss(compute=compute, labels=labels, items=items)
        return compute

    return register


def embedding_loss(
    config: type[E],
) -> Callable[
    [Callable[[E, EmbeddingBatch, torch.Tensor], torch.Tensor]],
    Callable[[E, EmbeddingBatch, torch.Tensor], torch.Tensor],
]:
    """Registers the function below it as the loss of `config`, a kind of `EmbeddingObjectiveConfig`; it is called for each
    of a batch's projected embeddings.
    """

    def register(
        compute: Callable[[E, EmbeddingBatch, torch.Tensor], torch.Tensor],
    ) -> Callable[[E, EmbeddingBatch, torch.Tensor], torch.Tensor]:
        EMBEDDING_LOSSES[config] = compute
        return compute

    return register


def registered_loss(config: ObjectiveConfig) -> PairLoss:
    """The loss of a config.

    Raises:
        ConfigError: none is registered for its class.
    """
    loss = PAIR_LOSSES.get(type(config))
    if loss is None:
        raise ConfigError(
            f"objective {config.kind} has no loss: put @pair_loss({type(config).__name__}) above a function of the config "
            "and a batch"
        )
    return loss
