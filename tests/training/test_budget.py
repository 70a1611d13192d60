"""A teacher's budget: kept to the label, spread over the blocks, spent where cheap scores disagree."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.training.test_distil import recipe as recipe

from distilmatch import PairRecipe
from distilmatch.errors import ConfigError, DataError
from distilmatch.training.pairs.budget import chosen_pairs, within_budget
from distilmatch.training.pairs.distil import distil_pairs, label_transfer_set, plan_transfer_set
from distilmatch.types import TupleTable


class _Counted:
    """A teacher that counts what it is asked for, with a name or without one."""

    def __init__(self, name: str | None) -> None:
        self.name = name
        self.asked: list[tuple[str, str]] = []

    def __call__(self, pairs: list[tuple[str, str]]) -> list[float]:
        self.asked += pairs
        return [float(len(set(left.split()) & set(right.split()))) - 1.0 for left, right in pairs]


def _with(recipe: PairRecipe, budget: int | None, **transfer: Any) -> PairRecipe:
    return recipe.replaced(
        start="encoder",
        teacher={"models": ["in a test"], "budget": budget},
        transfer=recipe.transfer.replaced(**transfer),
        **{name: getattr(recipe, name).replaced(epochs=1, evaluations=1) for name in ("stage1", "stage2")},
    )


@pytest.mark.parametrize("name", ["kept", None])
def test_no_label_is_asked_for_beyond_the_budget(recipe: PairRecipe, name: str | None) -> None:
    teacher = _Counted(name)
    student = distil_pairs(_with(recipe, 83, rounds=None), teacher=teacher)
    assert len(teacher.asked) == len(set(teacher.asked)) == 83  # dev is not labelled: it has gold labels
    assert np.isfinite(student.logits([("the red car", "a red car is small")])).all()


def test_pairs_of_several_rounds_count_once(recipe: PairRecipe) -> None:
    teacher = _Counted(None)
    table = label_transfer_set(_with(recipe, 90, rounds=2), teacher=teacher)
    pairs = Counter(table.tuples())
    assert set(pairs) == set(teacher.asked) and len(pairs) == len(teacher.asked) == 90
    assert table.teacher is not None and not np.isnan(table.teacher).any()
    single = plan_transfer_set(_with(recipe, 90, rounds=1))
    assert set(np.unique(single.blocks)) == set(np.unique(plan_transfer_set(_with(recipe, None, rounds=1)).blocks))


def test_a_budget_for_everything_changes_nothing(recipe: PairRecipe) -> None:
    whole, wide = (plan_transfer_set(_with(recipe, budget, rounds=1)) for budget in (None, 100_000))
    np.testing.assert_array_equal(whole.rows, wide.rows)
    again = [plan_transfer_set(_with(recipe, 60, rounds=1)).rows for _ in range(2)]
    np.testing.assert_array_equal(*again)


def test_labels_that_are_there_cost_nothing(recipe: PairRecipe) -> None:
    table = plan_transfer_set(_with(recipe, None, rounds=1))
    teacher = np.full((len(table), 1), np.nan, dtype=np.float32)
    teacher[::7] = 1.0
    embeddings = np.random.default_rng(0).normal(size=(len(table.texts), 4)).astype(np.float32)
    kept = within_budget(table.with_teacher(teacher), embeddings, 50, 0)
    assert kept.teacher is not None and int((kept.teacher[:, 0] == 1.0).sum()) == len(teacher[::7])
    assert len(set(kept.take(np.isnan(kept.teacher[:, 0])).tuples())) == 50


def test_bad_budgets(recipe: PairRecipe, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="below two labels for each of the 15 blocks.*block_size"):
        plan_transfer_set(_with(recipe, 29, rounds=1))
    assert len(set(plan_transfer_set(_with(recipe, 30, rounds=1)).tuples())) == 30
    with pytest.raises(ConfigError, match="budget: must be"):
        _with(recipe, 1)
    with pytest.raises(ConfigError, match=r"mined: 2.*beyond `teacher\.budget: 40`"):
        _with(recipe, 40, mined=2)
    own = _with(recipe, 60).replaced(table={"text_columns": ["a", "b"]})
    with pytest.raises(DataError, match="no labels to measure by"):
        distil_pairs(own, teacher=_Counted(None))


@given(st.integers(0, 10_000), st.lists(st.integers(2, 9), min_size=1, max_size=8), st.integers(0, 60))
def test_pairs_are_spread_and_the_most_doubtful_come_first(seed: int, sizes: list[int], more: int) -> None:
    rng = np.random.default_rng(seed)
    blocks = np.repeat(np.arange(len(sizes)), sizes)
    order = rng.permutation(len(blocks))
    blocks, doubt, budget = blocks[order], rng.random(len(blocks)), 2 * len(sizes) + more
    chosen = chosen_pairs(blocks, doubt, budget, rng)
    assert chosen.sum() == min(budget, len(blocks))
    counts = [int(chosen[blocks == block].sum()) for block in range(len(sizes))]
    for block, (count, size) in enumerate(zip(counts, sizes, strict=True)):
        assert count == size or count >= max(2, max(counts) - 1)  # as even as the sizes allow
        most = np.sort(doubt[blocks == block])[::-1][: (count + 1) // 2]
        assert set(most) <= set(doubt[chosen & (blocks == block)])


def test_doubt_is_where_words_and_meaning_disagree() -> None:
    from distilmatch.training.pairs.budget import disagreement

    texts = ["red car", "red lamp", "crimson auto", "blue boat"]
    vectors = np.float32([[1, 0], [0, 1], [1, 0], [-1, 0]])  # the first and the third mean the same in other words
    rows = np.array([[0, 0], [0, 1], [0, 2], [0, 3], [2, 2], [3, 3]])
    doubt = disagreement(TupleTable(texts=texts, rows=rows), vectors)
    assert doubt.argmax() == 2 and doubt[0] < doubt[2]
