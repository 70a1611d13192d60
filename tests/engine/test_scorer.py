"""The three ways to score against plain scores, kernel by kernel, whole and in blocks."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from distilmatch.config.pairs import StudentConfig
from distilmatch.config.tables import TaskConfig
from distilmatch.engine.kernels.native import NativeKernel
from distilmatch.engine.kernels.native_module import NativeBestRows, native_module, runs_native
from distilmatch.engine.matches import BestMatches, Matches, recall
from distilmatch.engine.ranking import BestRows, Ranking
from distilmatch.engine.scorer import Scorer
from distilmatch.errors import ConfigError, DataError, ModelError
from distilmatch.models import DiPair
from distilmatch.types import TokenRepresentations

from .shared import needs_native, stored

THREE = TaskConfig(kind="classification", classes=("no", "maybe", "yes"))
ONE = TaskConfig(kind="binary")
HEADS: dict[str, dict[str, Any]] = {
    "transformer": {"head_similarities": 0, "head_maxsim": 0},
    "compared": {"head_similarities": 8, "head_maxsim": 3, "head_gaps": 2},
    "lexical": {"head_similarities": 8, "head_maxsim": 3, "lexical": True},
    "lexical_alone": {"head_similarities": 0, "head_maxsim": 0, "lexical": True},
    "no_gaps": {"head_similarities": 0, "head_maxsim": 2, "head_gaps": 0},
    "short": {"kept_tokens": (5, 7)},
    "short_one_head": {"kept_tokens": (5, 8), "head_heads": 1},
    # More than one tile of rows, three blocks of lanes and one more, four steps of the matrix unit and one more.
    "long": {
        "kept_tokens": (37, 61),
        "max_lengths": (64, 64),
        "width": 160,
        "head_similarities": 0,
        "head_maxsim": 3,
        "head_gaps": 2,
    },
    "pre_norm": {"head_norm": "pre", "head_activation": "relu"},
    "two_layers": {"head_layers": 2},
    "feed_forward": {"head": "feed_forward"},
    "feed_forward_relu": {"head": "feed_forward", "head_activation": "relu"},
    "feed_forward_compared": {"head": "feed_forward", "head_similarities": 8, "lexical": True},
    "lite": {"head": "lite", "head_heads": 2},
    "cosine": {"head": "cosine"},
}
NATIVE = {
    "transformer",
    "compared",
    "lexical",
    "lexical_alone",
    "no_gaps",
    "short",
    "short_one_head",
    "long",
    "pre_norm",
    "feed_forward",
    "feed_forward_relu",
    "feed_forward_compared",
}
LEFT, RIGHT = 23, 71


def _kernels(head: str) -> list[str]:
    products = "feed" not in head and head != "cosine"
    kernels = ["torch"] + ["torch-bf16"] * products + ["native"] * (head in NATIVE)
    return kernels + ["native-int8"] * (head in NATIVE and products)


def _runs(kernel: str) -> bool:
    return runs_native() and (kernel == "native" or native_module().has_bytes())


def _cases() -> list[Any]:
    cases = []
    for head, task in itertools.product(HEADS, (ONE, THREE)):
        for kernel in _kernels(head):
            if (head, task, kernel) == ("feed_forward_compared", THREE, "native"):
                continue  # the kernels do one label
            marks = (
                []
                if kernel.startswith("torch")
                else [pytest.mark.skipif(not _runs(kernel), reason=f"no {kernel} kernel here")]
            )
            cases.append(pytest.param(head, task, kernel, marks=marks, id=f"{head}-{task.num_labels}-{kernel}"))
    return cases


def _model(encoder: Path, head: str, task: TaskConfig) -> DiPair:
    torch.manual_seed(1)
    shape = {"width": 32, "head_heads": 2, "kept_tokens": (3, 19), "max_lengths": (24, 24), **HEADS[head]}
    model = DiPair.from_encoder(encoder, StudentConfig(**shape), task).eval()
    spread = 0.3 * (32 / model.student.vector_width) ** 0.5  # outputs are as large at any width
    for parameter in [*model.head.parameters(), *model.classifier.parameters()]:
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=spread)
    return model


def _sides(model: DiPair, left: int = LEFT, right: int = RIGHT) -> list[TokenRepresentations]:
    sides = []
    for count, kept in zip((left, right), model.student.kept_vectors, strict=True):
        mask = torch.arange(kept)[None, :] < torch.randint(1, kept + 1, (count,))[:, None]
        sides.append(
            TokenRepresentations(torch.randn(count, kept, model.student.vector_width) * mask[:, :, None], mask)
        )
    return sides


def _plain(model: DiPair, sides: list[TokenRepresentations]) -> np.ndarray:
    """(n, m, c) logits of the unfolded head."""
    n, m = map(len, sides)
    rows = np.array(list(itertools.product(range(n), range(m))))
    return model.score(*sides, rows=rows, show_progress_bar=False).reshape(n, m, -1)


@pytest.mark.parametrize("memory", [None, 40_000])
@pytest.mark.parametrize(("head", "task", "kernel"), _cases())
def test_every_way_to_score_gives_the_plain_scores(
    tiny_encoder: Path, head: str, task: TaskConfig, kernel: Any, memory: int | None
) -> None:
    model = _model(tiny_encoder, head, task)
    sides = _sides(model)
    expected = _plain(model, sides)
    scorer = Scorer(model, kernel=kernel, memory_bytes=memory, threads=2)
    assert scorer.kernel.name == kernel
    bound = {"torch": 1e-5, "torch-bf16": 0.03, "native": 0.02, "native-int8": 0.05}[kernel]
    tolerance = {"rtol": bound, "atol": bound * float(np.abs(expected).max())}
    rows = np.random.default_rng(0).integers(0, [LEFT, RIGHT], (500, 2))
    logits = scorer.score(*sides, rows=rows)
    np.testing.assert_allclose(logits, expected[rows[:, 0], rows[:, 1]], **tolerance)
    rank: dict[str, Any] = {"by": "probability", "label": "yes"} if task is THREE else {}
    ranking = Ranking.of(task, **rank)
    scores = ranking.shown(ranking(torch.from_numpy(expected)).numpy())
    best, other = scorer.best_of_both(*sides, top_k=5, reverse_top_k=5, **rank)  # type: ignore[misc]
    for found, values in ((best, scores), (other, scores.T)):
        assert isinstance(found, BestMatches)
        np.testing.assert_allclose(found.scores, -np.sort(-values, axis=1)[:, :5], **tolerance)
        np.testing.assert_allclose(found.scores, np.take_along_axis(values, found.rows, 1), **tolerance)
    ranked = scorer.rank(sides[0][:1], sides[1], top_k=RIGHT, **rank)
    assert sorted(ranked.rows[0]) == list(range(RIGHT))
    np.testing.assert_allclose(ranked.scores[0], scores[0][ranked.rows[0]], **tolerance)
    threshold = float(np.quantile(scores, 0.9))
    matches = scorer.above(*sides, threshold=threshold, **rank).collect()
    assert isinstance(matches, Matches)
    assert matches.rows.tolist() == sorted(matches.rows.tolist())
    above = np.zeros_like(scores, dtype=bool)
    above[tuple(matches.rows.T)] = True
    clear = np.abs(scores - threshold) > 5 * bound * scores.std()  # rounding cannot move these across
    assert clear.mean() > 0.7
    np.testing.assert_array_equal(above[clear], scores[clear] > threshold)
    np.testing.assert_allclose(matches.scores, scores[above], **tolerance)


@needs_native
@pytest.mark.parametrize("head", sorted(head for head in NATIVE if "feed" not in head))
def test_the_matrix_unit_s_layouts_give_the_vectors_scores(tiny_encoder: Path, head: str) -> None:
    model = _model(tiny_encoder, head, THREE)
    sides = _sides(model)
    rows = np.random.default_rng(0).integers(0, [LEFT, RIGHT], (333, 2))
    scores = []
    native = native_module()
    real = ("amx",) if native is not None and native.has_amx() else ()
    for multiplier in ("vector", "imitated", *real):
        kernel = NativeKernel(model, threads=2, multiplier=multiplier)  # type: ignore[arg-type]
        scores.append(kernel.pairs([kernel.prepare(side, j) for j, side in enumerate(sides)], rows))
    for other in scores[1:]:
        np.testing.assert_allclose(scores[0], other, rtol=1e-3, atol=1e-3 * float(np.abs(scores[0]).max()))


@pytest.mark.parametrize("k", [1, 3, 7])
def test_best_rows_against_a_stable_sort(k: int) -> None:
    random = np.random.default_rng(k)
    scores = random.integers(-3, 4, (6, 40)).astype(np.float32) / 2  # many equal ones
    scores[1, 5] = np.nan
    best = BestRows(6, k)
    for start in (20, 0, 33, 7):
        stop = {20: 33, 0: 7, 33: 40, 7: 20}[start]
        for row in (3, 0):
            best.add(row, torch.from_numpy(scores[row : row + 3, start:stop]), start)
    got_scores, got_rows = best.best()
    expected = np.argsort(np.where(np.isnan(scores), np.inf, -scores), axis=1, kind="stable")[:, :k]
    np.testing.assert_array_equal(got_rows, expected)
    np.testing.assert_array_equal(got_scores, np.take_along_axis(scores, expected, 1))


@pytest.mark.parametrize("k", [1, 5, 40])
def test_best_rows_of_wide_blocks_against_a_stable_sort(k: int) -> None:
    random = np.random.default_rng(k)
    scores = random.integers(-300, 300, (5, 4000)).astype(np.float32)  # many equal ones
    scores[1, 5:60] = np.nan
    scores[2, ::2] = -np.inf
    scores[3, :-7] = -np.inf
    scores[4, 17] = np.inf
    best, other = BestRows(5, k), BestRows(5, k)
    for start, stop in ((1500, 4000), (0, 1500)):
        best.add(0, torch.from_numpy(scores[:, start:stop]), start)
        other.add(0, torch.from_numpy(scores[:, start:stop].T.copy()).T, start)
    expected = np.argsort(np.where(np.isnan(scores), np.inf, -scores), axis=1, kind="stable")[:, :k]
    for found in (best, other):
        got_scores, got_rows = found.best()
        np.testing.assert_array_equal(got_rows, expected)
        np.testing.assert_array_equal(got_scores, np.take_along_axis(scores, expected, 1))


def test_fewer_columns_than_k_leave_nothing_behind() -> None:
    best = BestRows(2, 3)
    best.add(0, torch.tensor([[1.0, float("nan")], [-2.0, 4.0]]), 10)
    scores, rows = best.best()
    assert rows.tolist() == [[10, -1, -1], [11, 10, -1]]
    assert scores[0, 1] == -np.inf


def test_a_folder_is_scored_as_what_it_holds(tiny_encoder: Path, tmp_path: Path) -> None:
    model = _model(tiny_encoder, "compared", ONE)
    sides = _sides(model)
    folders = stored(model, sides, tmp_path)
    scorer = Scorer(model, memory_bytes=60_000)
    best = scorer.best(*folders, top_k=4)
    again = scorer.best(*sides, top_k=4)
    assert isinstance(best, BestMatches) and isinstance(again, BestMatches)
    np.testing.assert_array_equal(best.rows, again.rows)
    with pytest.raises(ModelError, match=r"was encoded for side 1 \(right\) and is given for side 0"):
        scorer.best(folders[1], folders[0], top_k=4)


def test_what_cannot_be_scored_is_named_before_work(tiny_encoder: Path) -> None:
    model = _model(tiny_encoder, "transformer", THREE)
    left, right = _sides(model)
    scorer = Scorer(model, kernel="torch")
    rows = np.zeros((1, 2), dtype=np.int64)
    with pytest.raises(ModelError, match="1 sides"):
        scorer.score(left, rows=rows)
    with pytest.raises(ModelError, match="row numbers out of range, the side has 0 to 70"):
        scorer.score(left, right, rows=rows + [0, RIGHT])
    with pytest.raises(ModelError, match=r"\(tokens, width\)"):
        scorer.score(right, left, rows=rows)
    with pytest.raises(DataError, match="right side is empty"):
        scorer.score(left, right[:0], rows=rows)
    with pytest.raises(ConfigError, match="no, maybe, yes"):
        scorer.best(left, right, top_k=1)
    with pytest.raises(ConfigError, match="no label 'perhaps'"):
        scorer.best(left, right, top_k=1, label="perhaps")
    with pytest.raises(ConfigError, match="a value for each class"):
        scorer.best(left, right, top_k=1, by="expectation")
    with pytest.raises(ConfigError, match="either `top_k` or `threshold`"), pytest.warns(FutureWarning, match="best"):
        scorer.all_pairs(left, right, label="yes")
    with pytest.raises(ConfigError, match="71 texts to choose from"):
        scorer.best(left, right, top_k=72, label="yes")
    with pytest.raises(ConfigError, match="23 texts to choose from"):
        scorer.best_of_both(left, right, top_k=30, reverse_top_k=30, label="yes")
    right.tokens[7, 0, 0] = float("nan")
    with pytest.raises(ModelError, match="right side, side 1: row 7 holds numbers that are not finite"):
        scorer.best(left, right, top_k=1, label="yes")
    with pytest.raises(ConfigError, match="native kernel cannot be used"):
        Scorer(_model(tiny_encoder, "lite", ONE), kernel="native")
    with pytest.raises(ConfigError, match="no matrix product"):
        Scorer(_model(tiny_encoder, "cosine", ONE), kernel="torch-bf16")


def test_expectations_are_ranked(tiny_encoder: Path) -> None:
    model = _model(tiny_encoder, "transformer", THREE)
    sides = _sides(model)
    probabilities = torch.from_numpy(_plain(model, sides)).softmax(-1).numpy()
    expected = probabilities @ np.array([0.0, 1.0, 3.0], dtype=np.float32)
    best = Scorer(model).best(*sides, top_k=2, by="expectation", values=[0, 1, 3])
    assert isinstance(best, BestMatches)
    np.testing.assert_allclose(best.scores, -np.sort(-expected, axis=1)[:, :2], atol=0.06)


@pytest.mark.parametrize("kind", ["flat", "hnsw", "ivf"])
@pytest.mark.parametrize("head", ["compared", "feed_forward"])
def test_as_many_candidates_as_texts_are_the_exact_answer(tiny_encoder: Path, head: str, kind: Any) -> None:
    if kind != "flat":
        pytest.importorskip("faiss")
    model = _model(tiny_encoder, head, ONE)
    sides = _sides(model)
    scorer = Scorer(model, kernel="torch")
    exact = scorer.best(*sides, top_k=5)
    assert isinstance(exact, BestMatches)
    index = scorer.index_of(sides[1], kind)
    if index.index is not None and kind == "ivf":
        index.index.nprobe = index.index.nlist
    found = scorer.candidates(*sides, top_k=5, num_candidates=RIGHT, index=index)
    share = recall(found, exact).share
    assert share == 1.0 if kind != "hnsw" else share > 0.9
    few = scorer.candidates(*sides, top_k=5, num_candidates=10, index=index)
    some = recall(few, exact)
    assert 0 < some.interval[0] < some.share < some.interval[1] <= 1 and some.share < 1 and some.texts == len(few.rows)
    assert (few.scores[:, :5] <= exact.scores + 1e-5).all()
    with pytest.raises(ConfigError, match="fewer than the 5"):
        scorer.candidates(*sides, top_k=5, num_candidates=4)


@pytest.mark.parametrize(
    ("shape", "fast"),
    [({"head_layers": 2}, True), ({"head": "feed_forward", "head_layers": 2}, True), ({"head": "cosine"}, False)],
)
def test_without_a_native_kernel_products_are_in_bf16_where_the_cpu_has_it(
    tiny_encoder: Path, shape: dict[str, Any], fast: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = StudentConfig(**{"width": 32, "head_heads": 2, "kept_tokens": (3, 4), "max_lengths": (24, 24), **shape})
    model = DiPair.from_encoder(tiny_encoder, config, ONE).eval()
    for has_bf16 in (True, False):
        monkeypatch.setattr("distilmatch.engine.kernels.choice.has_fast_bf16", lambda _, has=has_bf16: has)
        assert Scorer(model).kernel.name == ("torch-bf16" if has_bf16 and fast else "torch")


@needs_native
@pytest.mark.parametrize("head", ["transformer", "feed_forward_relu"])
@pytest.mark.parametrize(("left", "threads"), [(1, 3), (5, 3), (40, 1), (1100, 1)])
def test_threads_that_share_left_texts_find_the_same_best(
    tiny_encoder: Path, head: str, left: int, threads: int
) -> None:
    model = _model(tiny_encoder, head, ONE)
    sides = _sides(model, left, 600)
    scorer = Scorer(model, kernel="native", threads=threads)
    every = scorer.score(*sides, rows=np.array(list(itertools.product(range(left), range(600))))).reshape(left, 600)
    best, other = scorer.best_of_both(*sides, top_k=7, reverse_top_k=1)  # type: ignore[misc]
    for found, scores in ((best, every), (other, every.T)):
        assert isinstance(found, BestMatches)
        k = found.scores.shape[1]
        np.testing.assert_allclose(found.scores, -np.sort(-scores, axis=1)[:, :k], atol=1e-5)
        np.testing.assert_allclose(found.scores, np.take_along_axis(scores, found.rows, 1), atol=1e-5)


@needs_native
@pytest.mark.parametrize("columns", [1, 15, 16, 70])
def test_compiled_best_rows_are_those_of_pytorch(columns: int) -> None:
    random = np.random.default_rng(columns)
    compiled, plain = NativeBestRows(9, 6), BestRows(9, 6)
    for first in (140, 0, 70):
        scores = torch.from_numpy(random.integers(0, 12, (5, columns)).astype(np.float32))  # many are equal
        scores[0, 0] = torch.nan
        scores[1, -1] = -torch.inf
        for rows in (compiled, plain):
            rows.add(3, scores, first)
    for found, expected in zip(compiled.best(), plain.best(), strict=True):
        np.testing.assert_array_equal(found, expected)
    with pytest.raises(ValueError, match="there are none of"):
        compiled.add(5, torch.zeros(5, 3), 0)


@needs_native
def test_best_rows_numbered_from_another_than_the_first() -> None:
    scores = torch.from_numpy(np.random.default_rng(0).integers(0, 9, (4, 30)).astype(np.float32))
    usual = BestRows(6, 5)
    usual.add(1, scores, 7)
    for rows in (NativeBestRows(6, 5, 100), BestRows(6, 5, first=100)):
        rows.add(101, scores, 7)
        for found, expected in zip(rows.best(), usual.best(), strict=True):
            np.testing.assert_array_equal(found, expected)
    with pytest.raises(ValueError, match="there are none of"):
        NativeBestRows(6, 5, 100).add(99, scores, 7)
