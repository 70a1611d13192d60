"""Candidates share the training of their shape, learn from few rows of whole queries, and are graded on dev alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from benchmarks.default_student import CANDIDATES, fewer_rows, shape_of
from tests.helpers import write_jsonl

from benchmarks import default_student, sets
from distilmatch.config.pairs import PairRecipe, StudentConfig
from distilmatch.models import DiPair


def _rows(count: int) -> list[dict[str, object]]:
    return [{"query": f"red {i // 4}", "document": f"blue car {i}", "label": i % 2} for i in range(count)]


@pytest.fixture
def small(tmp_path: Path) -> sets.DataSet:
    (tmp_path / "wikiqa").mkdir()
    for split in ("train", "dev", "test"):
        write_jsonl(tmp_path / "wikiqa" / f"{split}.jsonl", _rows(40))
    return replace(sets.SETS["wikiqa"], max_lengths=(20, 32), splits={split: f"{split}.jsonl" for split in sets.SPLITS})


def test_candidates_share_the_training_of_their_shape() -> None:
    assert shape_of("int8") == shape_of("default") == "default"
    assert shape_of("tokens_8_width_256_relu_int8") == "tokens_8_width_256_relu"
    assert shape_of("paper_head_tokens_8_width_256") == "paper_head_tokens_8_width_256"
    for own in CANDIDATES.values():
        StudentConfig.model_validate(own.student)


def test_few_rows_are_of_whole_queries_and_never_of_test(small: sets.DataSet, tmp_path: Path) -> None:
    one = fewer_rows(small, 16, 8)
    tables = one.tables(tmp_path, tmp_path / "tables")
    train, dev, test = (one.read(tables[split]) for split in sets.SPLITS)
    assert (len(train.pairs), len(dev.pairs), len(test.pairs)) == (16, 8, 0)
    assert np.bincount(train.queries).tolist() == [4] * 4
    assert train.pairs[:4] != [(row["query"], row["document"]) for row in _rows(4)]  # drawn, not the first ones


def test_a_candidate_is_measured_by_its_kernel(small: sets.DataSet, tmp_path: Path, tiny_encoder: Path) -> None:
    comparison = default_student.Comparison(
        one=fewer_rows(small, 16, 8),
        data=tmp_path,
        work=tmp_path / "work",
        teacher=(tmp_path,),
        encoder=str(tiny_encoder),
    )
    recipe = PairRecipe.from_dict(comparison.recipe("student_seed0"))
    model = DiPair.from_encoder(tiny_encoder, recipe.student, recipe.task).eval()
    measured = default_student.measure(model, comparison, "torch")
    assert measured["kernel"] == "torch" and measured["pairs_per_s"] > 0
    assert measured["dev"] == pytest.approx(measured["dev_fp32"])
    found = {"default": {"wikiqa": measured}, "int8": {"wikiqa": {"left_out": "no such kernel"}}}
    metrics = default_student.figures(found)
    assert set(metrics) == {"default_pairs_per_s", "default_wikiqa", "default_wikiqa_fp32"}
