"""Which function is the loss of which config: one registered entry a loss."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import torch

from distilmatch.config.objectives import EmbeddingObjectiveConfig, ObjectiveConfig
from distilmatch.config.tables import TaskConfig
from distilmatch.errors import ConfigError
from distilmatch.objectives.batches import EmbeddingBatch, PairBatch

Items = Callable[[torch.Tensor], int]
"""From the (q,) numbers of tuples of each query of a batch, over how many items a loss takes its mean."""
Labels = Literal["one", "several", "any", "ranking"]
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
        labels: how many logits a tuple must have; "ranking" is for lists alone.
        items: over what the mean is: a step of several batches is weighted by it.
    """

    compute: Callable[[Any, PairBatch], torch.Tensor]
    labels: Labels
    items: Items


PAIR_LOSSES: dict[type[ObjectiveConfig], dict[Labels, PairLoss]] = {}
EMBEDDING_LOSSES: dict[type[EmbeddingObjectiveConfig], EmbeddingLoss] = {}


def pair_loss(
    config: type[P], *, labels: Labels = "any", items: Items = rows
) -> Callable[[Callable[[P, PairBatch], torch.Tensor]], Callable[[P, PairBatch], torch.Tensor]]:
    """Registers the function below it as the loss of `config`, a kind of `ObjectiveConfig`.

    Args:
        labels: "one" logit a tuple, "several", or "any"; "ranking" for a second function, which takes the place of the other in
            a ranking, or stands alone.
        items: over what the function takes its mean: `rows`, `lists`, `ordered_pairs`, or a function like these.
    """

    def register(compute: Callable[[P, PairBatch], torch.Tensor]) -> Callable[[P, PairBatch], torch.Tensor]:
        PAIR_LOSSES.setdefault(config, {})[labels] = PairLoss(compute=compute, labels=labels, items=items)
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


def registered_loss(config: ObjectiveConfig, task: TaskConfig) -> PairLoss:
    """The loss of a config for a task.

    Raises:
        ConfigError: none is registered for its class, or none that suits the task.
    """
    losses = PAIR_LOSSES.get(type(config))
    if losses is None:
        raise ConfigError(
            f"objective {config.kind} has no loss: put @pair_loss({type(config).__name__}) above a function of the config "
            "and a batch"
        )
    wanted: tuple[Labels, ...] = ("several", "any") if task.num_labels > 1 else ("one", "any")
    if task.kind == "ranking":
        wanted = ("ranking", *wanted)
    for labels in wanted:
        if labels in losses:
            return losses[labels]
    if task.num_labels > 1:
        raise ConfigError(f"objective {config.kind} needs one label, this task has {task.num_labels}: use kl or mse")
    raise ConfigError(f"objective {config.kind} needs two or more labels, {task.kind} has one: use bce or mse")
