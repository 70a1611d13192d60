"""No call into the compiled module ends its process, whatever it is given, and right calls after wild ones are right."""

from __future__ import annotations

import numpy as np
import pytest

from distilmatch.engine.kernels.native_module import native_module

from .shared import needs_native
from .wild_calls import count_outcomes

pytestmark = needs_native


def test_wild_calls_are_refused_or_answered() -> None:
    found = count_outcomes(500, seed=7)
    assert found["crashed"] == 0, found["last"]
    assert found["calls"] == 500 == found["refused"] + found["answered"]
    assert found["answered"] > 125, "the calls are so wild that none is looked into"


def _head(labels: int = 1, width: int = 32) -> object:
    rng = np.random.default_rng(0)
    square, wide = (width, width), (64, width)
    shapes = [square, wide, (64,), (width, 64), *[(width,)] * 5, (labels, width), (labels,)]
    arrays = [rng.normal(size=shape).astype(np.float32) for shape in shapes]
    return native_module().TransformerHead("vector", 2, True, False, 1e-5, 1e-5, *arrays)


def _texts(head: object, kept: int = 3, n: int = 4, width: int = 32) -> tuple[object, object]:
    rng = np.random.default_rng(1)
    mask = np.ones((n, kept), bool)
    left = [rng.normal(size=(n, size)).astype(np.float32) for size in (width, 2, 2, width, width)]
    sides = [rng.normal(size=(n, kept, width)).astype(np.float32) for _ in range(2)]
    nothing = [None] * 4  # no similarities
    return head.pack_left(mask, *left, *nothing), head.pack_right(mask, *sides, *nothing)  # type: ignore[attr-defined]


def test_what_is_wrong_is_named() -> None:
    head = _head()
    left, right = _texts(head)
    logits = np.zeros((2, 1), np.float32)
    rows = np.array([[0, 0], [3, 3]])
    head.score(left, right, rows, logits, 1)  # type: ignore[attr-defined]
    assert np.isfinite(logits).all() and logits.any()
    with pytest.raises(ValueError, match="pair 1"):
        head.score(left, right, np.array([[0, 0], [3, 4]]), logits, 1)  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match="logits"):
        head.score(left, right, rows, np.zeros((3, 1), np.float32), 1)  # type: ignore[attr-defined]
    with pytest.raises(TypeError):  # a copy would take the result
        head.score(left, right, rows, np.zeros((2, 1)), 1)  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match="1024 tokens"):
        _texts(head, kept=1025)
    with pytest.raises(ValueError, match="another head"):
        _head(labels=2).score(left, right, rows, np.zeros((2, 2), np.float32), 1)  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match="threads"):
        head.score(left, right, rows, logits, 0)  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match="memory"):
        native_module().TopK(2**40, 2**20)
    with pytest.raises(RuntimeError, match="another call"):
        top = native_module().TopK(4, 2)
        head.top_k(left, right, "logit", 0, [], top, top, 0, 0, 1)  # type: ignore[attr-defined]
    mask = np.array([[True, False], [False, False]])
    with pytest.raises(ValueError, match="text 1 has no real token"):
        head.pack_right(mask, *[np.zeros((2, 2, 32), np.float32)] * 2, *[None] * 4)  # type: ignore[attr-defined]
