"""Neighbour groups, blocks of the transfer set, perturbed texts, tokenising in length order."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distilmatch.config.pairs import TransferConfig
from distilmatch.data.blocks import build_blocks, pools_merge
from distilmatch.data.neighbours import nearest, neighbour_groups
from distilmatch.data.perturb import perturb
from distilmatch.data.tokenising import length_chunks, length_order, pad_batch
from distilmatch.errors import DataError
from distilmatch.types import TupleTable


def _table(rows: int = 30, texts: int = 25, seed: int = 0, separate: bool = False) -> tuple[TupleTable, np.ndarray]:
    rng = np.random.default_rng(seed)
    half = texts // 2
    left = rng.integers(0, half if separate else texts, rows)
    right = rng.integers(half if separate else 0, texts, rows)
    vectors = rng.normal(size=(texts, 6)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    table = TupleTable(
        texts=[f"text number {i} of the table" for i in range(texts)],
        rows=np.stack([left, right], 1).astype(np.int64),
        gold=rng.integers(0, 3, rows).astype(np.float32),
    )
    return table, vectors


def test_nearest_is_exact() -> None:
    rng = np.random.default_rng(0)
    queries, corpus = rng.normal(size=(7, 5)).astype(np.float32), rng.normal(size=(40, 5)).astype(np.float32)
    expected = np.argsort(-(queries @ corpus.T), axis=1)[:, :4]
    np.testing.assert_array_equal(nearest(queries, corpus, 4), expected)
    assert nearest(queries, corpus, 99).shape == (7, 40)


@settings(deadline=None, max_examples=30)
@given(count=st.integers(1, 60), size=st.integers(1, 12), seed=st.integers(0, 99))
def test_neighbour_groups_cover_everything_once(count: int, size: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    groups = neighbour_groups(rng.normal(size=(count, 4)).astype(np.float32), size, rng)
    assert sorted(np.concatenate(groups).tolist()) == list(range(count))
    assert all(1 <= len(group) <= size for group in groups)


def test_groups_are_of_neighbours() -> None:
    centres = np.eye(4, dtype=np.float32)
    vectors = np.repeat(centres, 8, axis=0) + np.random.default_rng(0).normal(scale=0.01, size=(32, 4)).astype(
        np.float32
    )
    groups = neighbour_groups(vectors, 8, np.random.default_rng(1))
    assert len(groups) == 4 and all(len(set(group // 8)) == 1 for group in groups)


@settings(deadline=None, max_examples=30)
@given(
    seed=st.integers(0, 50),
    separate=st.booleans(),
    near=st.integers(0, 3),
    hard=st.integers(0, 3),
    random=st.integers(0, 3),
    perturbed=st.integers(0, 3),
    cells=st.integers(1, 60),
)
def test_every_known_row_is_in_every_round_with_its_label(
    seed: int, separate: bool, near: int, hard: int, random: int, perturbed: int, cells: int
) -> None:
    table, vectors = _table(seed=seed, separate=separate)
    config = TransferConfig(
        rounds=2,
        block_size=4,
        near=near,
        hard_negatives=hard,
        random=random,
        perturbed=perturbed,
        cells_per_block=cells,
    )
    blocks = build_blocks(table, vectors, config, seed)
    assert blocks.blocks is not None and blocks.gold is not None and table.gold is not None
    assert (np.diff(blocks.blocks) >= 0).all() and len(np.unique(blocks.blocks)) == blocks.blocks[-1] + 1
    counts: dict[tuple[int, int], int] = {}
    for pair in map(tuple, blocks.rows.tolist()):
        counts[pair] = counts.get(pair, 0) + 1
    assert all(counts[tuple(pair)] >= 2 for pair in table.rows.tolist())
    # Random rows repeat pairs with other labels: the last one counts.
    last_label = {tuple(pair): label for pair, label in zip(table.rows.tolist(), table.gold.tolist(), strict=True)}
    for pair, label in zip(blocks.rows.tolist(), blocks.gold.tolist(), strict=True):
        expected = last_label.get(tuple(pair))
        assert (np.isnan(label) and expected is None) or label == expected
    sizes = np.bincount(blocks.blocks)
    assert (sizes <= max(cells, 4)).all()
    if separate:  # sides stay apart; new texts are perturbed copies, on the right
        assert set(blocks.rows[:, 0]) <= set(table.rows[:, 0])
        assert set(blocks.rows[:, 1]) & set(table.rows[:, 0]) == set()
    assert blocks.rows.max() < len(blocks.texts)


def test_new_pairs_are_made_and_hard_negatives_are_no_partners() -> None:
    table, vectors = _table(separate=True)
    config = TransferConfig(rounds=1, block_size=4, random=0, perturbed=0, hard_negatives=3, cells_per_block=200)
    blocks = build_blocks(table, vectors, config, 0)
    assert len(blocks) > 2 * len(table)
    again = build_blocks(table, vectors, config, 0)
    np.testing.assert_array_equal(blocks.rows, again.rows)
    assert not np.array_equal(blocks.rows[: len(table)], build_blocks(table, vectors, config, 1).rows[: len(table)])


def test_near_cells_are_the_most_similar_pairs_of_a_block() -> None:
    table, vectors = _table()
    config = TransferConfig(rounds=1, block_size=6, random=0, perturbed=2, cells_per_block=24, near_cells=1.0)

    def similarity(chosen: TransferConfig) -> float:
        blocks = build_blocks(table, vectors, chosen, 0)
        new = np.isnan(blocks.gold) & (blocks.rows < len(table.texts)).all(axis=1)  # type: ignore[arg-type]
        pairs = vectors[blocks.rows[new]]
        return float((pairs[:, 0] * pairs[:, 1]).sum(-1).mean())

    assert (
        similarity(config) > similarity(config.replaced(near_cells=0.5)) > similarity(config.replaced(near_cells=0.0))
    )


def test_no_rounds_keep_the_rows_alone() -> None:
    table, vectors = _table()
    blocks = build_blocks(table, vectors, TransferConfig(rounds=0, cells_per_block=8), 0)
    assert sorted(map(tuple, blocks.rows.tolist())) == sorted(map(tuple, table.rows.tolist()))


def test_pools() -> None:
    together, _ = _table()
    apart, _ = _table(separate=True)
    assert pools_merge(together, TransferConfig()) and not pools_merge(apart, TransferConfig())
    assert pools_merge(apart, TransferConfig(pool="merged"))


def test_an_empty_table_is_refused() -> None:
    table, vectors = _table()
    with pytest.raises(DataError, match="no row"):
        build_blocks(table.take(np.array([], dtype=int)), vectors, TransferConfig())


@given(st.lists(st.sampled_from(["one", "two", "three", "four", "five"]), min_size=1, max_size=8), st.integers(0, 500))
def test_perturbed_texts_keep_some_words(words: list[str], seed: int) -> None:
    donor = ["donor", "words", "here"]
    altered = perturb(" ".join(words), np.random.default_rng(seed), " ".join(donor)).split()
    assert altered and set(altered) <= {*words, *donor}
    kept = next((i for i, pair in enumerate(zip(altered, words, strict=False)) if pair[0] != pair[1]), len(words))
    spliced = kept > 0 and altered[kept:] == donor[len(donor) - len(altered[kept:]) :]
    assert spliced or abs(len(altered) - len(words)) <= 2


def test_unlabelled_texts_join_the_blocks_of_their_neighbours() -> None:
    table, vectors = _table()
    count = len(table.texts)
    rng = np.random.default_rng(3)
    close = vectors[:5] + 0.01 * rng.standard_normal((5, vectors.shape[1])).astype(np.float32)
    more = np.concatenate([close, -vectors[:5]])
    more /= np.linalg.norm(more, axis=1, keepdims=True)
    wider = replace(table, texts=[*table.texts, *(f"new {i}" for i in range(10))])
    config = TransferConfig(rounds=1, block_size=4, random=0, perturbed=0, unlabelled=3, cells_per_block=400)
    blocks = build_blocks(wider, np.concatenate([vectors, more]), config, 0)
    used = set(blocks.rows.ravel().tolist())
    assert used & set(range(count, count + 10)) and blocks.gold is not None
    assert np.isnan(blocks.gold[(blocks.rows >= count).any(axis=1)]).all()
    without = build_blocks(wider, np.concatenate([vectors, more]), config.replaced(unlabelled=0), 0)
    assert without.rows.max() < count


@given(st.lists(st.integers(1, 40), min_size=1, max_size=60))
def test_length_chunks_cover_with_little_waste(lengths: list[int]) -> None:
    order, restore = length_order(lengths)
    falling = [lengths[i] for i in order]
    assert falling == sorted(lengths, reverse=True)
    assert [falling[i] for i in restore] == lengths
    chunks = length_chunks(falling, max_waste=0.1, min_tokens=50)
    assert [i for chunk in chunks for i in range(chunk.start, chunk.stop)] == list(range(len(lengths)))
    for chunk in chunks:
        part = falling[chunk]
        if sum(part) - part[-1] >= 50:
            assert sum(part) >= 0.9 * part[0] * len(part)


def test_pad_batch() -> None:
    batch = pad_batch([[1, 2, 3], [4]], pad_id=9)
    assert batch["input_ids"].tolist() == [[1, 2, 3], [4, 9, 9]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 0, 0]]


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 500), separate=st.booleans(), labels=st.sampled_from([1, 3]))
def test_labels_of_known_rows_are_kept_and_the_last_labelled_row_counts(seed: int, separate: bool, labels: int) -> None:
    table, vectors = _table(rows=40, texts=10, seed=seed, separate=separate)
    rng = np.random.default_rng(seed)
    assert table.gold is not None
    gold = np.where(rng.random(40) < 0.5, np.float32(np.nan), table.gold)
    teacher = rng.normal(size=(40, labels)).astype(np.float32)
    teacher[rng.random(40) < 0.4] = np.nan
    given_labels = replace(table, gold=gold, teacher=teacher)
    blocks = build_blocks(given_labels, vectors, TransferConfig(rounds=2, block_size=4, cells_per_block=30), seed)
    assert blocks.gold is not None and blocks.teacher is not None and blocks.teacher.shape == (len(blocks), labels)
    last_gold: dict[tuple[int, ...], float] = {}
    last_teacher: dict[tuple[int, ...], list[float]] = {}
    for pair, own, soft in zip(map(tuple, table.rows.tolist()), gold.tolist(), teacher.tolist(), strict=True):
        if not np.isnan(own):
            last_gold[pair] = own
        if not np.isnan(soft).any():
            last_teacher[pair] = soft
    for pair, own, soft in zip(map(tuple, blocks.rows.tolist()), blocks.gold, blocks.teacher, strict=True):
        np.testing.assert_equal(float(own), last_gold.get(pair, np.nan))
        np.testing.assert_equal(soft.tolist(), last_teacher.get(pair, [np.nan] * labels))


def test_contradicting_rows_of_a_pair_are_counted(caplog: pytest.LogCaptureFixture) -> None:
    nan = np.nan
    table = TupleTable(
        texts=["a", "b", "c", "d"],
        rows=np.array([[0, 1], [0, 1], [0, 2], [0, 2], [0, 3], [0, 3], [0, 1]]),
        gold=np.float32([1, 0, 1, 1, 2, nan, nan]),
    )
    vectors = np.eye(4, dtype=np.float32)
    build_blocks(table, vectors, TransferConfig(rounds=1, perturbed=0))
    assert "1 pair(s) stand in several rows with different gold labels" in caplog.text and "row 2" in caplog.text
    caplog.clear()
    build_blocks(replace(table, gold=np.float32([1, nan, 1, 1, 2, nan, 1])), vectors, TransferConfig(rounds=1))
    assert "stand in several rows" not in caplog.text


def test_altered_copies_meet_the_partners_of_their_originals() -> None:
    texts = [
        *(f"lamp number {1000 + 371 * i} red; brand one" for i in range(20)),
        *(f"the lamp {1000 + 371 * i} red; maker one" for i in range(20)),
    ]
    rows = np.stack([np.arange(20), 20 + np.arange(20)], 1)
    gold = (np.arange(20) % 5 == 0).astype(np.float32)
    table = TupleTable(texts=texts, rows=rows, gold=gold)
    vectors = np.random.default_rng(0).standard_normal((40, 8)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    config = TransferConfig(rounds=1, block_size=5, perturbed=4, random=0, cells_per_block=30, pool="separate")
    made = build_blocks(table, vectors, config, seed=0)
    copies = [i for i in range(len(made.texts)) if i >= 40]
    assert copies
    with_partner = [(a, b) for a, b in made.rows.tolist() if b >= 40]
    assert {b for _, b in with_partner} == set(copies)
    assert made.blocks is not None
    matched = {i for i in range(20) if gold[i]}
    for block in np.unique(made.blocks):
        cells = made.rows[made.blocks == block].tolist()
        left = {a for a, _ in cells}
        if left & matched:
            of_matches = {b for a, b in cells if b >= 40 and a in matched}
            assert of_matches
