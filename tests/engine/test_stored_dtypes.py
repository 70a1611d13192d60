"""The engine reads every stored dtype, and plans with its size."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from distilmatch.config.pairs import StudentConfig
from distilmatch.engine.matches import BestMatches
from distilmatch.engine.scorer import Scorer
from distilmatch.models import DiPair
from distilmatch.planning.planner import Work, plan
from distilmatch.store.codec import STORED_DTYPES, StoredDtype, bytes_per_item, decode_tokens, encode_tokens
from distilmatch.types import TokenRepresentations

from .shared import RATES, stored


@pytest.fixture(scope="module")
def model(tiny_encoder: Path) -> DiPair:
    shape = StudentConfig(width=32, head_heads=2, kept_tokens=(3, 5), max_lengths=(24, 24))
    return DiPair.from_encoder(tiny_encoder, shape).eval()


def _side(texts: int, kept: int) -> TokenRepresentations:
    generator = torch.Generator().manual_seed(kept)
    mask = torch.arange(kept)[None, :] < torch.randint(1, kept + 1, (texts, 1), generator=generator)
    return TokenRepresentations(torch.randn(texts, kept, 32, generator=generator) * mask[..., None], mask)


@pytest.mark.parametrize("dtype", STORED_DTYPES)
def test_a_folder_is_scored_as_its_decoded_texts(model: DiPair, tmp_path: Path, dtype: StoredDtype) -> None:
    sides = [_side(23, 3), _side(31, 5)]
    folders = stored(model, sides, tmp_path, dtype)
    scorer = Scorer(model, kernel="torch")
    rows = np.random.default_rng(0).integers(0, [23, 31], (200, 2))
    decoded = [decode_tokens(encode_tokens(side, dtype)) for side in sides]
    scores = scorer.score(*folders, rows=rows)
    np.testing.assert_allclose(scores, scorer.score(*decoded, rows=rows), atol=1e-5)
    plain = scorer.score(*sides, rows=rows)
    assert np.abs(scores - plain).max() <= 0.05 * plain.std()
    best, again = (scorer.best(*some, top_k=4) for some in (folders, decoded))
    assert isinstance(best, BestMatches) and isinstance(again, BestMatches)
    np.testing.assert_allclose(best.scores, again.scores, atol=1e-5)


def test_a_plan_counts_the_bytes_of_the_dtype(model: DiPair) -> None:
    disk = {dtype: plan(model, Work(left=10, right=7, dtype=dtype), RATES).disk_bytes for dtype in STORED_DTYPES}
    for dtype, size in disk.items():
        fewer = 10 * (bytes_per_item(3, 32, "float32") - bytes_per_item(3, 32, dtype))
        fewer += 7 * (bytes_per_item(5, 32, "float32") - bytes_per_item(5, 32, dtype))
        assert disk["float32"] - size == fewer
    assert disk["int8"] < disk["float16"] == disk["bfloat16"] < disk["float32"]
