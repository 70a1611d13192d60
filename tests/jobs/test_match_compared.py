"""What users compare: a table with itself, groups of items, one partner each, clusters; against brute force over the items."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distilmatch.engine.scan import upper_pairs
from distilmatch.engine.scorer import Scorer
from distilmatch.errors import CacheError, ConfigError, DataError
from distilmatch.jobs.encode import encode_table
from distilmatch.jobs.match import match_folders
from distilmatch.jobs.matching.groups import Groups
from distilmatch.jobs.matching.pairs import Clusters, ItemPairs, one_to_one, paired
from distilmatch.jobs.parts import PartWriter
from distilmatch.models.dipair import DiPair
from distilmatch.store.folder import RepresentationFolder

from .conftest import make_matcher

Row = dict[str, Any]
Folders = tuple[RepresentationFolder, RepresentationFolder]
Pair = tuple[int, int]

SIDES = ("query", "document")


@contextmanager
def stopped_at(patch: pytest.MonkeyPatch, owner: type, name: str, call: int) -> Iterator[None]:
    """A user's interrupt at the n-th call of a method."""
    method, calls = getattr(owner, name), itertools.count(1)

    def counted(*arguments: Any, **named: Any) -> Any:
        if next(calls) == call:
            raise KeyboardInterrupt
        return method(*arguments, **named)

    with patch.context() as inner:
        inner.setattr(owner, name, counted)
        yield


# One partner each, and clusters: pure numbers


def greedy(pairs: list[tuple[int, int, float]], same: bool) -> set[Pair]:
    """The oracle: by falling score, then left, then right; kept where both are free."""
    taken: set[Any] = set()
    kept = set()
    for left, right, _ in sorted(pairs, key=lambda pair: (-pair[2], pair[0], pair[1])):
        ends = {left, right} if same else {("left", left), ("right", right)}
        if not ends & taken:
            taken |= ends
            kept.add((left, right))
    return kept


def blocks_of(pairs: list[tuple[int, int, float]], size: int) -> Callable[[], Iterator[ItemPairs]]:
    def stream() -> Iterator[ItemPairs]:
        for start in range(0, len(pairs), size):
            left, right, ranked = (np.array(column) for column in zip(*pairs[start : start + size], strict=True))
            yield ItemPairs(left=left, right=right, ranked=ranked.astype(np.float32))

    return stream


SCORED = st.dictionaries(st.tuples(st.integers(0, 6), st.integers(0, 6)), st.integers(-2, 2).map(float), max_size=30)


@settings(max_examples=300, deadline=None)
@given(SCORED, st.integers(1, 9), st.booleans(), st.booleans())
def test_one_partner_each_is_greedy(scored: dict[Pair, float], size: int, same: bool, anew: bool) -> None:
    pairs = [(*pair, score) for pair, score in scored.items() if not same or pair[0] < pair[1]]
    stream = blocks_of(pairs, size)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("distilmatch.jobs.matching.pairs._IN_MEMORY", 0 if anew else 2**25)
        chosen = one_to_one(stream, 7, 7, same_table=same)
    kept = {
        pair
        for block in paired(stream(), chosen)
        for pair in zip(block.left.tolist(), block.right.tolist(), strict=True)
    }
    assert kept == greedy(pairs, same)
    named = [end for pair in kept for end in (pair if same else (pair[0], pair[1] + 7))]
    assert len(named) == len(set(named))


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), max_size=20), st.integers(1, 5))
def test_clusters_are_what_chains_join(pairs: list[Pair], size: int) -> None:
    expected = {item: {item} for item in range(10)}
    for left, right in pairs:
        joined = expected[left] | expected[right]
        for item in joined:
            expected[item] = joined
    clusters = Clusters(10)
    for start in range(0, len(pairs), size):
        block = np.array(pairs[start : start + size])
        clusters.join(block[:, 0], block[:, 1])
    numbers, sizes = clusters.numbered()
    for item in range(10):
        assert set(np.flatnonzero(numbers == numbers[item]).tolist()) == expected[item]
        assert sizes[item] == len(expected[item])
    firsts = [int(np.flatnonzero(numbers == number)[0]) for number in range(numbers.max() + 1)]
    assert firsts == sorted(firsts)  # numbered by their first items


@settings(max_examples=300, deadline=None)
@given(*[st.integers(0, 12)] * 4)
def test_pairs_of_a_half_are_counted(row: int, rows: int, column: int, columns: int) -> None:
    of = range(row, row + rows), range(column, column + columns)
    assert upper_pairs(*of) == sum(i <= j for i in of[0] for j in of[1])


def test_keys_are_compared_as_they_are_written() -> None:
    groups = Groups.of([3, "3 ", 3.0, None, float("nan"), "", "b", 2.5], ["b", "3", "c", None])
    assert groups.left.tolist() == [0, 0, 0, -1, -1, -1, 1, 2]
    assert groups.right.tolist() == [1, 0, 3, -1]
    assert groups.without == (3, 1) and len(groups) == 2
    assert [(left.tolist(), right.tolist()) for left, right in groups.members()] == [([0, 1, 2], [1]), ([6], [0])]
    fewer = groups.only(np.array([True, False, True] + [True] * 5), None)
    assert fewer.left.tolist() == [0, -1, 0, -1, -1, -1, 1, 2] and fewer.right.tolist() == groups.right.tolist()


# Whole jobs: a table of 40 items, some of one text, and one without an id


@pytest.fixture(scope="module")
def student(tiny_encoder: Path) -> DiPair:
    return make_matcher(tiny_encoder)


def rows_of_table() -> list[Row]:
    random = np.random.default_rng(5)
    rows = []
    for number in range(40):
        text = f"thing {'very ' * int(random.integers(0, 4))}{random.integers(0, 26)}"
        rows.append({"id": f"i{number}", "text": text, "kind": ("a", "b", "c", None)[int(random.integers(0, 4))]})
    return rows


ROWS = rows_of_table()


@pytest.fixture(scope="module")
def folders(student: DiPair, tmp_path_factory: pytest.TempPathFactory) -> Folders:
    where = tmp_path_factory.mktemp("compared")
    left, right = (
        encode_table(student, ROWS, where / side, side=side, text_column="text", id_column="id", shard_rows=9)
        for side in SIDES
    )
    return left, right


@pytest.fixture(scope="module")
def scores(student: DiPair) -> np.ndarray:
    """(40, 40) logits of all items as left and right ones, by the plain model."""
    texts = [row["text"] for row in ROWS]
    shares = np.asarray(student.predict([(left, right) for left in texts for right in texts]), dtype=np.float64)
    return np.log(shares / (1 - shares)).reshape(len(ROWS), len(ROWS))


def scores_of(scorer: Scorer, folders: Folders, where: Path) -> np.ndarray:
    """(40, 40) logits by the scorer's own kernel, which may multiply in bf16."""
    match_folders(scorer, *folders, where / "scores.parquet", threshold=0.0)
    return np.array(read(where / "scores.parquet", "logit")).reshape(len(ROWS), len(ROWS))


def first_rows() -> list[int]:
    """Of each item the row in which its text stands first."""
    texts = [row["text"] for row in ROWS]
    return [texts.index(text) for text in texts]


def upper(scores: np.ndarray, limit: float, kinds: list[Any] | None = None) -> list[Pair]:
    """The oracle: each pair of two items once, the text that stands first on the left."""
    order = first_rows()
    return [
        (i, j)
        for i in range(len(ROWS))
        for j in range(len(ROWS))
        if i != j
        and (order[i] < order[j] or (order[i] == order[j] and i < j))
        and scores[i, j] > limit
        and (kinds is None or (kinds[i] is not None and kinds[i] == kinds[j]))
    ]


def read(path: Path, *names: str) -> list[Any]:
    table = pq.read_table(path)
    return list(zip(*(table[name].to_pylist() for name in names), strict=True))


def pairs_in(path: Path) -> list[Pair]:
    return read(path, "query_row", "document_row")


def limit_of(scores: np.ndarray, share: float = 0.7) -> tuple[float, float]:
    """A logit between two that are there, and the score that it is."""
    levels = np.unique(scores)
    place = int(share * len(levels))
    logit = float(levels[place - 1] / 2 + levels[place] / 2)
    return logit, float(1 / (1 + np.exp(-logit)))


@pytest.mark.parametrize("memory", [None, 40_000])
@pytest.mark.parametrize("kernel", ["torch", "auto"])
def test_a_table_with_itself_above_a_threshold(
    student: DiPair,
    folders: Folders,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    kernel: Any,
    memory: int | None,
) -> None:
    monkeypatch.setattr("distilmatch.engine.scan._FEWEST_COLUMNS", 5)
    output = tmp_path / "out.parquet"
    scorer = Scorer(student, kernel=kernel, memory_bytes=memory)
    scores = scores_of(scorer, folders, tmp_path)
    logit, threshold = limit_of(scores)
    scorer.kernel.pairs_a_call = scorer.kernel.most_pairs_a_call = 20
    report = match_folders(scorer, *folders, output, threshold=threshold, same_table=True)
    assert pairs_in(output) == sorted(upper(scores, logit))
    texts = len(folders[0])
    assert report.pairs == texts * (texts + 1) // 2
    stopped = tmp_path / "stopped.parquet"
    monkeypatch.setattr("distilmatch.jobs.matching.exact._SAVE_SECONDS", 0.0)
    asked: dict[str, Any] = {"threshold": threshold, "same_table": True}
    for _ in range(8):  # each time three calls on
        with stopped_at(monkeypatch, type(scorer.kernel), "above", 4), pytest.raises(KeyboardInterrupt):
            match_folders(scorer, *folders, stopped, **asked)
    match_folders(scorer, *folders, stopped, **asked)
    assert pq.read_table(stopped).equals(pq.read_table(output))


@pytest.mark.parametrize("kernel", ["torch", "auto"])
@pytest.mark.parametrize("k", [1, 4, 39])
def test_the_best_others_of_a_table(student: DiPair, folders: Folders, tmp_path: Path, kernel: Any, k: int) -> None:
    output = tmp_path / "out.parquet"
    scorer = Scorer(student, kernel=kernel)
    scores = scores_of(scorer, folders, tmp_path)
    match_folders(scorer, *folders, output, top_k=k, same_table=True, rows_a_part=7)
    found = read(output, "query_row", "document_row", "rank")
    assert [row[2] for row in found] == [*range(1, k + 1)] * len(ROWS)
    for item in range(len(ROWS)):
        mine = [other for left, other, _ in found if left == item]
        assert item not in mine and len(set(mine)) == k
        others = np.delete(scores[item], item)
        assert np.allclose(np.sort(others)[::-1][:k], scores[item, mine], atol=1e-4)


def test_candidates_of_a_table(student: DiPair, folders: Folders, scores: np.ndarray, tmp_path: Path) -> None:
    scorer, few = Scorer(student, kernel="torch"), tmp_path / "few.parquet"
    texts = len(folders[0])
    exact = tmp_path / "exact.parquet"
    match_folders(scorer, *folders, exact, top_k=3, same_table=True)
    report = match_folders(scorer, *folders, few, top_k=3, same_table=True, num_candidates=texts - 1, index="flat")
    assert report.recall == 1.0 and pairs_in(few) == pairs_in(exact)


def test_the_items_of_a_group(student: DiPair, folders: Folders, scores: np.ndarray, tmp_path: Path) -> None:
    kinds = [row["kind"] for row in ROWS]
    groups = Groups.of(kinds, kinds)
    scorer, output = Scorer(student, kernel="torch"), tmp_path / "out.parquet"
    report = match_folders(scorer, *folders, output, top_k=3, groups=groups)
    found = pairs_in(output)
    assert (report.groups, report.without_group) == (3, (kinds.count(None),) * 2)
    for item, kind in enumerate(kinds):
        mine = [other for left, other in found if left == item]
        same = [other for other, name in enumerate(kinds) if kind is not None and name == kind]
        assert len(mine) == min(3, len(same)) and set(mine) <= set(same)
        assert np.allclose(np.sort(scores[item, same])[::-1][:3], scores[item, mine], atol=1e-4)
    logit, threshold = limit_of(scores)
    match_folders(scorer, *folders, tmp_path / "all.parquet", threshold=threshold, groups=groups)
    expected = [
        (i, j)
        for i in range(len(ROWS))
        for j in range(len(ROWS))
        if kinds[i] is not None and kinds[i] == kinds[j] and scores[i, j] > logit
    ]
    assert pairs_in(tmp_path / "all.parquet") == expected
    match_folders(scorer, *folders, tmp_path / "self.parquet", threshold=threshold, groups=groups, same_table=True)
    assert pairs_in(tmp_path / "self.parquet") == sorted(upper(scores, logit, kinds))


@pytest.mark.parametrize("asked", [{"top_k": 2}, {"threshold": 0.5}, {"top_k": 2, "same_table": True}])
def test_groups_go_on_where_they_were(
    student: DiPair, folders: Folders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: dict[str, Any]
) -> None:
    kinds = [row["kind"] for row in ROWS]
    groups = Groups.of(kinds, kinds)
    monkeypatch.setattr("distilmatch.jobs.matching.groups._FOUND_A_PART", 1)
    scorer = Scorer(student)
    whole, stopped = tmp_path / "whole.parquet", tmp_path / "stopped.parquet"
    match_folders(scorer, *folders, whole, groups=groups, rows_a_part=2, **asked)
    kernel_call = "above" if "threshold" in asked else "top_k"
    for _ in range(4):  # each time after two more calls
        with stopped_at(monkeypatch, type(scorer.kernel), kernel_call, 3), pytest.raises(KeyboardInterrupt):
            match_folders(scorer, *folders, stopped, groups=groups, rows_a_part=2, **asked)
    match_folders(scorer, *folders, stopped, groups=groups, rows_a_part=2, **asked)
    assert pq.read_table(stopped).equals(pq.read_table(whole))


def test_a_part_of_a_groups_output_that_is_damaged(
    student: DiPair, folders: Folders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kinds = [row["kind"] for row in ROWS]
    output = tmp_path / "out.parquet"
    asked: dict[str, Any] = {"groups": Groups.of(kinds, kinds), "threshold": 0.5, "rows_a_part": 2}
    scorer = Scorer(student, kernel="torch")
    monkeypatch.setattr("distilmatch.jobs.matching.groups._FOUND_A_PART", 1)
    with stopped_at(monkeypatch, PartWriter, "finish", 1), pytest.raises(KeyboardInterrupt):
        match_folders(scorer, *folders, output, **asked)
    part = tmp_path / "out.parquet.parts" / "part-00001.parquet"
    damaged = bytearray(part.read_bytes())
    damaged[40] ^= 0xFF
    part.write_bytes(damaged)
    with pytest.raises(CacheError, match="part"):
        match_folders(scorer, *folders, output, **asked)


def test_one_partner_and_clusters_of_a_match(
    student: DiPair, folders: Folders, scores: np.ndarray, tmp_path: Path
) -> None:
    logit, threshold = limit_of(scores, 0.9)
    scorer = Scorer(student, kernel="torch")
    pairs, clusters = tmp_path / "pairs.parquet", tmp_path / "clusters.parquet"
    report = match_folders(scorer, *folders, pairs, threshold=threshold, same_table=True, clusters_output=clusters)
    joined = Clusters(len(ROWS))
    expected = np.array(upper(scores, logit))
    joined.join(expected[:, 0], expected[:, 1])
    numbers, sizes = joined.numbered()
    assert read(clusters, "row", "id", "cluster", "size") == [
        (row, f"i{row}", int(numbers[row]), int(sizes[row])) for row in range(len(ROWS))
    ]
    assert report.clusters is not None
    assert (report.clusters.items, report.clusters.largest) == (int((sizes > 1).sum()), int(sizes.max()))
    assert report.clusters.clusters == len({int(number) for number in numbers[sizes > 1]})
    again = match_folders(scorer, *folders, pairs, threshold=threshold, same_table=True, clusters_output=clusters)
    assert again.rows == report.rows
    clusters.unlink()  # one of the outputs was taken away: both are made again
    match_folders(scorer, *folders, pairs, threshold=threshold, same_table=True, clusters_output=clusters)
    assert clusters.exists()
    one = tmp_path / "one.parquet"
    match_folders(scorer, *folders, one, threshold=threshold, one_to_one=True)
    all_of_both = [
        (i, j, float(scores[i, j])) for i in range(len(ROWS)) for j in range(len(ROWS)) if scores[i, j] > logit
    ]
    found = pairs_in(one)
    assert found == sorted(found) and len({left for left, _ in found}) == len(found) == len(
        {right for _, right in found}
    )
    kept = greedy([(i, j, float(np.float32(score))) for i, j, score in all_of_both], same=False)
    assert np.isclose(sum(scores[pair] for pair in kept), sum(scores[pair] for pair in found), atol=1e-3)


def test_what_does_not_go_together(student: DiPair, folders: Folders, tmp_path: Path) -> None:
    scorer, output = Scorer(student, kernel="torch"), tmp_path / "out.parquet"
    kinds = [row["kind"] for row in ROWS]
    cases: list[tuple[str, dict[str, Any]]] = [
        ("one to one is of the pairs above a threshold", {"top_k": 2, "one_to_one": True}),
        ("clusters are of one table", {"threshold": 0.5, "clusters_output": tmp_path / "c.csv"}),
        ("clusters are of one table", {"top_k": 2, "same_table": True, "clusters_output": tmp_path / "c.csv"}),
        ("leave the reverse output out", {"top_k": 2, "same_table": True, "reverse_output": tmp_path / "r.csv"}),
        ("candidates", {"top_k": 2, "num_candidates": 3, "groups": Groups.of(kinds, kinds)}),
        ("39 other items", {"top_k": 40, "same_table": True}),
    ]
    for message, asked in cases:
        with pytest.raises(ConfigError, match=message):
            match_folders(scorer, *folders, output, **asked)
    with pytest.raises(DataError, match="keys of 2 right items were given, there are 40"):
        match_folders(scorer, *folders, output, top_k=1, groups=Groups.of(kinds, ["a", "b"]))
    other = encode_table(student, ROWS[:30], tmp_path / "other", side="document", text_column="text", id_column="id")
    with pytest.raises(ConfigError, match="are not of the same table"):
        match_folders(scorer, folders[0], other, output, top_k=1, same_table=True)
    assert not list(tmp_path.glob("out.parquet*"))


def test_a_dry_run_counts_what_is_compared(student: DiPair, folders: Folders, tmp_path: Path) -> None:
    kinds = [row["kind"] for row in ROWS]
    scorer, output = Scorer(student, kernel="torch"), tmp_path / "out.parquet"
    texts = len(folders[0])
    for asked, pairs in (
        ({"same_table": True}, texts * (texts + 1) // 2),
        (
            {"groups": Groups.of(kinds, kinds)},
            sum(len({ROWS[i]["text"] for i in range(40) if kinds[i] == kind}) ** 2 for kind in "abc"),
        ),
    ):
        report = match_folders(scorer, *folders, output, threshold=0.5, dry_run=True, **asked)
        assert report.rehearsal is not None and report.pairs == pairs
    assert not list(tmp_path.iterdir())


def test_texts_are_shown_in_clusters(student: DiPair, folders: Folders, tmp_path: Path) -> None:
    texts = list(dict.fromkeys(row["text"] for row in ROWS))
    clusters = tmp_path / "clusters.csv"
    match_folders(
        Scorer(student, kernel="torch"), *folders, tmp_path / "out.csv", threshold=0.5, same_table=True,
        clusters_output=clusters, texts=(texts, texts),
    )  # fmt: skip
    lines = clusters.read_text().splitlines()
    assert lines[0] == "row,id,text,cluster,size" and lines[1].startswith(f"0,i0,{ROWS[0]['text']},0,")
    assert len(lines) == len(ROWS) + 1


@pytest.mark.parametrize("asked", [{"top_k": 2}, {"threshold": 0.1}])
def test_groups_that_no_two_items_share(
    student: DiPair, folders: Folders, tmp_path: Path, asked: dict[str, Any]
) -> None:
    groups = Groups.of(["a"] * len(ROWS), ["b"] * len(ROWS))
    report = match_folders(Scorer(student), *folders, tmp_path / "out.parquet", groups=groups, **asked)
    assert (report.rows, report.pairs, report.groups) == (0, 0, 0)


def test_a_group_whose_texts_memory_does_not_hold(student: DiPair, folders: Folders, tmp_path: Path) -> None:
    kinds = [row["kind"] for row in ROWS]
    asked: dict[str, Any] = {"top_k": 3, "groups": Groups.of(kinds, kinds)}
    match_folders(Scorer(student), *folders, tmp_path / "whole.parquet", **asked)
    match_folders(Scorer(student, memory_bytes=10_000), *folders, tmp_path / "small.parquet", **asked)
    small, whole = (read(tmp_path / f"{name}.parquet", "query_row", "rank", "logit") for name in ("small", "whole"))
    assert np.allclose(np.array(small), np.array(whole), atol=1e-4)
