"""Which folded head belongs to which head."""

from __future__ import annotations

from torch import nn

from distilmatch.engine.heads.base import FoldedHead
from distilmatch.engine.heads.cosine import FoldedCosine
from distilmatch.engine.heads.feed_forward import FoldedFeedForward
from distilmatch.engine.heads.lite import FoldedLite
from distilmatch.engine.heads.transformer import FoldedTransformer
from distilmatch.models.heads import (
    CosineHead,
    FeedForwardHead,
    LiteHead,
    TransformerHead,
)


def fold_head(head: nn.Module, classifier: nn.Linear) -> FoldedHead:
    """The folded form of a model's `head` and `classifier`."""
    if isinstance(head, TransformerHead):
        return FoldedTransformer(head, classifier)
    if isinstance(head, FeedForwardHead):
        return FoldedFeedForward(head, classifier)
    if isinstance(head, LiteHead):
        return FoldedLite(head, classifier)
    if isinstance(head, CosineHead):
        return FoldedCosine(head, classifier)
    raise TypeError(f"a head of class {type(head).__name__} cannot be folded")
