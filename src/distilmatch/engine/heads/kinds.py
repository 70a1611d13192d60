"""Which folded head belongs to which head."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from distilmatch.engine.heads.base import FoldedHead, HeadCost
from distilmatch.engine.heads.cosine import FoldedCosine
from distilmatch.engine.heads.feed_forward import FoldedFeedForward
from distilmatch.engine.heads.lite import FoldedLite
from distilmatch.engine.heads.transformer import FoldedTransformer
from distilmatch.models import DiPair
from distilmatch.models.heads import CosineHead, FeedForwardHead, LiteHead, TransformerHead

FOLDED: dict[type[nn.Module], Any] = {
    TransformerHead: FoldedTransformer,
    FeedForwardHead: FoldedFeedForward,
    LiteHead: FoldedLite,
    CosineHead: FoldedCosine,
}


def fold_head(head: nn.Module, classifier: nn.Linear) -> FoldedHead:
    """The folded form of a model's `head` and `classifier`."""
    folded: Callable[[nn.Module, nn.Linear], FoldedHead] | None = FOLDED.get(type(head))
    if folded is None:
        raise TypeError(f"a head of class {type(head).__name__} cannot be folded")
    return folded(head, classifier)


def head_cost(model: DiPair) -> HeadCost:
    """What a pair costs a model's folded head."""
    cost: HeadCost = FOLDED[type(model.head)].cost(model.student, model.task.num_labels)
    return cost
