"""Lexical vectors: words, numbers and codes to the letter, beside the kept tokens."""

from __future__ import annotations

import re
from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from distilmatch.config.pairs import StudentConfig
from distilmatch.config.tables import TaskConfig
from distilmatch.engine.scorer import Scorer
from distilmatch.errors import ModelError
from distilmatch.models import DiPair, lexical, pooled
from distilmatch.models.heads import LEXICAL_SCALE, TransformerHead
from distilmatch.models.lexical import LexicalVectors, lexical_bounds
from distilmatch.types import TokenRepresentations

WIDE = 6000  # collisions are rare
TEXTS = [
    "Nikon D-700 body, 12.1 MP; model MK-1234/b",
    "nikon D700 camera 12.1 mp",
    "a blue lamp",
    "lamp, blue lamp 40 w",
    "",
    "\ud800 half a character 7",
    "٣٤ قدم",
    "- 5 -",
]


def _terms(text: str) -> tuple[list[str], list[str], list[str]]:
    words = re.findall(r"\w+", text.lower())
    runs = re.findall(r"\w+(?:[-./]\w+)*", text.lower())
    numbers = [re.sub(r"[-./_]", "", run) for run in runs if re.search(r"\d", run)]
    codes = [number for number in numbers if len(number) > 3 and re.search(r"[^\W\d]", number)]
    return words, numbers, codes


def _cosine(left: Counter[str], right: Counter[str], found: Counter[str], texts: int) -> float:
    def weight(terms: Counter[str], term: str) -> float:
        return (1 + np.log(terms[term])) * (1 + np.log((1 + texts) / (1 + found[term]))) if term in terms else 0.0

    norms = [sum(weight(terms, term) ** 2 for term in terms) ** 0.5 for terms in (left, right)]
    product = sum(weight(left, term) * weight(right, term) for term in left)
    return float(product / (norms[0] * norms[1])) if min(norms) else 0.0


def test_products_are_the_cosines_of_what_two_texts_share() -> None:
    part = LexicalVectors(WIDE)
    part.count(TEXTS)
    vectors = part.vectors(TEXTS).numpy()
    counted = [[Counter(terms) for terms in _terms(text)] for text in TEXTS]
    for kind, (start, end) in enumerate(pairwise(lexical_bounds(WIDE))):
        found = Counter(term for each in counted for term in set(each[kind]))
        products = vectors[:, start:end] @ vectors[:, start:end].T
        for i, left in enumerate(counted):
            for j, right in enumerate(counted):
                assert products[i, j] == pytest.approx(_cosine(left[kind], right[kind], found, len(TEXTS)), abs=1e-5)
    assert vectors[:, -2].tolist() == [bool(each[1]) for each in counted]
    assert vectors[:, -1].tolist() == [bool(each[2]) for each in counted]


def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    for chunk in (4096, 3):
        monkeypatch.setattr(lexical, "_CHUNK", chunk)
        part = LexicalVectors(384)
        part.count(TEXTS)
        made.append(part.vectors(TEXTS))
    assert torch.equal(*made) and made[0].any()


def test_what_a_code_is() -> None:
    assert _terms(TEXTS[0])[1:] == (["d700", "121", "mk1234b"], ["d700", "mk1234b"])
    part = LexicalVectors(WIDE)
    vectors = part.vectors(["MK-1234/b", "mk1234b", "mk1234c", "12", "mk"]).numpy()
    start, end = lexical_bounds(WIDE)[2:4]
    codes = vectors[:, start:end]
    np.testing.assert_allclose(codes[0], codes[1])
    assert codes[0] @ codes[2] == 0 and not codes[3:].any()


@pytest.mark.parametrize("width", [16, 17, 32, 384])
def test_parts_fill_the_vector(width: int) -> None:
    bounds = lexical_bounds(width)
    assert bounds[0] == 0 and bounds[-1] == width - 2 and min(b - a for a, b in pairwise(bounds)) >= 4
    assert LexicalVectors(width).vectors(["a1b2 c"]).shape == (1, width)


def test_rare_terms_count_more() -> None:
    part = LexicalVectors(WIDE)
    part.count(["lamp blue", "lamp red", "lamp green", "lamp x9"])
    lamp, nine = part.vectors(["lamp x9", "lamp"]) @ part.vectors(["lamp", "x9"]).T[:, :]
    assert lamp[0] < lamp[1]
    assert nine[1] == 0


def _student(encoder: Path, **shape: object) -> DiPair:
    torch.manual_seed(0)
    settings = {"width": 32, "head_heads": 2, "kept_tokens": (3, 5), "max_lengths": (24, 24), "lexical": True}
    model = DiPair.from_encoder(encoder, StudentConfig(**settings | shape), TaskConfig(kind="binary")).eval()
    model.count_terms(TEXTS)
    return model


def test_vectors_are_kept_behind_the_tokens(tiny_encoder: Path) -> None:
    model = _student(tiny_encoder)
    texts = model.encode(TEXTS[:4], "right")
    assert texts.tokens.shape == (4, 6, 32) and texts.mask[:, -1].all()
    expected = LexicalVectors(32)
    expected.count(TEXTS)
    np.testing.assert_allclose(texts.tokens[:, -1], expected.vectors(TEXTS[:4]), atol=1e-6)
    plain = _student(tiny_encoder, lexical=False).encode(TEXTS[:4], "right")
    assert plain.tokens.shape == (4, 5, 32)


def test_a_head_adds_the_weighted_parts(tiny_encoder: Path) -> None:
    model = _student(tiny_encoder)
    head = model.head
    assert isinstance(head, TransformerHead) and head.lexical is not None
    torch.nn.init.normal_(model.classifier.weight, std=0.3)
    pairs = [(left, right) for left in TEXTS[:4] for right in TEXTS[:4]]
    with_parts = model.logits(pairs, show_progress_bar=False)[:, 0]
    weights = model.classifier.weight[0, -head.lexical.features :].detach().numpy().copy()
    with torch.no_grad():
        model.classifier.weight[:, -head.lexical.features :] = 0
    without = model.logits(pairs, show_progress_bar=False)[:, 0]
    part = LexicalVectors(32)
    part.count(TEXTS)
    bounds = (*lexical_bounds(32), 31, 32)
    for (left, right), score, rest in zip(pairs, with_parts, without, strict=True):
        a, b = part.vectors([left])[0].numpy(), part.vectors([right])[0].numpy()
        parts = np.array([a[start:end] @ b[start:end] for start, end in pairwise(bounds)])
        assert score - rest == pytest.approx(float(LEXICAL_SCALE * parts @ weights), abs=1e-4)


def test_first_weights_of_a_score(tiny_encoder: Path) -> None:
    model = _student(tiny_encoder)
    assert model.classifier.weight[0, -5:].tolist() == [0.125, 0.125, 0.125, 0, 0]
    assert not model.classifier.weight[0, :32].any()


def test_what_losses_see_are_the_tokens(tiny_encoder: Path) -> None:
    model = _student(tiny_encoder)
    kept = [model.encode_kept(TEXTS[:4], side) for side in (0, 1)]
    assert kept[1][0].shape[1] == 6
    output = model(rows=torch.tensor([[0, 1], [2, 3]]), kept=kept)
    assert [side.tokens.shape for side in output.sides] == [(4, 3, 32), (4, 5, 32)]


def test_saved_and_loaded(tiny_encoder: Path, tmp_path: Path) -> None:
    model = _student(tiny_encoder)
    model.save_pretrained(tmp_path)
    loaded = DiPair.from_pretrained(tmp_path)
    pairs = [(TEXTS[0], TEXTS[1]), (TEXTS[2], TEXTS[3])]
    np.testing.assert_array_equal(
        model.logits(pairs, show_progress_bar=False), loaded.logits(pairs, show_progress_bar=False)
    )
    assert model.representation_fingerprint(0) == loaded.representation_fingerprint(0)
    loaded.count_terms(["another text"])
    assert model.representation_fingerprint(0) != loaded.representation_fingerprint(0)
    with pytest.raises(ModelError, match="was given representations of a model"):
        loaded.score(model.encode(TEXTS[:1], 0), model.encode(TEXTS[:1], 1))


def test_half_precision_leaves_the_counts(tiny_encoder: Path) -> None:
    model = _student(tiny_encoder)
    before = model.encode(TEXTS[:4]).tokens[:, -1]
    torch.testing.assert_close(model.bfloat16().encode(TEXTS[:4]).tokens[:, -1], before, atol=0.01, rtol=0.01)


def test_one_side_of_other_encoders(tiny_encoder: Path) -> None:
    model = _student(tiny_encoder, shared_encoder=False)
    sides = [model.encode(TEXTS[:4], side).tokens[:, -1] for side in (0, 1)]
    torch.testing.assert_close(*sides)


def test_refused(tiny_encoder: Path) -> None:
    with pytest.raises(ValueError, match="`lexical` needs a transformer or a feed_forward head"):
        StudentConfig(head="cosine", lexical=True)
    with pytest.raises(ValueError, match="`lexical` needs a `width` of 16 or more, it is 8"):
        StudentConfig(width=8, lexical=True)
    with pytest.raises(ModelError, match="a lexical vector of width 64 does not fit beside outputs of width 32"):
        _student(tiny_encoder, width=64)
    model = _student(tiny_encoder)
    batch = {"input_ids": torch.tensor([[2, 3]]), "attention_mask": torch.ones(1, 2, dtype=torch.long)}
    with pytest.raises(ModelError, match="texts.*0"):
        model.count_terms([3])  # type: ignore[list-item]
    with pytest.raises(ModelError, match="a batch of a lexical student needs `lexical`"):
        model.kept_side(batch, 0)


def test_searches_pool_the_tokens_alone(tiny_encoder: Path) -> None:
    model = _student(tiny_encoder)
    plain = _student(tiny_encoder, lexical=False)
    shapes = {name: tensor.shape for name, tensor in plain.state_dict().items()}
    same = {name: tensor for name, tensor in model.state_dict().items() if shapes.get(name) == tensor.shape}
    plain.load_state_dict(same, strict=False)
    vectors = [pooled.pooled_vectors(each, each.encode(TEXTS[:4])) for each in (model, plain)]
    np.testing.assert_allclose(*vectors, atol=1e-6)


def test_text_of_three_sides(tiny_encoder: Path) -> None:
    model = _student(
        tiny_encoder, side_names=("a", "b", "c"), kept_tokens=(3, 4, 5), max_lengths=(24, 24, 24), head_layers=2
    )
    torch.nn.init.normal_(model.classifier.weight, std=0.3)
    rows = np.array([[0, 1, 2], [3, 2, 1], [1, 1, 0]])
    sides: list[TokenRepresentations] = [model.encode(TEXTS[:4], side) for side in range(3)]
    expected = model.score(*sides, rows=rows, show_progress_bar=False)
    np.testing.assert_allclose(Scorer(model, kernel="torch").score(*sides, rows=rows), expected, rtol=1e-4, atol=1e-4)
