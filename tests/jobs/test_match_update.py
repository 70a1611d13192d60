"""A match that goes on from an earlier one gives what a match of everything gives; stores change at random in between."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from distilmatch.engine.scorer import Scorer
from distilmatch.errors import CacheError, ConfigError
from distilmatch.jobs.encode import encode_table
from distilmatch.jobs.match import match_folders
from distilmatch.jobs.matching.update import UpdatedMatch
from distilmatch.jobs.store import add_to_store, create_store
from distilmatch.models.dipair import DiPair
from distilmatch.store.versions import Store

from .conftest import make_matcher, make_student


@pytest.fixture(scope="module")
def student(tiny_encoder: Path) -> DiPair:
    return make_matcher(tiny_encoder)


def store_of(student: DiPair, place: Path, side: str) -> Store:
    return create_store(student, place, side=side, shard_rows=7)


def add(student: DiPair, store: Store, ids: list[str], random: np.random.Generator, change: Any = "append") -> None:
    rows = [{"id": id, "text": f"thing {'very ' * int(random.integers(0, 3))}{random.integers(0, 40)}"} for id in ids]
    add_to_store(student, store, rows, id_column="id", text_column="text", change=change, show_progress_bar=False)


def change(student: DiPair, store: Store, random: np.random.Generator, step: int) -> None:
    """Some items come, some change, some go, or none."""
    there = store.version().item_table.ids.to_pylist()
    if random.random() < 0.7:
        add(student, store, [f"{step}-{number}" for number in range(int(random.integers(1, 6)))], random)
    if random.random() < 0.5:
        add(student, store, random.choice(there, 2, replace=False).tolist(), random, "upsert")
    if random.random() < 0.5:
        store.delete(random.choice(there, 3, replace=False).tolist())


def rows(path: Path) -> tuple[list[tuple[int, int]], np.ndarray]:
    table = pq.read_table(path)
    names = [(row, rank) for row, rank in zip(table["query_row"].to_pylist(), table["rank"].to_pylist(), strict=True)]
    return names, np.array(table["logit"].to_pylist())


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("rows_a_part", [None, 4])
def test_an_update_is_a_match_of_everything(
    student: DiPair, tmp_path: Path, seed: int, rows_a_part: int | None
) -> None:
    random = np.random.default_rng(seed)
    stores = [store_of(student, tmp_path / side, side) for side in ("query", "document")]
    for store in stores:
        add(student, store, [f"0-{number}" for number in range(20)], random)
    scorer = Scorer(student, kernel="torch")
    asked: dict[str, Any] = {"top_k": 4}
    last = tmp_path / "0.parquet"
    match_folders(scorer, *(store.version() for store in stores), last, **asked)
    for step in range(1, 5):
        for store in stores:
            change(student, store, random, step)
        versions = [store.version() for store in stores]
        updated, everything = tmp_path / f"{step}.parquet", tmp_path / f"{step}-all.parquet"
        report = match_folders(scorer, *versions, updated, previous=last, rows_a_part=rows_a_part, **asked)
        whole = match_folders(scorer, *versions, everything, **asked)
        (names, logits), (expected_names, expected) = rows(updated), rows(everything)
        assert names == expected_names
        assert np.allclose(logits, expected, atol=1e-4)
        pairs = {(row["query_row"], row["document_row"]): row["logit"] for row in pq.read_table(updated).to_pylist()}
        scores = scorer.best(versions[0], versions[1], len(versions[1]))
        for (left, right), logit in pairs.items():  # each pair has the score that it has
            text = versions[0].item_table.texts[np.searchsorted(versions[0].item_table.rows, left)]
            other = versions[1].item_table.texts[np.searchsorted(versions[1].item_table.rows, right)]
            place = int(np.flatnonzero(scores.rows[text] == other)[0])
            assert abs(scores.ranked[text, place] - logit) < 1e-4
        assert report.rows == whole.rows
        if rows_a_part is None:  # in small parts a text of several items is scored in each
            assert report.pairs < 1.5 * whole.pairs
        last = updated


def test_only_what_is_new_is_scored(student: DiPair, tmp_path: Path) -> None:
    stores = [store_of(student, tmp_path / side, side) for side in ("query", "document")]
    for store in stores:
        rows_of = [{"id": f"i{number}", "text": f"thing {number}"} for number in range(30)]
        add_to_store(student, store, rows_of, id_column="id", text_column="text", show_progress_bar=False)
    scorer = Scorer(student)
    first, second, third = (tmp_path / f"{number}.parquet" for number in range(3))
    assert match_folders(scorer, *(store.version() for store in stores), first, top_k=3).pairs == 900
    new = [{"id": "n", "text": "another one"}]
    add_to_store(student, stores[1], new, id_column="id", text_column="text", show_progress_bar=False)
    report = match_folders(scorer, *(store.version() for store in stores), second, top_k=3, previous=first)
    assert report.pairs == 30
    add_to_store(student, stores[0], new, id_column="id", text_column="text", show_progress_bar=False)
    report = match_folders(scorer, *(store.version() for store in stores), third, top_k=3, previous=second)
    assert report.pairs == 31
    nothing = match_folders(
        scorer, *(store.version() for store in stores), tmp_path / "same.parquet", top_k=3, previous=third
    )
    assert nothing.pairs == 0 and pq.read_table(tmp_path / "same.parquet").equals(pq.read_table(third))


def test_a_stopped_update_goes_on(student: DiPair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(3)
    stores = [store_of(student, tmp_path / side, side) for side in ("query", "document")]
    for store in stores:
        add(student, store, [f"0-{number}" for number in range(20)], random)
    scorer = Scorer(student)
    first = tmp_path / "first.parquet"
    match_folders(scorer, *(store.version() for store in stores), first, top_k=2)
    for store in stores:
        change(student, store, np.random.default_rng(1), 1)
    versions = [store.version() for store in stores]
    asked: dict[str, Any] = {"top_k": 2, "previous": first, "rows_a_part": 3}
    match_folders(scorer, *versions, tmp_path / "whole.parquet", **asked)
    calls = iter(range(1000))
    kept = UpdatedMatch._kept

    def stopped(self: UpdatedMatch, start: int, stop: int) -> Any:
        if next(calls) == 4:
            raise KeyboardInterrupt
        return kept(self, start, stop)

    monkeypatch.setattr(UpdatedMatch, "_kept", stopped)
    with pytest.raises(KeyboardInterrupt):
        match_folders(scorer, *versions, tmp_path / "stopped.parquet", **asked)
    match_folders(scorer, *versions, tmp_path / "stopped.parquet", **asked)
    assert pq.read_table(tmp_path / "stopped.parquet").equals(pq.read_table(tmp_path / "whole.parquet"))


def test_what_cannot_be_gone_on_from(student: DiPair, tiny_encoder: Path, tmp_path: Path) -> None:
    random = np.random.default_rng(4)
    stores = [store_of(student, tmp_path / side, side) for side in ("query", "document")]
    for store in stores:
        add(student, store, [f"0-{number}" for number in range(12)], random)
    versions = [store.version() for store in stores]
    scorer, first, output = Scorer(student, kernel="torch"), tmp_path / "first.parquet", tmp_path / "out.parquet"
    match_folders(scorer, *versions, first, top_k=2)
    folder = encode_table(
        student, [{"text": "a"}, {"text": "b"}], tmp_path / "folder", side="query", text_column="text"
    )
    other = make_student(Path(tiny_encoder), seed=3)
    things = [{"text": f"thing {number}"} for number in range(4)]
    strange = [
        encode_table(other, things, tmp_path / f"other-{side}", side=side, text_column="text")
        for side in ("query", "document")
    ]
    pq.write_table(pq.read_table(first).replace_schema_metadata({}), tmp_path / "plain.parquet")
    match_folders(scorer, *versions, tmp_path / "first.csv", top_k=2)
    cases: list[tuple[str, Scorer, list[Any], dict[str, Any]]] = [
        ("was asked something else", scorer, versions, {"top_k": 3, "previous": first}),
        ("does not say what was matched", scorer, versions, {"top_k": 2, "previous": tmp_path / "plain.parquet"}),
        ("cannot read", scorer, versions, {"top_k": 2, "previous": tmp_path / "first.csv"}),
        ("cannot read", scorer, versions, {"top_k": 2, "previous": tmp_path / "nothing.parquet"}),
        ("is of another student", Scorer(other, kernel="torch"), strange, {"top_k": 2, "previous": first}),
        ("another left side", scorer, [folder, versions[1]], {"top_k": 2, "previous": first}),
        ("for the best of each item alone", scorer, versions, {"threshold": 0.5, "previous": first}),
        ("for the best of each item alone", scorer, versions, {"top_k": 2, "num_candidates": 5, "previous": first}),
    ]
    for message, one, sides, asked in cases:
        with pytest.raises(ConfigError, match=message):
            match_folders(one, *sides, output, **asked)
    add(student, stores[0], ["late"], random)
    late = tmp_path / "late.parquet"
    match_folders(scorer, stores[0].version(), versions[1], late, top_k=2)
    with pytest.raises(ConfigError, match="another left side"):
        match_folders(scorer, *versions, output, top_k=2, previous=late)  # an older version
    assert not output.exists()
    with pytest.raises(CacheError, match="is being written|exists|something else"):
        match_folders(scorer, *versions, first, top_k=1)


def test_a_dry_run_of_an_update(student: DiPair, tmp_path: Path) -> None:
    random = np.random.default_rng(5)
    stores = [store_of(student, tmp_path / side, side) for side in ("query", "document")]
    for store in stores:
        add(student, store, [f"0-{number}" for number in range(12)], random)
    scorer, first = Scorer(student), tmp_path / "first.parquet"
    match_folders(scorer, *(store.version() for store in stores), first, top_k=2)
    add(student, stores[1], ["late"], random)
    report = match_folders(
        scorer, *(store.version() for store in stores), tmp_path / "out.parquet", top_k=2, previous=first, dry_run=True
    )
    assert report.rehearsal is not None and report.pairs == 12
