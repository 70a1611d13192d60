"""Numbers that are not finite are refused and named, by every kernel alike; no text is missing from the best for them."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from distilmatch.config.tables import TaskConfig
from distilmatch.engine.kernels.native_module import native_module
from distilmatch.engine.matches import BestMatches
from distilmatch.engine.scorer import Scorer
from distilmatch.errors import CacheError, ConfigError, ModelError
from distilmatch.store.codec import StoredTokens, encode_tokens
from distilmatch.types import TokenRepresentations

from .models import kernels_for, make_model, make_sides
from .shared import needs_native, stored

ONE, THREE = TaskConfig(kind="binary"), TaskConfig(kind="classification", classes=("no", "maybe", "yes"))
HEADS = ("transformer", "compared", "pre_norm", "feed_forward", "lite", "cosine", "two_layers")


def _every_way(scorer: Scorer, left: Any, right: Any) -> dict[str, Any]:
    some = np.stack([np.arange(12) % len(left), np.arange(12) % len(right)], 1)
    return {
        "score": lambda: scorer.score(left, right, rows=some),
        "top_k": lambda: scorer.best(left, right, top_k=2),
        "reverse": lambda: scorer.best_of_both(left, right, top_k=2, reverse_top_k=2),
        "threshold": lambda: scorer.above(left, right, threshold=0.0).collect(),
        "rank": lambda: scorer.rank(left, right, top_k=2),
        "candidates": lambda: scorer.candidates(left, right, top_k=2, num_candidates=len(right), index="flat"),
        "index_of": lambda: scorer.index_of(right, "flat"),
    }


def _spoil(tokens: torch.Tensor, mask: torch.Tensor, spoiled: Any) -> None:
    # The text in row 7.
    if spoiled == "mask":
        mask[7], tokens[7] = False, 0
    else:
        tokens[7, 0, 3] = spoiled


def _crafted(
    sides: list[TokenRepresentations], model: Any, folder: Path, spoiled: Any, monkeypatch: pytest.MonkeyPatch
) -> list[Any]:
    """Folders whose right one is spoiled after the writer's own checks, so that every checksum fits."""

    def encode(*arguments: Any, **settings: Any) -> StoredTokens:
        arrays = encode_tokens(*arguments, **settings)
        if len(arrays) == len(sides[1]):
            _spoil(arrays.tokens, arrays.mask, spoiled)
        return arrays

    with monkeypatch.context() as patch:
        patch.setattr("distilmatch.store.writer.encode_tokens", encode)
        return stored(model, sides, folder)


# Texts are refused before a kernel sees them: one spoiled number for every kernel, each for one kernel.
_SPOILED = [
    *(pytest.param(*case.values, float("nan"), "memory", marks=case.marks, id=case.id) for case in kernels_for(*HEADS)),
    *(
        ("transformer", "torch", spoiled, kept)
        for spoiled in (float("nan"), float("inf"), -float("inf"), 3e38, -1e16, "mask")
        for kept in ("memory", "folder")
    ),
]


@pytest.mark.parametrize(("head", "kernel", "spoiled", "kept"), _SPOILED)
def test_a_spoiled_text_is_named(
    tiny_encoder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    head: str,
    kernel: Any,
    spoiled: Any,
    kept: str,
) -> None:
    model = make_model(tiny_encoder, head, ONE)
    left, right = make_sides(model, 5, 9)
    sides: list[Any] = [left, right]
    if kept == "folder":
        sides = _crafted(sides, model, tmp_path, spoiled, monkeypatch)
    else:
        _spoil(right.tokens, right.mask, spoiled)
    scorer = Scorer(model, kernel=kernel, threads=2)
    told = (
        "row 7(:| has) .*no real token|row 7: a representation without a token|row 7 holds numbers that are not finite"
    )
    for name, work in _every_way(scorer, *sides).items():
        with pytest.raises((ModelError, CacheError), match=told):
            work()
            pytest.fail(name)
    whole = scorer.load(sides[1], 1).part(0, 7)  # the others are scored
    assert isinstance(scorer.best(sides[0], whole, top_k=2), BestMatches)


@pytest.mark.parametrize(("head", "kernel"), kernels_for(*HEADS))
@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_a_head_s_weight_that_is_no_number_is_named(tiny_encoder: Path, head: str, kernel: Any, number: float) -> None:
    for place in ("classifier.bias", "classifier.weight", "head"):
        model = make_model(tiny_encoder, head, ONE)
        named = dict(model.named_parameters())
        inside = [name for name in named if name.startswith("head.")]
        name = place if place in named else inside[-1] if inside else "classifier.weight"
        with torch.no_grad():
            named[name].view(-1)[-1] = number
        with pytest.raises(ModelError, match=re.escape(name)):
            Scorer(model, kernel=kernel)


@pytest.mark.parametrize(("head", "kernel"), kernels_for("transformer", "feed_forward", "cosine", "lite", "two_layers"))
def test_logits_that_overflow_are_refused(tiny_encoder: Path, head: str, kernel: Any) -> None:
    # Finite weights whose products are not.
    model = make_model(tiny_encoder, head, ONE)
    with torch.no_grad():
        model.classifier.weight.fill_(3e38)
        if head == "cosine":
            model.classifier.bias.fill_(3e38) if model.classifier.bias is not None else None
    left, right = make_sides(model, 4, 6)
    if kernel.startswith("native"):
        with pytest.raises(ConfigError, match=r"classifier\.weight"):
            Scorer(model, kernel=kernel)
        assert not Scorer(model).kernel.name.startswith("native")
        return
    scorer = Scorer(model, kernel=kernel)
    logits = model.classifier(torch.zeros(1, model.classifier.in_features))
    assert torch.isfinite(logits).all()  # the weights alone are numbers
    refused = 0
    for name, work in _every_way(scorer, left, right).items():
        if name == "index_of":
            continue
        try:
            found = work()
        except ModelError as error:
            assert "row" in str(error)
            refused += 1
        else:  # the sums of a cosine head may stay within fp32
            assert np.isfinite(found.scores if hasattr(found, "scores") else np.asarray(found, dtype=object)[0]).all()
    assert refused == 6 or head == "cosine"


@needs_native
@pytest.mark.parametrize("labels", [1, 3])
@pytest.mark.parametrize("threads", [1, 3])
def test_the_compiled_kernel_names_the_first_pair_without_a_score(labels: int, threads: int) -> None:
    head = native_module().FeedForwardHead(False, np.ones((labels, 16), np.float32), np.zeros(labels, np.float32))
    left, right = np.zeros((40, 16), np.float32), np.zeros((70, 16), np.float32)
    right[33] = 3e38  # one alone is finite, the sum of 16 is not
    right[50] = np.nan
    for name in ("top_k", "reverse", "above"):
        with pytest.raises(FloatingPointError) as caught:
            if name == "above":
                head.above(left, right, "logit", 0, [], 0.0, 100, 1000, threads)
            else:
                tops = native_module().TopK(140, 2), native_module().TopK(1070, 2) if name == "reverse" else None
                head.top_k(left, right, "logit", 0, [], *tops, 100, 1000, threads)
        # ReLU of NaN is 0, so that the 33rd is the only one.
        assert caught.value.args == (100, 1033), name


def test_representations_of_a_head_that_makes_too_large_numbers(tiny_encoder: Path) -> None:
    model = make_model(tiny_encoder, "transformer", ONE)
    left, right = make_sides(model, 4, 6)
    with torch.no_grad():
        for name, parameter in model.head.named_parameters():
            if "key_value" in name and parameter.ndim > 1:
                parameter.mul_(1e5)
    large = TokenRepresentations(right.tokens.clone(), right.mask)
    large.tokens[4] *= 1e14
    for kernel in ("torch", "auto"):
        with pytest.raises(ModelError, match="row 4"):
            Scorer(model, kernel=kernel).best(left, large, top_k=1)  # type: ignore[arg-type]


@pytest.mark.parametrize(("head", "kernel"), kernels_for("transformer", "feed_forward", "cosine"))
def test_sides_that_are_given_as_each_other_are_refused(tiny_encoder: Path, head: str, kernel: Any) -> None:
    model, other = (make_model(tiny_encoder, head, ONE, seed=seed, kept_tokens=(4, 4)) for seed in (1, 2))
    with torch.no_grad():
        for parameter in [*other.encoders.parameters(), *other.head_inputs.parameters()]:
            parameter.add_(0.01)
    texts = ["red shoe", "blue lamp", "old chair"]
    left, right = (model.encode(texts, side) for side in (0, 1))
    scorer = Scorer(model, kernel=kernel)
    expected = scorer.score(left, right, rows=np.array([[0, 1]]))
    for name, work in _every_way(scorer, right, left).items():
        with pytest.raises(ModelError, match=r"side 0|side 1"):
            work()
            pytest.fail(name)
    strange = other.encode(texts, 1)
    assert strange.model != right.model
    for name, work in _every_way(scorer, left, strange).items():
        with pytest.raises(ModelError, match="encode the texts again with this model"):
            work()
            pytest.fail(name)
    loaded = scorer.load(right, 1)
    with pytest.raises(ModelError, match="loaded as side 1"):
        scorer.load(loaded, 0)
    with pytest.raises(ModelError, match="another scorer"):
        Scorer(model, kernel=kernel).load(loaded, 1)
    with pytest.raises(ModelError, match="give what encode"):
        scorer.score(left, right.tokens, rows=np.array([[0, 1]]))  # type: ignore[arg-type]
    unsaid = [replace(side, side=None, model=None) for side in (left, right)]
    np.testing.assert_array_equal(scorer.score(*unsaid, rows=np.array([[0, 1]])), expected)
