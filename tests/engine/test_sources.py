"""Representations from anywhere come through one door: memory, a folder, some rows of either, or a source of one's own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from distilmatch.config.tables import TaskConfig
from distilmatch.engine.scorer import Scorer
from distilmatch.engine.sources import FolderRows, MemoryRows, RowSource, Subset, row_source
from distilmatch.errors import DataError, ModelError
from distilmatch.models import DiPair
from distilmatch.types import TokenRepresentations

from .models import make_model, make_sides
from .shared import stored

ONE = TaskConfig(kind="binary")


class Joined:
    """Two sources, one after the other, as several segments of a store would be."""

    def __init__(self, first: RowSource, second: RowSource) -> None:
        self.sources = first, second

    def __len__(self) -> int:
        return sum(map(len, self.sources))

    def read(self, rows: np.ndarray) -> TokenRepresentations:
        first = len(self.sources[0])
        texts = [
            self.sources[0 if row < first else 1].read(np.array([row if row < first else row - first])) for row in rows
        ]
        return TokenRepresentations(
            torch.cat([text.tokens for text in texts]), torch.cat([text.mask for text in texts])
        )

    def check(self, model: DiPair, side: int, wanted: Callable[[], str]) -> None:
        for source in self.sources:
            source.check(model, side, wanted)

    def shown(self, side_name: str) -> str:
        return f"both segments of {side_name}"

    def numbers(self, rows: np.ndarray) -> np.ndarray:
        return rows


@pytest.mark.parametrize("memory_bytes", [None, 40_000])
@pytest.mark.parametrize("kept", ["memory", "folder"])
def test_any_source_is_scored_as_the_rows_it_gives(
    tiny_encoder: Path, tmp_path: Path, kept: str, memory_bytes: int | None
) -> None:
    model = make_model(tiny_encoder, "compared", ONE)
    sides = make_sides(model, 30, 500)
    if kept == "folder":
        sources = [FolderRows(folder) for folder in stored(model, sides, tmp_path)]
    else:
        sources = [MemoryRows(side) for side in sides]  # type: ignore[misc]
    scorer = Scorer(model, kernel="torch", memory_bytes=memory_bytes)
    chosen = np.random.default_rng(0).permutation(500)[:320]
    subset = Subset(sources[1], chosen)
    joined = Joined(Subset(sources[1], chosen[:100]), Subset(subset, range(100, 320)))
    expected = scorer.best(sides[0], sides[1][torch.from_numpy(chosen)], 5)
    rows = np.stack([np.arange(60) % 30, np.arange(60) * 5], 1)
    logits = scorer.score(sides[0], sides[1][torch.from_numpy(chosen)], rows=rows)
    for source in (subset, joined):
        best = scorer.best(sources[0], source, 5)
        np.testing.assert_array_equal(best.rows, expected.rows)
        np.testing.assert_allclose(best.scores, expected.scores, atol=1e-5)
        np.testing.assert_allclose(scorer.score(sources[0], source, rows=rows), logits, atol=1e-5)


def test_a_spoiled_row_of_a_subset_is_named_by_its_number_in_the_whole(tiny_encoder: Path) -> None:
    model = make_model(tiny_encoder, "compared", ONE)
    left, right = make_sides(model, 3, 20)
    right.tokens[17, 0, 0] = float("nan")
    subset = Subset(MemoryRows(right), np.array([3, 17, 5]))
    with pytest.raises(ModelError, match="row 17 holds numbers that are not finite"):
        Scorer(model, kernel="torch").best(left, subset, 1)
    Scorer(model, kernel="torch").best(left, Subset(subset, np.array([0, 2])), 1)


def test_a_subset_of_another_side_or_of_rows_that_are_not_there_is_refused(tiny_encoder: Path) -> None:
    model = make_model(tiny_encoder, "compared", ONE)
    left, right = make_sides(model, 3, 5)
    scorer = Scorer(model, kernel="torch")
    with pytest.raises(ModelError, match="side"):
        scorer.best(left, Subset(MemoryRows(TokenRepresentations(right.tokens, right.mask, side=0)), range(2)), 1)
    for rows in ([0, 5], [-1]):
        with pytest.raises(DataError, match="rows 0 to 4"):
            Subset(MemoryRows(right), np.array(rows))
    with pytest.raises(DataError, match="is empty"):
        scorer.best(left, Subset(MemoryRows(right), range(0)), 1)
    with pytest.raises(ModelError, match="is a list: give what encode"):
        row_source([1, 2], "right")  # type: ignore[arg-type]
