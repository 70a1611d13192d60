"""A match of sides that memory does not hold: the same output, each text folded once, stopped anywhere and gone on with."""

from __future__ import annotations

import shutil
from collections import namedtuple
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from tests.engine.models import make_model, make_sides
from tests.engine.shared import stored

from distilmatch.config.tables import TaskConfig
from distilmatch.engine.scorer import Scorer
from distilmatch.errors import CacheError, ConfigError
from distilmatch.jobs.match import match_folders
from distilmatch.jobs.matching import exact as match_exact
from distilmatch.models import DiPair
from distilmatch.store.folder import RepresentationFolder

ONE = TaskConfig(kind="binary")
LEFT, RIGHT, SMALL = 150, 210, 20_000
_ROUNDING = 100 * 2**-24  # of that many sums, at most
QUESTIONS: dict[str, dict[str, Any]] = {
    "best": {"top_k": 4},
    "both": {"top_k": 4, "reverse": True},
    "above": {"threshold": 0.5},
}


@pytest.fixture(scope="module")
def model(tiny_encoder: Path) -> DiPair:
    return make_model(tiny_encoder, "compared", ONE)


@pytest.fixture(scope="module")
def folders(model: DiPair, tmp_path_factory: pytest.TempPathFactory) -> list[RepresentationFolder]:
    return stored(model, make_sides(model, LEFT, RIGHT), tmp_path_factory.mktemp("blocks"))


class _Counting(Scorer):
    """Counts the texts that are folded, and has small calls."""

    def __init__(self, model: DiPair, memory_bytes: int | None) -> None:
        super().__init__(model, kernel="torch", memory_bytes=memory_bytes)
        self.folded = {0: 0, 1: 0}
        self.kernel.pairs_a_call = self.kernel.most_pairs_a_call = 1_000
        prepare = self.kernel.prepare

        def counted(texts: Any, side: int) -> Any:
            self.folded[side] += len(texts)
            return prepare(texts, side)

        self.kernel.prepare = counted  # type: ignore[method-assign]


def _match(scorer: Scorer, folders: list[RepresentationFolder], where: Path, kind: str, **more: Any) -> list[Any]:
    where.mkdir(exist_ok=True)
    reverse = where / "reverse.parquet" if kind == "both" else None
    match_folders(scorer, *folders, where / "out.parquet", reverse_output=reverse, **QUESTIONS[kind], **more)
    return [pq.read_table(path).to_pylist() for path in (where / "out.parquet", reverse) if path is not None]


def _same(found: list[Any], expected: list[Any]) -> None:
    for rows, wanted in zip(found, expected, strict=True):
        assert len(rows) == len(wanted) > 0
        for row, other in zip(rows, wanted, strict=True):
            # Logits of this head are sums of some hundred fp32 products of size one, in another order on other threads.
            assert row == pytest.approx(other, abs=_ROUNDING)


@pytest.mark.parametrize("rows_a_part", [None, 64, 50])
@pytest.mark.parametrize("kind", QUESTIONS)
def test_little_memory_gives_the_same_and_folds_once(
    model: DiPair, folders: list[RepresentationFolder], tmp_path: Path, kind: str, rows_a_part: int | None
) -> None:
    expected = _match(Scorer(model, kernel="torch"), folders, tmp_path / "whole", kind)
    scorer = _Counting(model, SMALL)
    _same(_match(scorer, folders, tmp_path / "small", kind, rows_a_part=rows_a_part), expected)
    sampled = 2 * 64  # to learn how large a folded text is, twice a side
    assert scorer.folded == {0: LEFT + sampled, 1: RIGHT + sampled}
    assert sorted(path.name for path in (tmp_path / "small").iterdir()) == ["out.parquet"] + ["reverse.parquet"] * (
        kind == "both"
    )


@pytest.mark.parametrize("stop_after", [1, 2, 4, 7])
@pytest.mark.parametrize("kind", QUESTIONS)
def test_stopped_between_any_two_calls_it_goes_on(
    model: DiPair,
    folders: list[RepresentationFolder],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
    stop_after: int,
) -> None:
    expected = _match(_Counting(model, SMALL), folders, tmp_path / "whole", kind)
    monkeypatch.setattr(match_exact, "_SAVE_SECONDS", 0.0)
    monkeypatch.setattr(match_exact, "_SAVES_SHARE", 1e9)
    pairs = 0
    for _ in range(50):
        scorer = _Counting(model, SMALL)
        calls, method = 0, "above" if kind == "above" else "top_k"
        call = getattr(scorer.kernel, method)

        def stopping(*arguments: Any, call: Any = call) -> Any:
            nonlocal calls, pairs
            if calls == stop_after:
                raise KeyboardInterrupt
            calls += 1
            pairs += len(arguments[0]) * len(arguments[1])
            return call(*arguments)

        setattr(scorer.kernel, method, stopping)
        try:
            found = _match(scorer, folders, tmp_path / "stopped", kind, rows_a_part=70)
        except KeyboardInterrupt:
            continue
        break
    _same(found, expected)
    assert pairs == LEFT * RIGHT  # nothing was done twice
    assert not (tmp_path / "stopped" / "out.parquet.parts").exists()


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_what_was_folded_before_a_stop_is_not_folded_again(
    model: DiPair,
    folders: list[RepresentationFolder],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    error: type[BaseException],
) -> None:
    def stopping(*_: Any) -> None:
        raise error

    first, second = _Counting(model, SMALL), _Counting(model, SMALL)
    with monkeypatch.context() as patch, pytest.raises(error):
        patch.setattr(first.kernel, "top_k", stopping)
        _match(first, folders, tmp_path / "out", "best")
    kept = list((tmp_path / "out").rglob("chunk-*"))
    assert bool(kept) == (error is KeyboardInterrupt)
    _match(second, folders, tmp_path / "out", "best")
    sampled = 2 * 64
    assert (second.folded[1] < RIGHT + sampled) == (error is KeyboardInterrupt)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["out.parquet"]


def test_another_memory_goes_on_too(
    model: DiPair, folders: list[RepresentationFolder], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = _match(Scorer(model, kernel="torch"), folders, tmp_path / "whole", "both")
    monkeypatch.setattr(match_exact, "_SAVE_SECONDS", 0.0)
    monkeypatch.setattr(match_exact, "_SAVES_SHARE", 1e9)
    for memory in (SMALL, 2 * SMALL, None):
        scorer = _Counting(model, memory)
        call, calls = scorer.kernel.top_k, 0

        def stopping(*arguments: Any, call: Any = call, memory: Any = memory) -> None:
            nonlocal calls
            calls += 1
            if calls == 4 and memory is not None:
                raise KeyboardInterrupt
            call(*arguments)

        scorer.kernel.top_k = stopping  # type: ignore[method-assign]
        try:
            found = _match(scorer, folders, tmp_path / "out", "both")
        except KeyboardInterrupt:
            continue
    _same(found, expected)


def test_the_state_of_another_job_is_not_taken(
    model: DiPair, folders: list[RepresentationFolder], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(match_exact, "_SAVE_SECONDS", 0.0)
    scorer = _Counting(model, SMALL)
    call, calls = scorer.kernel.top_k, []

    def stopping(*arguments: Any) -> None:
        calls.append(1)
        if len(calls) == 9:
            raise KeyboardInterrupt
        call(*arguments)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(scorer.kernel, "top_k", stopping)
        _match(scorer, folders, tmp_path, "best")
    with pytest.raises(CacheError, match="parts of another job"):
        _match(scorer, folders, tmp_path, "above")
    state = next((tmp_path / "out.parquet.parts").glob("state-*"))
    whole = state.read_bytes()
    state.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(CacheError, match=r"state-.* is damaged"):
        _match(scorer, folders, tmp_path, "best")
    state.write_bytes(whole)
    expected = _match(Scorer(model, kernel="torch"), folders, tmp_path / "whole", "best")
    _same(_match(scorer, folders, tmp_path, "best"), expected)


@pytest.mark.parametrize("memory", [SMALL, None])
def test_a_second_job_takes_what_was_folded(
    model: DiPair, folders: list[RepresentationFolder], tmp_path: Path, memory: int | None
) -> None:
    kept = tmp_path / "folded"
    first, second = _Counting(model, memory), _Counting(model, memory)
    expected = _match(first, folders, tmp_path / "one", "best", keep_folded=kept)
    assert _match(second, folders, tmp_path / "two", "best", keep_folded=kept) == expected
    sampled = 64
    assert first.folded == {0: LEFT + sampled, 1: RIGHT + sampled} and second.folded == {0: sampled, 1: sampled}
    assert sorted(path.name.partition("-")[0] for path in kept.iterdir()) == ["left", "right"]
    with pytest.raises(ConfigError, match="folded"):
        _match(second, folders, tmp_path / "three", "best", keep_folded=folders[0].path)


def test_candidates_of_sides_that_memory_does_not_hold(
    model: DiPair, folders: list[RepresentationFolder], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("distilmatch.engine.scorer._PAIRS_A_STEP", 1000)
    asked: dict[str, Any] = {"top_k": 4, "num_candidates": 30, "index": "flat", "rows_a_part": 20}
    match_folders(Scorer(model, kernel="torch"), *folders, tmp_path / "whole.parquet", **asked)
    scorer = _Counting(model, SMALL)
    report = match_folders(scorer, *folders, tmp_path / "small.parquet", **asked)
    found, expected = (pq.read_table(tmp_path / name).to_pylist() for name in ("small.parquet", "whole.parquet"))
    _same([found], [expected])
    assert report.recall is not None and report.sampled == LEFT
    assert scorer.folded[1] <= RIGHT + 2 * 64


def test_a_disk_without_room_is_told_before_any_work(
    model: DiPair, folders: list[RepresentationFolder], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda place: usage(10**6, 10**6, 1000))
    with pytest.raises(CacheError, match=r"take .* GiB in .*folded"):
        _match(Scorer(model, kernel="torch", memory_bytes=SMALL), folders, tmp_path, "best")
    assert not list(tmp_path.iterdir())


def test_a_window_of_pairs_above_a_threshold_is_in_memory(
    model: DiPair, folders: list[RepresentationFolder], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = _match(Scorer(model, kernel="torch"), folders, tmp_path / "whole", "above")
    monkeypatch.setattr(match_exact, "_ROWS_A_WINDOW", 100)
    monkeypatch.setattr(match_exact, "_FOUND_A_PART", 300)
    _same(_match(_Counting(model, SMALL), folders, tmp_path / "small", "above"), expected)


@pytest.mark.parametrize("kind", QUESTIONS)
def test_a_dry_run_looks_at_a_part_of_a_large_side(
    model: DiPair, folders: list[RepresentationFolder], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setattr("distilmatch.jobs.matching.rehearsal._INDEXED", 50)
    monkeypatch.setattr("distilmatch.jobs.matching.run.REHEARSED_SECONDS", 0.05)
    reverse = tmp_path / "reverse.parquet" if kind == "both" else None
    scorer = _Counting(model, SMALL)
    asked: dict[str, Any] = {"reverse_output": reverse, "dry_run": True, **QUESTIONS[kind]}
    told = match_folders(scorer, *folders, tmp_path / "out.parquet", **asked).rehearsal
    assert told is not None and told.facts["right_texts"] == RIGHT and all(s >= 0 for s in told.seconds.values())
    folded = sum(len(side) * side.kept_bytes for side in (scorer.load(folder, j) for j, folder in enumerate(folders)))
    assert told.disk_bytes > folded and not list(tmp_path.iterdir())
