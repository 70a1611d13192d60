"""Products of two texts' vectors, folded: each text's vector is its own, and a pair pays for one product.

Shape legend: n texts of a side; p tuples; d width; c labels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations

import torch
from torch import nn

from distilmatch.engine.heads.base import FoldedTexts, linear_fp32
from distilmatch.models.heads import ComparingHead, LexicalSimilarities, Similarities
from distilmatch.types import TokenRepresentations


def comparison_weights(head: ComparingHead, classifier: nn.Linear) -> dict[nn.Module, torch.Tensor]:
    """The (c, features) weights of each comparison: the classifier reads the head's own numbers, then these side by side."""
    weight_of: dict[nn.Module, torch.Tensor] = {}
    first = head.width
    for comparison in (*head.compared, *filter(None, [head.lexical])):
        weight_of[comparison] = classifier.weight[:, first : first + comparison.features]
        first += comparison.features
    return weight_of


def folded_products(head: ComparingHead, weight_of: Mapping[nn.Module, torch.Tensor]) -> FoldedProducts | None:
    """Those of a head; None where it has none."""
    if head.similarities is None and head.lexical is None:
        return None
    return FoldedProducts(head.similarities, head.lexical, weight_of)


class FoldedProducts:
    """Logits of `Similarities` and of `LexicalSimilarities`: products of vectors that stand side by side, under the
    classifier's weights of their slices and parts.

    Attributes:
        weights: (c, pairs of sides, d'), d' = d or 2 d.
    """

    def __init__(
        self,
        similarities: Similarities | None,
        lexical: LexicalSimilarities | None,
        weight_of: Mapping[nn.Module, torch.Tensor],
    ) -> None:
        self.similarities = similarities
        weights = []
        if similarities is not None:
            slices, width = similarities.slices, similarities.projection.out_features
            sliced = weight_of[similarities].unflatten(1, (-1, slices))
            weights.append(sliced.repeat_interleave(width // slices, 2))
        if lexical is not None:
            weights.append(lexical.spread(weight_of[lexical]))
        self.weights = torch.cat(weights, 2)

    def fold(self, texts: TokenRepresentations, lexical: torch.Tensor | None) -> FoldedTexts:
        """`similar` (n, d'); of a text's kept tokens and its (n, d) lexical vector."""
        vectors = [] if self.similarities is None else [self.similarities.vectors(texts)]
        if lexical is not None:
            vectors.append(lexical.to(texts.tokens.dtype))
        return {"similar": torch.cat(vectors, 1)}

    def score(self, sides: Sequence[FoldedTexts]) -> torch.Tensor:
        """(p, c) of sides whose texts are those of p tuples."""
        products = [left["similar"].float() * right["similar"].float() for left, right in combinations(sides, 2)]
        return sum(linear_fp32(product, self.weights[:, i]) for i, product in enumerate(products))  # type: ignore[return-value]

    def block(self, left: FoldedTexts, right: FoldedTexts) -> torch.Tensor:
        """(n, m, c) of all of n texts with all of m; two sides."""
        weighted = left["similar"].float()[:, None, :] * self.weights[None, :, 0].float()
        with torch.autocast(weighted.device.type, enabled=False):
            return (weighted @ right["similar"].float().T).transpose(1, 2)
