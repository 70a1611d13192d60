"""The encoder outputs that stage 1 keeps: those of these texts and this encoder, whole, or made anew."""

from __future__ import annotations

import logging
import random
from pathlib import Path

import numpy as np
import pytest
import torch

from distilmatch.config.pairs import StudentConfig
from distilmatch.config.tables import TaskConfig
from distilmatch.errors import CacheError, ModelError
from distilmatch.models import DiPair
from distilmatch.training.pairs.frozen import KeptOutputs, cache_kept_outputs
from distilmatch.types import TupleTable

TEXTS = ["the red car", "a dog", "a small green house", "two books", "an old lamp", "rain"]


@pytest.fixture
def model(tiny_encoder: Path) -> DiPair:
    shape = StudentConfig(kept_tokens=(3, 3), max_lengths=(8, 8))
    return DiPair.from_encoder(tiny_encoder, shape, TaskConfig(kind="binary")).eval()


def _table(texts: list[str]) -> TupleTable:
    return TupleTable(texts=texts, rows=np.array([[0, 1], [2, 3], [4, 5], [0, 5]]))


def _states(outputs: list[KeptOutputs]) -> torch.Tensor:
    return outputs[0].take(np.arange(6))[0]


def test_damaged_outputs_are_made_anew_and_other_processes_refuse_them(
    model: DiPair, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    table, draw = _table(TEXTS), random.Random(0)
    expected = _states(cache_kept_outputs(model, table, tmp_path / "kept", "fp32"))
    (own,) = (tmp_path / "kept").iterdir()
    for number in range(24):
        file = draw.choice(sorted(own.iterdir()))
        content = bytearray(file.read_bytes())
        if number % 2:
            del content[draw.randrange(len(content)) :]
        else:
            content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
        file.unlink()  # the arrays that are open stay as they are
        file.write_bytes(bytes(content))
        try:
            found = _states(cache_kept_outputs(model, table, tmp_path / "kept", "fp32", write=False))
        except CacheError:
            with caplog.at_level(logging.WARNING):
                found = _states(cache_kept_outputs(model, table, tmp_path / "kept", "fp32"))
            assert "encoded again" in caplog.text
        else:  # such as the number of texts, which nothing is read by
            assert file.name == "complete.json"
        torch.testing.assert_close(found, expected, rtol=0, atol=0)


def test_outputs_of_other_texts_or_another_encoder_are_not_taken(model: DiPair, tmp_path: Path) -> None:
    place = tmp_path / "kept"
    first = _states(cache_kept_outputs(model, _table(TEXTS), place, "fp32"))
    other = _states(cache_kept_outputs(model, _table(TEXTS[::-1]), place, "fp32"))
    torch.testing.assert_close(other, first.flip(0), atol=1e-3, rtol=1e-3)
    with torch.no_grad():
        next(model.encoders[0].parameters())[:, 0].add_(5)
    with pytest.raises(CacheError, match="another encoder"):
        cache_kept_outputs(model, _table(TEXTS[::-1]), place, "fp32", write=False)
    moved = _states(cache_kept_outputs(model, _table(TEXTS[::-1]), place, "fp32"))
    assert (moved - other).abs().max() > 1e-2


def test_outputs_that_fp16_does_not_hold_are_named(model: DiPair, tmp_path: Path) -> None:
    with torch.no_grad():
        model.encoders[0].encoder.layer[-1].output.LayerNorm.weight.fill_(1e6)  # type: ignore[union-attr]
    with pytest.raises(ModelError, match="'the red car' is not finite, or too large for fp16"):
        cache_kept_outputs(model, _table(TEXTS), tmp_path / "kept", "fp32")
    with pytest.raises(CacheError, match="cannot be used"):
        cache_kept_outputs(model, _table(TEXTS), tmp_path / "kept", "fp32", write=False)
