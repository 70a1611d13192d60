"""Pairs that are mined after the first stage."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.training.test_distil import recipe as recipe

from distilmatch import (
    DiPair,
    PairRecipe,
    TransferConfig,
)
from distilmatch.data.saved import read_saved_table
from distilmatch.training.pairs.distil import distil_pairs, new_student
from distilmatch.training.pairs.mining import joined, mined_blocks
from distilmatch.types import TupleTable

TEXTS = [*(f"left {i} red lamp" for i in range(12)), *(f"right {i} blue lamp" for i in range(15))]


def _transfer(rng: np.random.Generator) -> TupleTable:
    rows = np.stack([rng.integers(12, size=40), rng.integers(12, 24, size=40)], 1)
    rows = np.unique(rows, axis=0)
    return TupleTable(
        texts=TEXTS,
        rows=rows,
        gold=rng.integers(2, size=len(rows)).astype(np.float32),
        teacher=rng.normal(size=(len(rows), 1)).astype(np.float32),
        blocks=np.repeat(np.arange(len(rows)), 1),
    )


@pytest.fixture
def mining(recipe: PairRecipe) -> PairRecipe:
    """The usual tiny recipe, with mining and one epoch a stage."""
    transfer = TransferConfig(rounds=1, block_size=4, cells_per_block=24, mined=2, perturbed=1, random=0)
    stages = {name: getattr(recipe, name).replaced(epochs=1, evaluations=1) for name in ("stage1", "stage2")}
    return recipe.replaced(transfer=transfer, start="encoder", **stages)


@pytest.mark.parametrize("seed", range(3))
def test_what_is_mined_is_what_the_student_ranks_highest(mining: PairRecipe, seed: int) -> None:
    rng = np.random.default_rng(seed)
    transfer = _transfer(rng)
    train = replace(transfer, rows=transfer.rows[:25], gold=None, teacher=None, blocks=None)
    model = new_student(mining).eval()
    config = TransferConfig(mined=3, block_size=4, cells_per_block=64, pool="separate")
    mined = mined_blocks(model, transfer, train, config, seed, "fp32")
    assert mined.blocks is not None and mined.teacher is not None and mined.gold is not None
    known = {(a, b) for a, b in transfer.rows.tolist()}
    pairs = [(a, b) for a, b in mined.rows.tolist()]
    # Few texts: every right text is among the candidates, so that a slow search finds the same.
    left, right = (
        np.unique(train.rows[:, 0]),
        np.unique(np.r_[train.rows[:, 1], np.setdiff1d(np.arange(27), train.rows)]),
    )
    for a in left.tolist():
        others = [b for b in right.tolist() if (a, b) not in known and a != b]
        scores = model.logits([(TEXTS[a], TEXTS[b]) for b in others])[:, 0]
        best = {others[i] for i in np.argsort(-scores)[:3]}
        assert best <= {b for asked, b in pairs if asked == a}, (a, best)
    for block in np.unique(mined.blocks):
        own = [pair for pair, at in zip(pairs, mined.blocks.tolist(), strict=True) if at == block]
        assert len(own) == len(set(own)) <= 64
    # Known cells keep their labels, new ones have none.
    place = {(a, b): i for i, (a, b) in enumerate(transfer.rows.tolist())}
    assert transfer.teacher is not None and transfer.gold is not None
    for i, pair in enumerate(pairs):
        if pair in place:
            np.testing.assert_array_equal(mined.teacher[i], transfer.teacher[place[pair]])
            assert mined.gold[i] == transfer.gold[place[pair]]
        else:
            assert np.isnan(mined.teacher[i]).all() and np.isnan(mined.gold[i])
    whole = joined(transfer, mined.with_teacher(np.nan_to_num(mined.teacher)))
    assert len(whole) == len(transfer) + len(mined)
    assert whole.blocks is not None and (np.diff(whole.blocks) >= 0).all()
    assert len(np.unique(whole.blocks)) == len(np.unique(transfer.blocks)) + len(np.unique(mined.blocks))


def test_nothing_to_mine_leaves_the_transfer_set(mining: PairRecipe) -> None:
    rows = np.array([[i, j] for i in range(3) for j in range(12, 15)])
    transfer = TupleTable(texts=TEXTS[:15], rows=rows, teacher=np.zeros((9, 1), dtype=np.float32), blocks=np.arange(9))
    train = TupleTable(texts=TEXTS[:15], rows=rows)
    train = replace(train, texts=[*TEXTS[:3], *TEXTS[12:15]], rows=np.where(rows >= 12, rows - 9, rows))
    mined = mined_blocks(new_student(mining).eval(), transfer, train, TransferConfig(mined=2, pool="separate"), 0)
    assert len(mined) == 0
    assert joined(transfer, mined) is transfer


def test_a_run_mines_once_and_learns_more(mining: PairRecipe) -> None:
    distil_pairs(mining)
    output = Path(mining.output)
    transfer, mined = (read_saved_table(output / name) for name in ("transfer", "mined"))
    assert len(mined) and mined.teacher is not None and not np.isnan(mined.teacher).any()
    steps = {name: json.loads((output / name / "stage.json").read_text())["steps"] for name in ("stage1", "stage2")}
    assert steps["stage2"] > steps["stage1"]
    plain = mining.replaced(output=f"{mining.output}-plain", transfer=mining.transfer.replaced(mined=0))
    distil_pairs(plain)
    assert not (Path(plain.output) / "mined").exists()
    assert (Path(plain.output) / "transfer" / "fingerprint.txt").read_text() == (
        output / "transfer" / "fingerprint.txt"
    ).read_text()
    pairs = transfer.tuples()[:50]
    learnt = [
        DiPair.from_pretrained(Path(root) / "stage2" / "student").logits(pairs) for root in (output, plain.output)
    ]
    assert np.abs(learnt[0] - learnt[1]).max() > 0


def test_a_stop_after_the_mining_changes_nothing(mining: PairRecipe, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = distil_pairs(mining)
    stopped = mining.replaced(output=f"{mining.output}-stopped")
    calls: list[Any] = []

    def stop(*args: Any, **settings: Any) -> Any:
        calls.append(args)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return run_stage(*args, **settings)

    from distilmatch.training.pairs import distil

    run_stage = distil.run_stage
    monkeypatch.setattr(distil, "run_stage", stop)
    with pytest.raises(KeyboardInterrupt):
        distil_pairs(stopped)
    first = (Path(stopped.output) / "mined" / "fingerprint.txt").stat().st_mtime_ns
    student = distil_pairs(stopped)
    assert (Path(stopped.output) / "mined" / "fingerprint.txt").stat().st_mtime_ns == first
    pairs = [("the red ball", "a blue ball is small"), ("the red cup", "a red ball is small")]
    np.testing.assert_array_equal(student.logits(pairs), whole.logits(pairs))
    assert isinstance(student, DiPair)
