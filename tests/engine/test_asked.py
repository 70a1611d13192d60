"""As many results as are asked for where there are so many, numbers of every type, and one scorer in many threads."""

from __future__ import annotations

import itertools
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from distilmatch.config.tables import TaskConfig
from distilmatch.engine.candidates import CandidateIndex
from distilmatch.engine.matches import BestMatches, Matches
from distilmatch.engine.scorer import Scorer
from distilmatch.errors import CacheError, ConfigError, ModelError
from distilmatch.types import TokenRepresentations

from .models import kernels_for, make_model, make_sides

ONE = TaskConfig(kind="binary")


class _Forgetful:
    """An approximate index that finds only so many."""

    def __init__(self, exact: CandidateIndex, finds: int) -> None:
        self.exact, self.finds = exact, finds

    def search(self, queries: np.ndarray, k: int) -> tuple[None, np.ndarray]:
        found = self.exact.nearest(queries, k)
        found[::2, self.finds :] = -1
        return None, found


@pytest.mark.parametrize("finds", [0, 1, 4])
def test_what_an_approximate_index_does_not_find_is_found_exactly(tiny_encoder: Path, finds: int) -> None:
    model = make_model(tiny_encoder, "compared", ONE)
    sides = make_sides(model, 7, 30)
    scorer = Scorer(model, kernel="torch")
    exact, short = scorer.index_of(sides[1], "flat"), scorer.index_of(sides[1], "flat")
    short.index = _Forgetful(exact, finds)
    for wanted in (5, 12, 30, 100):
        found = scorer.candidates(*sides, top_k=5, num_candidates=wanted, index=short)
        expected = scorer.candidates(*sides, top_k=5, num_candidates=wanted, index=exact)
        assert (found.rows >= 0).all() and np.isfinite(found.scores).all()
        np.testing.assert_array_equal(found.rows, expected.rows)


@pytest.mark.parametrize("kind", ["hnsw", "ivf"])
def test_every_text_gets_its_k_from_a_real_index(tiny_encoder: Path, kind: Any) -> None:
    pytest.importorskip("faiss")
    model = make_model(tiny_encoder, "compared", ONE)
    left, right = make_sides(model, 20, 400)
    clustered = right.tokens[torch.arange(400) % 3] + 1e-3 * right.tokens  # lists of very different lengths
    right = TokenRepresentations(clustered, right.mask)
    found = Scorer(model, kernel="torch").candidates(left, right, top_k=150, num_candidates=300, index=kind)
    assert found.rows.shape == (20, 150) and (found.rows >= 0).all()
    assert all(len(set(row)) == 150 for row in found.rows.tolist())


@pytest.mark.parametrize(("head", "kernel"), kernels_for("transformer", "feed_forward", "cosine"))
@pytest.mark.parametrize("memory", [None, 1])
def test_every_k_in_blocks_smaller_than_it(tiny_encoder: Path, head: str, kernel: Any, memory: int | None) -> None:
    model = make_model(tiny_encoder, head, ONE)
    left, right = make_sides(model, 3, 300)
    scorer = Scorer(model, kernel=kernel, memory_bytes=memory, threads=3)
    for k, reverse in itertools.product((1, 299, 300), (1, 3)):
        best, other = scorer.best_of_both(left, right, top_k=k, reverse_top_k=reverse)  # type: ignore[misc]
        assert isinstance(best, BestMatches) and isinstance(other, BestMatches)
        assert all(len(set(row)) == k and min(row) >= 0 for row in best.rows.tolist())
        assert all(len(set(row)) == reverse and min(row) >= 0 for row in other.rows.tolist())


@pytest.mark.parametrize(
    "number", [True, np.True_, 0, -1, 2.0, np.float32(2), 2.5, float("nan"), "2", None, [2], Decimal(2)]
)
def test_what_is_no_number_of_texts_is_refused(tiny_encoder: Path, number: Any) -> None:
    model = make_model(tiny_encoder, "transformer", ONE)
    sides = make_sides(model, 4, 9)
    scorer = Scorer(model, kernel="torch")
    calls: list[Any] = [
        lambda: scorer.best(*sides, top_k=number),
        lambda: scorer.rank(*sides, top_k=number),
        lambda: scorer.candidates(*sides, top_k=number, num_candidates=5, index="flat"),
        lambda: scorer.candidates(*sides, top_k=1, num_candidates=number, index="flat"),
    ]
    if number is not None:
        calls += [
            lambda: scorer.best_of_both(*sides, top_k=2, reverse_top_k=number),
            lambda: Scorer(model, kernel="torch", threads=number),
            lambda: Scorer(model, kernel="torch", memory_bytes=number),
        ]
    for call in calls:
        with pytest.raises(ConfigError):
            call()
    for threshold in (True, float("nan"), "0", [0]):
        with pytest.raises(ConfigError, match="threshold"):
            scorer.above(*sides, threshold=threshold).collect()


def test_whole_numbers_of_any_kind_are_numbers(tiny_encoder: Path) -> None:
    model = make_model(tiny_encoder, "transformer", ONE)
    sides = make_sides(model, 4, 9)
    scorer = Scorer(model, kernel="torch")
    expected = scorer.rank(*sides, top_k=2).rows
    for number in (np.int8(2), np.uint64(2), np.array(2)[()]):
        np.testing.assert_array_equal(scorer.rank(*sides, top_k=number).rows, expected)
        found = scorer.candidates(*sides, top_k=number, num_candidates=np.int64(9), index="flat")
        np.testing.assert_array_equal(found.rows, expected)
    rows = np.array([[0, 1], [3, 8]])
    logits = scorer.score(*sides, rows=rows)
    for same in (
        rows.astype(np.uint8),
        torch.from_numpy(rows),
        rows.tolist(),
        rows[::-1][::-1],
        np.asfortranarray(rows),
    ):
        np.testing.assert_array_equal(scorer.score(*sides, rows=same), logits)
    for bad in (rows.astype(np.float32), rows.astype(bool), rows.ravel(), rows[None], rows - 1, rows + 1, rows + 2**40):
        with pytest.raises(ModelError, match="rows"):
            scorer.score(*sides, rows=bad)


@pytest.mark.parametrize(("head", "kernel"), kernels_for("compared", "feed_forward", "two_layers"))
def test_threads_share_a_scorer_and_its_sides(tiny_encoder: Path, head: str, kernel: Any) -> None:
    model = make_model(tiny_encoder, head, ONE)
    lefts = [make_sides(model, 5 + i, 1)[0] for i in range(4)]
    rights = [make_sides(model, 1, 20 + 7 * i)[1] for i in range(3)]

    def work(scorer: Scorer, sides: tuple[list[Any], list[Any]], number: int) -> list[np.ndarray]:
        left, right = sides[0][number % 4], sides[1][number // 4]
        rows = np.stack([np.arange(40) % len(left), (np.arange(40) + number) % len(right)], 1)
        best, other = scorer.best_of_both(left, right, top_k=3, reverse_top_k=2)  # type: ignore[misc]
        above = scorer.above(left, right, threshold=0.0).collect()
        near = scorer.candidates(left, right, top_k=2, num_candidates=9, index="flat")
        assert isinstance(best, BestMatches) and isinstance(other, BestMatches) and isinstance(above, Matches)
        return [scorer.score(left, right, rows=rows), best.rows, other.rows, best.scores, above.rows, near.rows]

    alone = Scorer(model, kernel=kernel, threads=1)
    expected = [work(alone, (lefts, rights), number) for number in range(12)]
    scorer = Scorer(model, kernel=kernel, threads=2)
    loaded = ([scorer.load(side, 0) for side in lefts], [scorer.load(side, 1) for side in rights])
    for sides in ((lefts, rights), loaded):  # folded anew by each call, or once by whichever thread comes first
        with ThreadPoolExecutor(4) as pool:
            found = list(pool.map(lambda number: work(scorer, sides, number % 12), range(36)))  # noqa: B023
        for number, results in enumerate(found):
            for got, want in zip(results, expected[number % 12], strict=True):
                np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("kind", ["flat", "hnsw", "ivf"])
def test_an_index_of_other_vectors_needs_those_of_the_left_texts(tiny_encoder: Path, kind: Any) -> None:
    pytest.importorskip("faiss")
    model = make_model(tiny_encoder, "compared", ONE)
    sides = make_sides(model, 4, 10)
    index = CandidateIndex(np.random.default_rng(0).normal(size=(10, 7)).astype(np.float32), kind)
    with pytest.raises(ConfigError, match="give `vectors`"):
        Scorer(model, kernel="torch").candidates(*sides, top_k=2, num_candidates=5, index=index)


@pytest.mark.parametrize("kind", ["flat", "hnsw", "ivf"])
def test_an_index_is_kept(tmp_path: Path, kind: Any) -> None:
    if kind != "flat":
        pytest.importorskip("faiss")
    vectors = np.random.default_rng(0).normal(size=(300, 8)).astype(np.float32)
    index = CandidateIndex(vectors, kind)
    index.save(tmp_path / "index", "this job")
    opened = CandidateIndex.load(tmp_path / "index", "this job")
    assert opened is not None and opened.kind == kind
    np.testing.assert_array_equal(opened.nearest(vectors[:20], 30), index.nearest(vectors[:20], 30))
    np.testing.assert_array_equal(opened.nearest(vectors[:20], 300), index.nearest(vectors[:20], 300))
    assert CandidateIndex.load(tmp_path / "index", "another") is None
    assert CandidateIndex.load(tmp_path / "nothing", "this job") is None
    damaged = bytearray((tmp_path / "index" / "vectors.npy").read_bytes())
    damaged[-1] ^= 1
    (tmp_path / "index" / "vectors.npy").write_bytes(bytes(damaged))
    with pytest.raises(CacheError, match="is damaged"):
        CandidateIndex.load(tmp_path / "index", "this job")
