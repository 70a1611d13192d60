"""The heads against slow, obvious versions of themselves, and truncation against a loop."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import cosine_similarity

from distilmatch.config.pairs import StudentConfig
from distilmatch.models.heads import CosineHead, HeadLayer, LiteHead, TransformerHead, make_head
from distilmatch.models.truncation import keep_tokens
from distilmatch.types import TokenRepresentations


def _slow_layer(layer: HeadLayer, tokens: torch.Tensor) -> torch.Tensor:
    """A plain layer over the real tokens of one tuple, (l, d), head by head."""
    seen = layer.attention_norm(tokens) if layer.pre_norm else tokens
    query, (key, value) = layer.query(seen), layer.key_value(seen).chunk(2, dim=-1)
    width = query.shape[-1] // layer.heads
    mixed = []
    for head in range(layer.heads):
        part = slice(head * width, (head + 1) * width)
        weights = torch.softmax(query[:, part] @ key[:, part].T / width**0.5, dim=-1)
        mixed.append(weights @ value[:, part])
    attended = layer.output(torch.cat(mixed, -1))
    if layer.pre_norm:
        tokens = tokens + attended
        return tokens + layer.feed_forward(layer.feed_forward_norm(tokens))
    tokens = layer.attention_norm(tokens + attended)
    return layer.feed_forward_norm(tokens + layer.feed_forward(tokens))


def _slow_transformer(head: TransformerHead, sides: list[TokenRepresentations], rows: torch.Tensor) -> torch.Tensor:
    features = []
    for row in rows.tolist():
        tokens = torch.cat([side.tokens[i][side.mask[i]] for side, i in zip(sides, row, strict=True)])
        for layer in head.layers:
            tokens = _slow_layer(layer, tokens)  # type: ignore[arg-type]
        features.append(head.final_norm(tokens[:1]))
    return torch.cat(features)


def _sides(kept: tuple[int, ...], texts: int, width: int) -> list[TokenRepresentations]:
    sides = []
    for tokens in kept:
        lengths = torch.randint(1, tokens + 1, (texts,))
        mask = torch.arange(tokens)[None, :] < lengths[:, None]
        sides.append(TokenRepresentations(torch.randn(texts, tokens, width) * mask[:, :, None], mask))
    return sides


@settings(deadline=None, max_examples=40)
@given(
    seed=st.integers(0, 10_000),
    layers=st.integers(1, 3),
    norm=st.sampled_from(["post", "pre"]),
    kept=st.lists(st.integers(1, 5), min_size=2, max_size=3),
    activation=st.sampled_from(["gelu", "relu"]),
)
def test_the_transformer_head_equals_a_plain_transformer(
    seed: int, layers: int, norm: str, kept: list[int], activation: str
) -> None:
    torch.manual_seed(seed)
    student = StudentConfig(
        kept_tokens=tuple(kept),
        max_lengths=(16,) * len(kept),
        side_names=tuple(f"side{j}" for j in range(len(kept))),
        width=8,
        head_heads=2,
        head_layers=layers,
        head_norm=norm,  # type: ignore[arg-type]
        head_activation=activation,  # type: ignore[arg-type]
    )
    head = make_head(student).eval()
    assert isinstance(head, TransformerHead)
    sides = _sides(student.kept_tokens, 4, 8)
    rows = torch.randint(0, 4, (6, len(kept)))
    with torch.no_grad():
        torch.testing.assert_close(head(sides, rows), _slow_transformer(head, sides, rows), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("count", [2, 3])
def test_similarities_are_dot_products_of_slices(count: int) -> None:
    torch.manual_seed(0)
    names = tuple(f"side{j}" for j in range(count))
    student = StudentConfig(
        kept_tokens=(3,) * count,
        max_lengths=(8,) * count,
        side_names=names,
        width=8,
        head_heads=2,
        head_similarities=4,
    )
    head = make_head(student).eval()
    assert isinstance(head, TransformerHead) and head.similarities is not None
    sides = _sides(student.kept_tokens, 3, 8)
    rows = torch.randint(0, 3, (5, count))
    plain = make_head(student.replaced(head_similarities=0)).eval()
    plain.load_state_dict({name: weight for name, weight in head.state_dict().items() if "similarities" not in name})
    features = head(sides, rows)
    assert features.shape == (5, head.features) and plain.features == 8
    torch.testing.assert_close(features[:, :8], plain(sides, rows))
    for got, row in zip(features[:, 8:], rows.tolist(), strict=True):
        means = [side.tokens[i][side.mask[i]].mean(0) for side, i in zip(sides, row, strict=True)]
        vectors = [head.similarities.projection.weight @ mean for mean in means]
        vectors = [vector / vector.norm() for vector in vectors]
        expected = [
            float((a[2 * k : 2 * k + 2] @ b[2 * k : 2 * k + 2]).detach())
            for a, b in itertools.combinations(vectors, 2)
            for k in range(4)
        ]
        torch.testing.assert_close(got, torch.tensor(expected), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(("count", "gaps"), [(2, 0), (2, 2), (3, 1)])
def test_largest_similarities_against_a_loop(count: int, gaps: int) -> None:
    torch.manual_seed(0)
    names = tuple(f"side{j}" for j in range(count))
    student = StudentConfig(
        kept_tokens=(3, 5, 2)[:count],
        max_lengths=(8,) * count,
        side_names=names,
        width=8,
        head_heads=2,
        head_maxsim=3,
        head_gaps=gaps,
    )
    head = make_head(student).eval()
    assert isinstance(head, TransformerHead) and head.max_similarities is not None
    part = head.max_similarities
    sides = _sides(student.kept_tokens, 4, 8)
    rows = torch.randint(0, 4, (5, count))
    features = head(sides, rows)
    assert features.shape == (5, head.features)
    for got, row in zip(features[:, 8:], rows.tolist(), strict=True):
        texts = [side.tokens[i][side.mask[i]] for side, i in zip(sides, row, strict=True)]
        expected = []
        for i, j in itertools.combinations(range(count), 2):
            for own, other in ((texts[i], texts[j]), (texts[j], texts[i])):
                weights = torch.softmax(part.importance(own), dim=0)
                found = []
                for token in part.projection(own):
                    found.append(max(cosine_similarity(token, seen, dim=0) for seen in part.projection(other)))
                expected += [sum(w * f for w, f in zip(weights[:, k], found, strict=True)) for k in range(3)]
                lacks = [(1 - largest) ** 2 for largest in found]
                expected += [sum(w * f for w, f in zip(weights[:, 3 + k], lacks, strict=True)) for k in range(gaps)]
        torch.testing.assert_close(got, torch.stack(expected), atol=1e-5, rtol=1e-4)  # type: ignore[arg-type]


def test_the_feed_forward_head_equals_one_over_the_concatenation() -> None:
    torch.manual_seed(0)
    student = StudentConfig(kept_tokens=(2, 3), width=8, head="feed_forward", head_layers=2)
    head = make_head(student).eval()
    sides = _sides(student.kept_tokens, 4, 8)
    rows = torch.tensor([[0, 1], [3, 3], [2, 0]])
    joined = torch.cat([sides[j].tokens.flatten(1)[rows[:, j]] for j in (0, 1)], 1)
    weight = torch.cat([layer.weight for layer in head.side_inputs], 1)  # type: ignore[union-attr]
    expected = head.hidden(joined @ weight.T + head.side_inputs[0].bias)  # type: ignore[operator,union-attr,index]
    torch.testing.assert_close(head(sides, rows), expected)


def test_the_lite_head_against_a_loop() -> None:
    torch.manual_seed(0)
    student = StudentConfig(kept_tokens=(2, 3), width=8, head_heads=2, head="lite", head_layers=2)
    head = make_head(student).eval()
    assert isinstance(head, LiteHead)
    sides = _sides(student.kept_tokens, 4, 8)
    rows = torch.tensor([[0, 1], [3, 3], [2, 0]])
    for got, (i, j) in zip(head(sides, rows), rows.tolist(), strict=True):
        left, right = sides[0].tokens[i], sides[1].tokens[j]
        similarities = [
            float(left[a, 4 * part : 4 * part + 4] @ right[b, 4 * part : 4 * part + 4]) / 2
            for part in range(2)
            for a in range(2)
            for b in range(3)
        ]
        first = head.similarity_input(head.similarity_norm(torch.tensor(similarities)))
        first = first + head.side_inputs[0](left[0]) + head.side_inputs[1](right[0])
        torch.testing.assert_close(got, head.hidden(first), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("count", [2, 3])
def test_the_cosine_head_is_the_mean_cosine_of_the_means(count: int) -> None:
    torch.manual_seed(0)
    names = tuple(f"side{j}" for j in range(count))
    student = StudentConfig(
        kept_tokens=(3,) * count, max_lengths=(8,) * count, side_names=names, width=8, head="cosine"
    )
    sides = _sides(student.kept_tokens, 3, 8)
    rows = torch.randint(0, 3, (5, count))
    head = make_head(student)
    assert isinstance(head, CosineHead)
    for got, row in zip(head(sides, rows), rows.tolist(), strict=True):
        means = [side.tokens[i][side.mask[i]].mean(0) for side, i in zip(sides, row, strict=True)]
        cosines = [cosine_similarity(a, b, dim=0) for a, b in itertools.combinations(means, 2)]
        expected = torch.stack([torch.stack(cosines).mean(), torch.tensor(1.0)])
        torch.testing.assert_close(got / head.scale, expected, atol=1e-5, rtol=1e-5)


@settings(deadline=None)
@given(
    lengths=st.lists(st.integers(1, 9), min_size=1, max_size=5),
    kept=st.integers(1, 8),
    strategy=st.sampled_from(["first", "first_pooled", "spaced", "averaged"]),
    padding=st.integers(0, 3),
)
def test_kept_tokens_against_a_loop(lengths: list[int], kept: int, strategy: str, padding: int) -> None:
    longest = max(lengths) + padding
    states = torch.randn(len(lengths), longest, 4)
    mask = torch.arange(longest)[None, :] < torch.tensor(lengths)[:, None]
    chosen, chosen_mask = keep_tokens(states, mask, kept, strategy)  # type: ignore[arg-type]
    assert chosen.shape == (len(lengths), kept, 4) and chosen_mask.shape == (len(lengths), kept)
    for text, length in enumerate(lengths):
        real = states[text, :length]
        if strategy == "first":
            expected = real[:kept]
        elif strategy == "first_pooled":
            expected = torch.cat([real.mean(0, keepdim=True), real[: kept - 1]])
        elif strategy == "averaged":
            runs = min(length - 1, kept - 1)
            of_run = [0, *(-(-i * runs // (length - 1)) for i in range(1, length))]
            expected = torch.stack(
                [real[[i for i in range(length) if of_run[i] == run]].mean(0) for run in range(runs + 1)]
            )
            if kept > 1:
                assert torch.equal(expected[0], real[0])
        else:
            index = range(length) if length <= kept else [i * length // kept for i in range(kept)]
            expected = real[list(index)]
        assert chosen_mask[text].sum() == len(expected)
        torch.testing.assert_close(chosen[text, : len(expected)], expected)
        assert (chosen[text, len(expected) :] == 0).all()
