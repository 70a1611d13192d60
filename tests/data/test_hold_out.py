"""A table cut in three: every row in one file, groups whole, the same cut every time."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from tests.helpers import write_jsonl

from distilmatch.data.hold_out import SPLITS, HeldOut, hold_out
from distilmatch.errors import DataError


def _rows(groups: int, each: int, seed: int = 0) -> list[dict[str, Any]]:
    draw = random.Random(seed)
    return [
        {"query": f"query {i}", "title": f"title {i} {j}", "label": draw.randint(0, 1), "n": j}
        for i in range(groups)
        for j in range(each)
    ]


def _read(cut: HeldOut) -> dict[str, list[dict[str, Any]]]:
    return {
        split: [json.loads(line) for line in getattr(cut, split).read_text(encoding="utf-8").splitlines()]
        for split in SPLITS
    }


@pytest.mark.parametrize("share", [0.1, 0.3])
def test_every_row_goes_to_one_file_and_groups_stay_whole(share: float, tmp_path: Path) -> None:
    rows = _rows(400, 4)
    cut = hold_out(rows, tmp_path / "cut", "query", "label", share=share)
    assert cut is not None
    parts = _read(cut)
    key = lambda row: (row["query"], row["title"])  # noqa: E731
    assert sorted((row for part in parts.values() for row in part), key=key) == sorted(rows, key=key)
    queries = {split: {row["query"] for row in part} for split, part in parts.items()}
    assert sum(map(len, queries.values())) == 400
    assert cut.rows == {split: len(part) for split, part in parts.items()}
    for split in ("dev", "test"):
        assert share / 2 < len(queries[split]) / 400 < share * 2
    again = hold_out(rows[::-1], tmp_path / "again", "query", "label", share=share)
    assert again is not None
    assert {split: {row["query"] for row in part} for split, part in _read(again).items()} == queries


def test_rows_without_a_label_are_learnt_from(tmp_path: Path) -> None:
    rows = _rows(400, 4) + [{"query": f"more {i}", "title": "t", "label": None, "n": 0} for i in range(50)]
    cut = hold_out(rows, tmp_path / "cut", "query", "label", share=0.2)
    assert cut is not None
    parts = _read(cut)
    assert all(row["label"] is not None for split in ("dev", "test") for row in parts[split])
    assert sum(row["label"] is None for row in parts["train"]) == 50


@pytest.mark.parametrize("rows", [_rows(40, 2), [row | {"label": 1} for row in _rows(400, 4)]])
def test_too_few_rows_or_one_label_are_not_cut(rows: list[dict[str, Any]], tmp_path: Path) -> None:
    assert hold_out(rows, tmp_path / "cut", "query", "label") is None
    assert list(tmp_path.iterdir()) == []


def test_a_row_that_cannot_be_read_is_named_and_nothing_is_left(tmp_path: Path) -> None:
    table = write_jsonl(tmp_path / "t.jsonl", _rows(400, 4))
    with table.open("a") as file:
        file.write("{broken\n")
    with pytest.raises(DataError, match=r"row 1601: .*--hold-out 0"):
        hold_out(str(table), tmp_path / "cut", "query", "label")
    assert [path.name for path in tmp_path.iterdir()] == ["t.jsonl"]


def test_an_interrupted_cut_is_made_anew(tmp_path: Path) -> None:
    (tmp_path / ".cut.partial").mkdir()
    (tmp_path / ".cut.partial" / "train.jsonl").write_text("old")
    assert hold_out(_rows(400, 4), tmp_path / "cut", "query", "label") is not None
    assert [path.name for path in tmp_path.iterdir()] == ["cut"]


def test_values_that_json_does_not_have(tmp_path: Path) -> None:
    frame = pd.DataFrame(_rows(400, 4)).assign(price=float("nan"), seen=pd.Timestamp("2026-01-02"))
    cut = hold_out(frame, tmp_path / "cut", "query", "label")
    assert cut is not None
    row = _read(cut)["dev"][0]
    assert row["price"] is None and row["seen"].startswith("2026-01-02") and row["label"] in (0, 1)
