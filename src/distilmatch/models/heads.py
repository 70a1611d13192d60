"""The heads: what looks at the merged short sequence of a tuple (DiPair, section 3.3).

Every head takes its sides text by text, does what depends on one text alone once a text, and only then gathers the
tuples' rows: a batch in which a text stands in many tuples pays for it once.

Shape legend: p tuples; s sides; n_j texts on side j; k_j kept tokens of side j; l = sum of k_j; d width; m hidden.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations, pairwise
from typing import Any, ClassVar, Protocol

import torch
from torch import nn
from torch.nn.functional import normalize

from distilmatch.config.pairs import StudentConfig
from distilmatch.models.attention import attend
from distilmatch.models.fp32 import Fp32Module
from distilmatch.models.gathering import gather
from distilmatch.models.lexical import FLAGS, KINDS, lexical_bounds
from distilmatch.types import TokenRepresentations

COSINE_SCALE = 4.0  # of a similarity as a first logit
LEXICAL_SCALE = 8.0  # of lexical similarities as features: their few weights have far to go, as those of `CosineHead`
_FIRST_LEXICAL = 0.125  # their first weight: a whole word, number or code in common is a logit
_ACTIVATIONS: dict[str, type[nn.Module]] = {"gelu": nn.GELU, "relu": nn.ReLU}


class Head(Protocol):
    """What every head is: a module whose features a linear layer turns into logits.

    Attributes:
        features: how many it gives a tuple.
        embedded: whether its tokens have positions, segments and a norm; else they are the bare projection.
    """

    features: int
    embedded: ClassVar[bool]

    def start_classifier(self, classifier: nn.Linear) -> None:
        """Gives the layer to the logits its first weights, where the head knows better ones than random."""
        ...


def make_head(student: StudentConfig) -> TransformerHead | FeedForwardHead | LiteHead | CosineHead:
    """The head that `student` describes."""
    head: TransformerHead | FeedForwardHead | LiteHead | CosineHead = HEADS[student.head](student)
    return head


class HeadLayer(nn.Module):
    """One transformer layer, in the parts that the head needs apart: what depends on a token, and the rest."""

    def __init__(self, student: StudentConfig) -> None:
        super().__init__()
        width = student.vector_width
        intermediate = student.head_intermediate or 4 * width
        self.heads = student.attention_heads
        self.pre_norm = student.head_norm == "pre"
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(width, 2 * width)
        self.output = nn.Linear(width, width)
        self.attention_norm = nn.LayerNorm(width)
        self.feed_forward = nn.Sequential(
            nn.Linear(width, intermediate), _ACTIVATIONS[student.head_activation](), nn.Linear(intermediate, width)
        )
        self.feed_forward_norm = nn.LayerNorm(width)
        self.dropout = nn.Dropout(student.head_dropout)

    def attention_input(self, tokens: torch.Tensor) -> torch.Tensor:
        """(..., d) tokens as the attention sees them."""
        return self.attention_norm(tokens) if self.pre_norm else tokens

    def forward(
        self, tokens: torch.Tensor, query: torch.Tensor, key_value: torch.Tensor, mask: torch.Tensor | None
    ) -> torch.Tensor:
        """The layer's output for the query tokens.

        Args:
            tokens: (p, q, d) the layer's input at the q query positions.
            query: (p, q, d), `self.query` of their attention input.
            key_value: (p, l, 2d), `self.key_value` of all tokens' attention input.
            mask: (p, l) bool, or None when every token is real.

        Returns:
            (p, q, d).
        """
        key, value = (self.split(half) for half in key_value.chunk(2, dim=-1))
        allowed = None if mask is None else mask[:, None, None, :]
        attended = attend(self.split(query), key, value, allowed)
        attended = self.dropout(self.output(attended.transpose(1, 2).flatten(2)))
        return self.after_attention(tokens + attended)

    def after_attention(self, tokens: torch.Tensor) -> torch.Tensor:
        """(..., d) outputs of the layer for its tokens with what they attended to added."""
        if self.pre_norm:
            return tokens + self.dropout(self.feed_forward(self.feed_forward_norm(tokens)))
        tokens = self.attention_norm(tokens)
        return self.feed_forward_norm(tokens + self.dropout(self.feed_forward(tokens)))

    def split(self, tokens: torch.Tensor) -> torch.Tensor:
        """(n, a, k, e) of (n, k, d) tokens: a attention heads of width e."""
        return tokens.unflatten(-1, (self.heads, -1)).transpose(1, 2)


class Similarities(nn.Module):
    """Dot products of the texts' mean tokens, slice by slice.

    A layer adds what it reads; to compare two texts it would have to learn products. These are given to it: of the
    normalised mean tokens, projected once a text, `head_similarities` slices each. Their sum starts as the cosine. The
    mean is that of all a text's tokens where it is kept (`first_pooled`), else that of the kept ones.
    """

    def __init__(self, student: StudentConfig) -> None:
        super().__init__()
        self.slices = student.head_similarities or 0
        self.pooled = student.kept_strategy == "first_pooled"
        self.projection = nn.Linear(student.vector_width, student.vector_width, bias=False)
        self.features = self.slices * (student.sides * (student.sides - 1) // 2)

    def forward(self, sides: Sequence[TokenRepresentations], rows: torch.Tensor) -> torch.Tensor:
        """(p, slices) for two sides, for more those of every two of them; arguments as in `TransformerHead`."""
        vectors = [
            gather(self.vectors(side), rows[:, j]).unflatten(-1, (self.slices, -1)) for j, side in enumerate(sides)
        ]
        # In fp32, as the largest ones below: a cosine rounded to eight bits ties with its neighbours.
        return torch.cat([(left.float() * right.float()).sum(-1) for left, right in combinations(vectors, 2)], -1)

    def start_weights(self) -> torch.Tensor:
        """(features,) weights that make them one similarity: the mean of every two sides' cosines."""
        return torch.full((self.features,), self.slices / self.features)

    def vectors(self, texts: TokenRepresentations) -> torch.Tensor:
        """(n, d) projected means of length one."""
        mean = texts.tokens[:, 0] if self.pooled else mean_token(texts)
        return normalize(self.projection(mean), dim=-1)


class MaxSimilarities(nn.Module):
    """What each token of a text finds in the other: its largest cosine there, averaged over the text in several ways.

    Late interaction (Khattab and Zaharia 2020, section 3.3, MaxSim) in both directions. `head_maxsim` weightings say
    how much a token counts, a softmax over its text of a linear function of the token; they start nearly even. A mean
    hides one token that finds nothing, so `head_gaps` more are of the square of what each largest cosine lacks to one.
    """

    def __init__(self, student: StudentConfig) -> None:
        super().__init__()
        width, self.weightings, self.gaps = student.vector_width, student.head_maxsim or 0, student.head_gaps
        self.projection = nn.Linear(width, width, bias=False)
        self.importance = nn.Linear(width, self.weightings + self.gaps, bias=False)
        self.kept_tokens = student.kept_tokens
        self.features = (self.weightings + self.gaps) * student.sides * (student.sides - 1)

    def forward(self, sides: Sequence[TokenRepresentations], rows: torch.Tensor) -> torch.Tensor:
        """(p, 2 (weightings + gaps)) for two sides, left in right first, for more those of every two; as in `TransformerHead`."""
        vectors, weights = [], []
        for j, side in enumerate(sides):
            projected, importance = self.vectors(side)
            weights.append(gather(importance, rows[:, j]))
            vectors.append(gather(projected, rows[:, j]))
        features = []
        for i, j in combinations(range(len(sides)), 2):
            cosines = (vectors[i] @ vectors[j].transpose(1, 2)).float()
            for source, target, similarities in ((i, j, cosines), (j, i, cosines.transpose(1, 2))):
                real = sides[target].mask[rows[:, target]]
                largest = similarities.masked_fill(~real[:, None, :], float("-inf")).amax(-1)[:, :, None]
                means, gaps = weights[source].split([self.weightings, self.gaps], -1)
                features.append((means * largest).sum(1))
                if self.gaps:
                    features.append((gaps * (1 - largest).square()).sum(1))
        return torch.cat(features, -1)

    def vectors(self, texts: TokenRepresentations) -> tuple[torch.Tensor, torch.Tensor]:
        """(n, k, d) projected tokens of length one and (n, k, weightings + gaps) fp32 shares, zero for padding."""
        scores = self.importance(texts.tokens).float().masked_fill(~texts.mask[:, :, None], float("-inf"))
        return normalize(self.projection(texts.tokens), dim=-1), scores.softmax(1)

    def start_weights(self) -> torch.Tensor:
        """(features,) weights that make them one similarity, the mean over every two sides: of two, the one that keeps
        fewer tokens looks into the other, or each in turn for half. Gaps count for nothing yet.
        """
        shares = []
        for i, j in combinations(self.kept_tokens, 2):
            shares += [float(i < j) + 0.5 * (i == j), float(j < i) + 0.5 * (i == j)]
        means = torch.tensor(shares)[:, None].expand(-1, self.weightings) / (self.weightings * len(shares) / 2)
        return torch.cat([means, torch.zeros(len(shares), self.gaps)], 1).flatten()


class LexicalSimilarities(nn.Module):
    """What two texts share to the letter: cosines of their words, numbers and codes, and whether both have numbers, and codes.

    Products of the vectors of `LexicalVectors`, part by part, times `LEXICAL_SCALE`. Nothing in it learns: the layer to the
    logits weighs them.
    """

    def __init__(self, student: StudentConfig) -> None:
        super().__init__()
        self.bounds = lexical_bounds(student.vector_width)
        self.parts = len(KINDS) + FLAGS
        self.features = self.parts * (student.sides * (student.sides - 1) // 2)

    def forward(self, vectors: Sequence[torch.Tensor], rows: torch.Tensor) -> torch.Tensor:
        """(p, 5) for two sides, for more those of every two of them; of (n_j, d) vectors a side."""
        gathered = [gather(side, rows[:, j]).float() for j, side in enumerate(vectors)]
        features = []
        for left, right in combinations(gathered, 2):
            products = LEXICAL_SCALE * left * right
            features += [products[:, start:end].sum(1, keepdim=True) for start, end in pairwise(self.bounds)]
            features.append(products[:, self.bounds[-1] :])
        return torch.cat(features, -1)

    def spread(self, weights: torch.Tensor) -> torch.Tensor:
        """(c, pairs of sides, d) weights of the products that the (c, features) weights of the parts are."""
        sizes = [end - start for start, end in pairwise(self.bounds)] + [1] * FLAGS
        repeats = torch.tensor(sizes, device=weights.device)
        return LEXICAL_SCALE * weights.unflatten(1, (-1, self.parts)).repeat_interleave(repeats, 2)

    def start_weights(self) -> torch.Tensor:
        """(features,) first weights of a score of one label."""
        of_two = torch.tensor([_FIRST_LEXICAL] * len(KINDS) + [0.0] * FLAGS)
        return of_two.repeat(self.features // self.parts)


def mean_token(side: TokenRepresentations) -> torch.Tensor:
    """(n, d) mean of the real kept tokens."""
    weights = side.mask[:, :, None].to(side.tokens.dtype)
    return (side.tokens * weights).sum(1) / weights.sum(1).clamp_min(1)


class ComparingHead(Fp32Module):
    """What a head reads out beside its own numbers, because adding layers cannot compute it: products of the two texts'
    vectors, which are a text's own.

    Attributes:
        width: of the numbers that come first; the compared ones follow in the order of `compared`, then the lexical ones.
    """

    def __init__(self, student: StudentConfig, width: int, *, largest: bool = True) -> None:
        """`largest`: whether the largest similarities of tokens can be among them."""
        super().__init__()
        self.width = width
        self.similarities = Similarities(student) if student.head_similarities else None
        self.max_similarities = MaxSimilarities(student) if largest and student.head_maxsim else None
        self.lexical = LexicalSimilarities(student) if student.lexical else None
        self.features = width + sum(comparison.features for comparison in self.compared)
        self.features += 0 if self.lexical is None else self.lexical.features

    @torch.no_grad()
    def start_classifier(self, classifier: nn.Linear) -> None:
        """The similarities start as one cosine, the largest ones as their mean; a score of one label as the sum of all."""
        one_label, first = len(classifier.weight) == 1, self.width
        if (self.compared or self.lexical) and one_label:
            nn.init.zeros_(classifier.weight[:, :first])
        for comparison in self.compared:
            nn.init.eye_(comparison.projection.weight)
            if one_label:
                classifier.weight[:, first : first + comparison.features] = COSINE_SCALE * comparison.start_weights()
            first += comparison.features
        if self.lexical is not None and one_label:
            classifier.weight[:, first:] = self.lexical.start_weights()

    @property
    def compared(self) -> list[Similarities | MaxSimilarities]:
        """What is read out of the kept tokens beside the head's own numbers, in the order of the features; then lexical ones."""
        return [comparison for comparison in (self.similarities, self.max_similarities) if comparison is not None]

    def parted(self, side: TokenRepresentations) -> tuple[TokenRepresentations, torch.Tensor | None]:
        """The kept tokens of a side's texts alone, and their (n, d) lexical vectors, which are kept behind them."""
        if self.lexical is None:
            return side, None
        return replace(side, tokens=side.tokens[:, :-1], mask=side.mask[:, :-1]), side.tokens[:, -1]

    def read_beside(
        self,
        read: torch.Tensor,
        sides: Sequence[TokenRepresentations],
        lexical: Sequence[torch.Tensor | None],
        rows: torch.Tensor,
    ) -> torch.Tensor:
        """(p, features): (p, width) numbers of the tuples, followed by what is compared; of what `parted` gave a side."""
        if self.compared:
            read = torch.cat([read.float(), *(comparison(sides, rows) for comparison in self.compared)], -1)
        if self.lexical is not None:
            vectors = [vector for vector in lexical if vector is not None]
            read = torch.cat([read.float(), self.lexical(vectors, rows)], -1)
        return read


class TransformerHead(ComparingHead):
    """Transformer layers over the merged sequence; the first position is read out, and beside it what a layer cannot
    compute: the similarities of the texts and the largest ones of their tokens.

    The first layer's queries, keys and values belong to a text, not to a tuple, and are computed once a text; the
    last layer needs one query only. Both are exact.
    """

    embedded: ClassVar[bool] = True

    def __init__(self, student: StudentConfig) -> None:
        super().__init__(student, student.vector_width)
        self.layers = nn.ModuleList(HeadLayer(student) for _ in range(student.head_layers))
        self.final_norm = nn.LayerNorm(student.vector_width) if student.head_norm == "pre" else nn.Identity()

    def forward(self, sides: Sequence[TokenRepresentations], rows: torch.Tensor) -> torch.Tensor:
        """(p, d) features of the tuples, followed by their similarities, the largest and the lexical ones.

        Args:
            sides: s representations, (n_j, k_j, d) each, k_j + 1 with lexical vectors.
            rows: (p, s) int64, row of each tuple's text on each side.
        """
        parted = [self.parted(side) for side in sides]
        sides, lexical = [tokens for tokens, _ in parted], [vector for _, vector in parted]
        mask: torch.Tensor | None = torch.cat([side.mask[rows[:, j]] for j, side in enumerate(sides)], 1)
        assert mask is not None
        if mask.all():
            mask = None
        first_layer = self._layer(0)
        seen = [first_layer.attention_input(side.tokens) for side in sides]
        key_value = _merge([first_layer.key_value(tokens) for tokens in seen], rows)
        if len(self.layers) == 1:
            tokens = gather(sides[0].tokens[:, :1], rows[:, 0])
            query = gather(first_layer.query(seen[0][:, :1]), rows[:, 0])
        else:
            tokens = _merge([side.tokens for side in sides], rows)
            query = _merge([first_layer.query(tokens) for tokens in seen], rows)
        tokens = first_layer(tokens, query, key_value, mask)
        for depth in range(2, len(self.layers) + 1):
            layer = self._layer(depth - 1)
            seen_tokens = layer.attention_input(tokens)
            key_value = layer.key_value(seen_tokens)
            if depth == len(self.layers):
                tokens, seen_tokens = tokens[:, :1], seen_tokens[:, :1]
            tokens = layer(tokens, layer.query(seen_tokens), key_value, mask)
        return self.read_beside(self.final_norm(tokens[:, 0]), sides, lexical, rows)

    def _layer(self, index: int) -> HeadLayer:
        layer = self.layers[index]
        assert isinstance(layer, HeadLayer)
        return layer


def _merge(per_text: Sequence[torch.Tensor], rows: torch.Tensor) -> torch.Tensor:
    """(p, l, x) from s tensors (n_j, k_j, x): the tuples' tokens side after side."""
    return torch.cat([gather(tensor, rows[:, j]) for j, tensor in enumerate(per_text)], 1)


def _hidden_layers(student: StudentConfig, width: int, count: int) -> nn.Sequential:
    """An activation, then `count` linear layers of `width`, each with one."""
    layers: list[nn.Module] = [_ACTIVATIONS[student.head_activation](), nn.Dropout(student.head_dropout)]
    for _ in range(count):
        layers += [nn.Linear(width, width), _ACTIVATIONS[student.head_activation](), nn.Dropout(student.head_dropout)]
    return nn.Sequential(*layers)


class FeedForwardHead(ComparingHead):
    """A feed-forward network over the concatenated kept tokens; W [a; b] is computed as W_a a + W_b b. Where that is asked
    for, the texts' similarities and the lexical ones are read out beside it.
    """

    embedded: ClassVar[bool] = True

    def __init__(self, student: StudentConfig) -> None:
        hidden = student.head_intermediate or student.vector_width
        super().__init__(student, hidden, largest=False)
        self.side_inputs = nn.ModuleList(
            nn.Linear(kept * student.vector_width, hidden, bias=side == 0)
            for side, kept in enumerate(student.kept_tokens)
        )
        self.hidden = _hidden_layers(student, hidden, student.head_layers - 1)

    def forward(self, sides: Sequence[TokenRepresentations], rows: torch.Tensor) -> torch.Tensor:
        """(p, m) features of the tuples, followed by what is compared; arguments as in `TransformerHead.forward`."""
        parted = [self.parted(side) for side in sides]
        sides, lexical = [tokens for tokens, _ in parted], [vector for _, vector in parted]
        merged = torch.stack(
            [gather(self.side_inputs[j](side.tokens.flatten(1)), rows[:, j]) for j, side in enumerate(sides)]
        ).sum(0)
        return self.read_beside(self.hidden(merged), sides, lexical, rows)


class LiteHead(Fp32Module):
    """A feed-forward network over the similarities of the two texts' kept tokens, and over their first tokens.

    After LITE (arXiv 2406.17968), which reads one matrix of dot products; here each of `head_heads` slices of the width
    gives a matrix of its own, as in multi-head attention, and the first token of either side adds what a similarity
    cannot say. The token vectors are scaled by the fourth root of a slice's width, padding is zero. Two sides only.
    """

    embedded: ClassVar[bool] = True

    def __init__(self, student: StudentConfig) -> None:
        super().__init__()
        hidden = student.head_intermediate or student.vector_width
        left, right = student.kept_tokens
        self.heads = student.attention_heads
        self.scale = (student.vector_width // student.attention_heads) ** -0.25
        self.similarity_norm = nn.LayerNorm(self.heads * left * right)
        self.similarity_input = nn.Linear(self.heads * left * right, hidden)
        self.side_inputs = nn.ModuleList(nn.Linear(student.vector_width, hidden, bias=False) for _ in range(2))
        self.hidden = _hidden_layers(student, hidden, student.head_layers)
        self.features = hidden

    def start_classifier(self, classifier: nn.Linear) -> None:
        """The first weights stay random."""

    def forward(self, sides: Sequence[TokenRepresentations], rows: torch.Tensor) -> torch.Tensor:
        """(p, m) features of the tuples; arguments as in `TransformerHead.forward`."""
        left, right = (gather(self.split(side), rows[:, j]) for j, side in enumerate(sides))
        similarities = (left @ right.transpose(-1, -2)).flatten(1)
        first = [gather(self.side_inputs[j](side.tokens[:, 0]), rows[:, j]) for j, side in enumerate(sides)]
        return self.hidden(self.similarity_input(self.similarity_norm(similarities)) + first[0] + first[1])

    def split(self, texts: TokenRepresentations) -> torch.Tensor:
        """(n, a, k, e) scaled tokens in a slices of width e."""
        return (texts.tokens * self.scale).unflatten(-1, (self.heads, -1)).transpose(1, 2)


class CosineHead(Fp32Module):
    """The dual encoder's head: cosine of the texts' mean kept token; for more sides the mean over their pairs.

    The cosine goes to the classifier beside a constant, both times `scale`: the few numbers that make logits of one
    cosine have to move much further than the weights of a layer that learns at the same rate.
    """

    scale = 100.0

    embedded: ClassVar[bool] = False

    def __init__(self, student: StudentConfig) -> None:
        super().__init__()
        self.features = 2

    @torch.no_grad()
    def start_classifier(self, classifier: nn.Linear) -> None:
        """A score of one label starts as the cosine."""
        if len(classifier.weight) == 1:
            classifier.weight[:] = COSINE_SCALE * self.start_weights()

    def forward(self, sides: Sequence[TokenRepresentations], rows: torch.Tensor) -> torch.Tensor:
        """(p, 2) scaled cosines and constants; arguments as in `TransformerHead.forward`."""
        vectors = []
        for j, side in enumerate(sides):
            vectors.append(gather(normalize(mean_token(side), dim=-1), rows[:, j]))
        cosines = [(left.float() * right.float()).sum(-1) for left, right in combinations(vectors, 2)]
        cosine = torch.stack(cosines).mean(0)
        return self.scale * torch.stack([cosine, torch.ones_like(cosine)], dim=1)

    def start_weights(self) -> torch.Tensor:
        """(2,) weights that make the features the cosine."""
        return torch.tensor([1 / self.scale, 0.0])


HEADS: dict[str, Any] = {
    "transformer": TransformerHead,
    "feed_forward": FeedForwardHead,
    "lite": LiteHead,
    "cosine": CosineHead,
}
