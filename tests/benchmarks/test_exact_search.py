"""The benchmark of bounds: what it reads and what it compares, in small."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from benchmarks.exact_search import compared, read_texts

from distilmatch.config.pairs import StudentConfig
from distilmatch.config.tables import TaskConfig
from distilmatch.engine.kernels.native_module import runs_native
from distilmatch.models import DiPair


@pytest.mark.skipif(not runs_native(), reason="this CPU does not run the kernels")
def test_a_student_with_and_without_bounds(tiny_encoder: Path, tmp_path: Path) -> None:
    place = tmp_path / "texts.jsonl"
    words = ["red", "blue", "house", "car", "boat", "green", "small", "large"]
    texts = [f"a {one} {other} {third}" for one in words for other in words for third in words]
    place.write_text("".join(json.dumps({"text": text}) + "\n" for text in [*texts, texts[0]]))
    assert read_texts(place, "text", 1_000) == texts and read_texts(place, "text", 3) == texts[:3]
    shape = StudentConfig(
        width=32, kept_tokens=(3, 4), max_lengths=(16, 16), head="feed_forward", head_activation="relu"
    )
    model = DiPair.from_encoder(tiny_encoder, shape, TaskConfig(kind="binary")).eval()
    figures = compared(model, [texts[:100], texts], 2)
    assert 0 <= figures["skipped_fraction"] < 1 and figures["speedup"] > 0
    assert figures["pairs_per_s"] == pytest.approx(figures["speedup"] * figures["full_pairs_per_s"])
