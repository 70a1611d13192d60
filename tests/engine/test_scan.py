"""All pairs in blocks: each pair once, in any memory and from any place on; pairs above a threshold as a stream."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from distilmatch.config.tables import TaskConfig
from distilmatch.engine.scan import Blocks, Place
from distilmatch.engine.scorer import Scorer
from distilmatch.errors import ConfigError

from .models import make_model, make_sides

ONE = TaskConfig(kind="binary")
LEFT, RIGHT = 150, 210


@pytest.mark.parametrize("memory", [2_000, 20_000, 60_000, None])
@pytest.mark.parametrize("rows", [range(0, LEFT), range(30, 140), range(149, 150)])
def test_each_pair_once_from_any_place(tiny_encoder: Path, tmp_path: Path, memory: int | None, rows: range) -> None:
    model = make_model(tiny_encoder, "feed_forward", ONE)
    scorer = Scorer(model, kernel="torch", memory_bytes=memory)
    scorer.kernel.pairs_a_call = scorer.kernel.most_pairs_a_call = 3_000
    sides = [
        scorer.load(side, j, folded=(tmp_path / str(j), "mark"))
        for j, side in enumerate(make_sides(model, LEFT, RIGHT))
    ]
    seen = np.zeros((LEFT, RIGHT), dtype=int)

    def keep(lefts: Any, rights: Any, offsets: tuple[int, int]) -> None:
        seen[offsets[0] : offsets[0] + len(lefts), offsets[1] : offsets[1] + len(rights)] += 1

    pairs: list[int] = []
    places = list(scorer.scan(*sides, keep, rows, Place(row=rows.start), pairs.append))
    expected = np.zeros_like(seen)
    expected[rows.start : rows.stop] = 1
    np.testing.assert_array_equal(seen, expected)
    assert sum(pairs) == len(rows) * RIGHT
    assert places[-1] == Place(first=places[-1].first, last=RIGHT, row=rows.stop)
    for i in range(0, len(places), max(1, len(places) // 7)):  # what is done until a place, and what comes after it
        seen[:] = 0
        first = scorer.scan(*sides, keep, rows, Place(row=rows.start))
        for _ in range(i + 1):
            place = next(first)
        list(scorer.scan(*sides, keep, rows, place))
        np.testing.assert_array_equal(seen, expected)


def test_blocks_are_as_large_as_the_memory_has_room_for(tiny_encoder: Path) -> None:
    model = make_model(tiny_encoder, "compared", ONE)
    right = make_sides(model, 1, 2_000)[1]
    columns = []
    for memory in (1_000, 300_000, 1_000_000, 3_000_000, 2**30):
        side = Scorer(model, kernel="torch", memory_bytes=memory).load(right, 1)
        blocks = Blocks.of(side)
        columns.append(blocks.columns)
        if blocks.columns > side.chunk_texts:
            assert blocks.columns * side.kept_bytes <= memory // 2
    assert columns == sorted(columns) and columns[0] == 64 and columns[-1] == 2_000 and len(set(columns)) > 2


def test_pairs_above_a_threshold_come_as_they_are_found(tiny_encoder: Path) -> None:
    model = make_model(tiny_encoder, "compared", ONE)
    sides = make_sides(model, LEFT, RIGHT)
    every = Scorer(model, kernel="torch").above(*sides, threshold=0.0).collect()
    scorer = Scorer(model, kernel="torch", memory_bytes=20_000)
    stream = scorer.above(*sides, threshold=0.0)
    first = next(stream)
    rest = list(stream)
    assert len(rest) > 3 and len(first.rows) < len(every.rows)
    rows = np.concatenate([matches.rows for matches in (first, *rest)])
    order = np.lexsort((rows[:, 1], rows[:, 0]))
    np.testing.assert_array_equal(rows[order], every.rows)
    np.testing.assert_allclose(
        np.concatenate([matches.scores for matches in (first, *rest)])[order], every.scores, atol=2e-6
    )
    assert len(stream.collect().rows) == 0
    assert scorer.above(*sides, threshold=1e6).collect().rows.shape == (0, 2)
    with pytest.raises(ConfigError):  # before anything is scored
        scorer.above(*sides, threshold="high")  # type: ignore[arg-type]
