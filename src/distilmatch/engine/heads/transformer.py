"""`TransformerHead`, folded.

Shape legend: n texts of a side; p tuples; s sides; k kept tokens of a side; a attention heads of width e;
q queries a text; d width; c labels.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import torch
from torch import nn
from torch.nn.functional import linear

from distilmatch.config.pairs import StudentConfig
from distilmatch.engine.heads.base import FoldedTexts, HeadCost, every_pair, linear_fp32, take
from distilmatch.engine.heads.products import comparison_weights, folded_products
from distilmatch.models.heads import (
    HeadLayer,
    MaxSimilarities,
    TransformerHead,
)
from distilmatch.types import TokenRepresentations


class FoldedTransformer:
    """`TransformerHead`, folded.

    A text's first layer: queries q_i, keys K_i and values V_i, and of the attention of its own queries over its own
    tokens the largest score m_i, the sum l_i of exp(score - m_i) and the mixed values o_i under these. For a tuple the
    other sides' scores t = q_i K_j are added by the rule of the online softmax: with m = max(m_i, max t),

        attended = (exp(m_i - m) o_i + exp(t - m) V_j) / (exp(m_i - m) l_i + sum exp(t - m)).

    With one layer only the first token of the first side asks.
    """

    def __init__(self, head: TransformerHead, classifier: nn.Linear) -> None:
        self.layers = [layer for layer in head.layers if isinstance(layer, HeadLayer)]
        self.final_norm = head.final_norm
        self.bias = classifier.bias
        self.read = classifier.weight[:, : self.layers[0].query.in_features]
        self.parted = head.parted
        weight_of = comparison_weights(head, classifier)
        self.products = folded_products(head, weight_of)
        self.largest: _FoldedMaxSimilarities | None = None
        if head.max_similarities is not None:
            self.largest = _FoldedMaxSimilarities(head.max_similarities, weight_of[head.max_similarities])

    @staticmethod
    def cost(student: StudentConfig, labels: int) -> HeadCost:
        """One query's attention and feed-forward a tuple with one layer, with more layers all tokens of the others."""
        width, kept = student.vector_width, student.kept_tokens
        hidden = student.head_intermediate or 4 * width
        one_token = width * width + 2 * width * hidden
        tokens = sum(kept)
        if student.head_layers == 1:
            adds = one_token + 2 * (tokens - kept[0]) * width
        else:
            adds = tokens * one_token + 2 * tokens * tokens * width  # the first layer, its own-text part included
            adds += (student.head_layers - 2) * (tokens * (one_token + 3 * width * width) + 2 * tokens * tokens * width)
            adds += one_token + width * width + 2 * tokens * (width * width + width)  # the last: one query
        pairs_of_sides = len(kept) * (len(kept) - 1) // 2
        adds += labels * width
        adds += pairs_of_sides * labels * width * (bool(student.head_similarities) + bool(student.lexical))
        if student.head_maxsim:
            adds += sum(kept[i] * kept[j] for i in range(len(kept)) for j in range(i)) * width
        asking = tokens if student.head_layers > 1 else 1
        return HeadCost(operations=2 * adds, products=True, widest=asking * hidden)

    @torch.no_grad()
    def fold(self, texts: TokenRepresentations, side: int) -> FoldedTexts:
        """`key`, `value` (n, a, k, e) and `mask` (n, k); of texts that ask, `query` (n, a, q, e), scaled, `own_top` and
        `own_sum` (n, a, q), `own_mixed` (n, a, q, e) and `residual` (n, q, d), the tokens with the output's bias.
        """
        texts, lexical = self.parted(texts)
        layer = self.layers[0]
        seen = layer.attention_input(texts.tokens)
        key, value = (layer.split(half) for half in layer.key_value(seen).chunk(2, dim=-1))
        folded = {"key": key, "value": value, "mask": texts.mask}
        if side == 0 or len(self.layers) > 1:
            asking = slice(0, 1) if len(self.layers) == 1 else slice(None)
            query = layer.split(layer.query(seen[:, asking])) * key.shape[-1] ** -0.5
            scores = (query @ key.transpose(-1, -2)).float()
            scores = scores.masked_fill(~texts.mask[:, None, None, :], -torch.inf)
            top = scores.amax(-1)
            shares = (scores - top[..., None]).exp()
            folded |= {
                "query": query,
                "own_top": top,
                "own_sum": shares.sum(-1),
                "own_mixed": shares @ value.float(),
                "residual": texts.tokens[:, asking] + layer.output.bias,
            }
        if self.products is not None:
            folded |= self.products.fold(texts, lexical)
        return folded if self.largest is None else folded | self.largest.fold(texts, side)

    @torch.no_grad()
    def score(self, sides: Sequence[FoldedTexts], rows: torch.Tensor) -> torch.Tensor:
        """As `FoldedHead.score`."""
        gathered = [take(side, rows[:, j]) for j, side in enumerate(sides)]
        layer = self.layers[0]
        asking = gathered if len(self.layers) > 1 else gathered[:1]
        tokens = torch.cat([self._first_layer(layer, gathered, i) for i in range(len(asking))], 1)
        if len(self.layers) > 1:
            mask = torch.cat([side["mask"] for side in gathered], 1)
            for depth, layer in enumerate(self.layers[1:], start=2):
                seen = layer.attention_input(tokens)
                key_value = layer.key_value(seen)
                if depth == len(self.layers):
                    tokens, seen = tokens[:, :1], seen[:, :1]
                tokens = layer(tokens, layer.query(seen), key_value, mask)
        logits = linear_fp32(self.final_norm(tokens[:, 0]), self.read, self.bias)
        if self.products is not None:
            logits = logits + self.products.score(gathered)
        return logits if self.largest is None else logits + self.largest.score(gathered)

    def block(self, left: FoldedTexts, right: FoldedTexts) -> torch.Tensor:
        """As `FoldedHead.block`."""
        return every_pair(self, left, right)

    def weighted_similar(self, texts: FoldedTexts) -> torch.Tensor | None:
        """(n, c, d') what the second side's similar vectors are multiplied by, of texts of the first of two sides."""
        return None if self.products is None else texts["similar"][:, None, :] * self.products.weights[None, :, 0]

    def _first_layer(self, layer: HeadLayer, sides: Sequence[FoldedTexts], asking: int) -> torch.Tensor:
        # (p, q, d): the first layer's output for the queries of one side.
        this_side = sides[asking]
        others = [side for j, side in enumerate(sides) if j != asking]
        key, value = (torch.cat([side[name] for side in others], 2) for name in ("key", "value"))
        mask = torch.cat([side["mask"] for side in others], 1)
        scores = (this_side["query"] @ key.transpose(-1, -2)).float().masked_fill(~mask[:, None, None, :], -torch.inf)
        top = torch.maximum(this_side["own_top"], scores.amax(-1))
        shares = (scores - top[..., None]).exp()
        kept = (this_side["own_top"] - top).exp()
        total = kept * this_side["own_sum"] + shares.sum(-1)
        mixed = kept[..., None] * this_side["own_mixed"] + (shares.to(value.dtype) @ value).float()
        attended = (mixed / total[..., None]).transpose(1, 2).flatten(2).to(value.dtype)
        tokens = this_side["residual"] + linear(attended, layer.output.weight)
        return layer.after_attention(tokens)


class _FoldedMaxSimilarities:
    # logits of `MaxSimilarities`: how much a token's largest similarity counts for each label is a text's own.
    def __init__(self, similarities: MaxSimilarities, weight: torch.Tensor) -> None:
        self.similarities = similarities
        each = similarities.weightings + similarities.gaps
        self.weights = weight.unflatten(1, (-1, each)).float()  # (c, ordered pairs, weightings + gaps)
        sides = range(len(similarities.kept_tokens))
        self.order = [pair for i, j in combinations(sides, 2) for pair in ((i, j), (j, i))]

    def fold(self, texts: TokenRepresentations, side: int) -> FoldedTexts:
        vectors, importance = self.similarities.vectors(texts)
        folded, means = {"tokens": vectors}, self.similarities.weightings
        for place, (asking, other) in enumerate(self.order):
            if asking == side:
                folded[f"weights_{other}"] = importance[..., :means] @ self.weights[:, place, :means].T
                if self.similarities.gaps:
                    folded[f"gaps_{other}"] = importance[..., means:] @ self.weights[:, place, means:].T
        return folded

    def score(self, sides: Sequence[FoldedTexts]) -> torch.Tensor:
        logits = torch.zeros(())
        for i, j in combinations(range(len(sides)), 2):
            tokens, others = sides[i]["tokens"], sides[j]["tokens"]
            with torch.autocast(tokens.device.type, enabled=False):
                cosines = tokens.float() @ others.float().transpose(1, 2)
            for asking, other, compared in ((i, j, cosines), (j, i, cosines.transpose(1, 2))):
                largest = compared.masked_fill(~sides[other]["mask"][:, None, :], -torch.inf).amax(-1)[:, :, None]
                logits = logits + (sides[asking][f"weights_{other}"] * largest).sum(1)
                if self.similarities.gaps:
                    logits = logits + (sides[asking][f"gaps_{other}"] * (1 - largest).square()).sum(1)
        return logits
