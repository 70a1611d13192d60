"""Folded heads against the plain ones that they come from."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from distilmatch.config.pairs import StudentConfig
from distilmatch.engine.heads.kinds import fold_head
from distilmatch.models.heads import make_head
from distilmatch.types import TokenRepresentations


def random_sides(kept: tuple[int, ...], texts: int, width: int) -> list[TokenRepresentations]:
    """Representations of texts of random lengths."""
    sides = []
    for tokens in kept:
        mask = torch.arange(tokens)[None, :] < torch.randint(1, tokens + 1, (texts,))[:, None]
        sides.append(TokenRepresentations(torch.randn(texts, tokens, width) * mask[:, :, None], mask))
    return sides


def random_head(student: StudentConfig, labels: int) -> tuple[nn.Module, nn.Linear]:
    """A head and a classifier, norms and biases included in what is random."""
    head = make_head(student).eval()
    classifier = nn.Linear(head.features, labels)
    for name, parameter in [*head.named_parameters(), *classifier.named_parameters()]:
        if "norm" in name and name.endswith("weight"):
            nn.init.uniform_(parameter, 0.5, 1.5)
        elif parameter.dim() == 1:
            nn.init.normal_(parameter, std=0.3)
    return head, classifier


@settings(deadline=None, max_examples=150)
@given(
    seed=st.integers(0, 10_000),
    kind=st.sampled_from(["transformer", "feed_forward", "lite", "cosine"]),
    kept=st.lists(st.integers(1, 6), min_size=2, max_size=4),
    layers=st.integers(1, 4),
    norm=st.sampled_from(["post", "pre"]),
    activation=st.sampled_from(["gelu", "relu"]),
    strategy=st.sampled_from(["first", "first_pooled"]),
    similarities=st.sampled_from([0, 4]),
    weightings=st.sampled_from([0, 3]),
    gaps=st.sampled_from([0, 2]),
    labels=st.integers(1, 3),
    tuples=st.integers(1, 20),
)
def test_folded_scores_equal_plain_ones(
    seed: int,
    kind: str,
    kept: list[int],
    layers: int,
    norm: str,
    activation: str,
    strategy: str,
    similarities: int,
    weightings: int,
    gaps: int,
    labels: int,
    tuples: int,
) -> None:
    torch.manual_seed(seed)
    if kind == "lite":
        kept = kept[:2]
    compared = {"head_similarities": similarities, "head_maxsim": weightings, "head_gaps": gaps if weightings else 0}
    if kind != "transformer":
        compared = {"head_similarities": similarities} if kind == "feed_forward" else {}
    student = StudentConfig(
        head=kind,  # type: ignore[arg-type]
        kept_tokens=tuple(kept),
        max_lengths=(8,) * len(kept),
        side_names=tuple(f"side{j}" for j in range(len(kept))),
        kept_strategy=strategy,  # type: ignore[arg-type]
        width=16,
        head_heads=4,
        head_layers=layers,
        head_norm=norm,  # type: ignore[arg-type]
        head_activation=activation,  # type: ignore[arg-type]
        **compared,  # type: ignore[arg-type]
    )
    head, classifier = random_head(student, labels)
    sides = random_sides(tuple(kept), 5, 16)
    rows = torch.randint(0, 5, (tuples, len(kept)))
    folded = fold_head(head, classifier)
    got = folded.score([folded.fold(side, j) for j, side in enumerate(sides)], rows)
    with torch.no_grad():
        expected = classifier(head(sides, rows))
    assert got.shape == (tuples, labels)
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5 * max(1.0, float(expected.abs().max())))


def test_a_head_of_another_kind_is_named() -> None:
    with pytest.raises(TypeError, match="Linear"):
        fold_head(nn.Linear(2, 2), nn.Linear(2, 1))
