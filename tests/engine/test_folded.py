"""Folded texts in parts, put together and in files: the same scores as those folded at once; what is damaged is not read."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from distilmatch.config.tables import TaskConfig
from distilmatch.engine import folded as folded_files
from distilmatch.engine.folded import FoldedFolder
from distilmatch.engine.ranking import BestRows
from distilmatch.engine.scorer import Scorer
from distilmatch.errors import CacheError, ModelError
from distilmatch.models import DiPair
from distilmatch.types import TokenRepresentations

from .models import HEADS, kernels_for, make_model, make_sides
from .shared import needs_native

ONE = TaskConfig(kind="binary")
THREE = TaskConfig(kind="classification", classes=("no", "maybe", "yes"))
LEFT, RIGHT = 150, 210  # chunks of 64


def _scores(scorer: Scorer, left: Any, right: Any) -> np.ndarray:
    rows = np.stack(np.meshgrid(np.arange(len(left)), np.arange(len(right)), indexing="ij"), -1).reshape(-1, 2)
    return scorer.kernel.pairs([left, right], rows)


@pytest.mark.parametrize("task", [ONE, THREE], ids=["one", "three"])
@pytest.mark.parametrize(("head", "kernel"), kernels_for(*HEADS))
def test_parts_and_files_are_the_texts(
    tiny_encoder: Path, tmp_path: Path, head: str, kernel: Any, task: TaskConfig
) -> None:
    if (head, kernel, task) == ("feed_forward_compared", "native", THREE):
        kernel = "torch"  # the native kernel compares for one label
    model = make_model(tiny_encoder, head, task, kept_tokens=(17, 9) if head == "compared" else (3, 5))
    scorer = Scorer(model, kernel=kernel)
    form = scorer.kernel.form
    prepared = [scorer.kernel.prepare(side, j) for j, side in enumerate(make_sides(model, 31, 47))]
    expected = _scores(scorer, *prepared)
    joined, opened = [], []
    for j, texts in enumerate(prepared):
        room = form.room(texts, len(texts))
        for start in range(0, len(texts), 10):
            form.put(room, start, form.part(texts, start, min(start + 10, len(texts))))
        joined.append(room)
        folder = FoldedFolder(tmp_path / str(j), "these", form)
        for number, start in enumerate(range(0, len(texts), 20)):
            folder.write(number, form.part(texts, start, min(start + 20, len(texts))))
        room = form.room(texts, len(texts))
        for number, start in enumerate(range(0, len(texts), 20)):
            form.put(room, start, folder.open(number))
        opened.append(room)
        assert sum(len(folder.open(number)) for number in range(-(-len(texts) // 20))) == len(texts)
    np.testing.assert_array_equal(_scores(scorer, *joined), expected)
    np.testing.assert_array_equal(_scores(scorer, *opened), expected)
    # The last text alone: what is read past it stands in the file.
    last = [
        FoldedFolder(tmp_path / str(j), "these", form).open((len(texts) - 1) // 20) for j, texts in enumerate(prepared)
    ]
    np.testing.assert_array_equal(_scores(scorer, *last)[-1], expected[-1])


def _loaded(scorer: Scorer, sides: list[TokenRepresentations], where: Path, mark: str = "mark") -> list[Any]:
    return [scorer.load(side, j, folded=(where / str(j), mark)) for j, side in enumerate(sides)]


@pytest.mark.parametrize(("head", "kernel"), kernels_for("compared", "feed_forward", "two_layers"))
def test_a_text_is_folded_once_whatever_the_memory(tiny_encoder: Path, tmp_path: Path, head: str, kernel: Any) -> None:
    model = make_model(tiny_encoder, head, ONE)
    sides = make_sides(model, LEFT, RIGHT)
    exact = Scorer(model, kernel=kernel).best(*sides, top_k=7)
    scorer = Scorer(model, kernel=kernel, memory_bytes=20_000)
    loaded = _loaded(scorer, sides, tmp_path)
    assert not any(side.fits(2) for side in loaded)
    for _ in range(2):
        found = scorer.best(*loaded, top_k=7)
        np.testing.assert_array_equal(found.rows, exact.rows)
        np.testing.assert_allclose(found.scores, exact.scores, atol=2e-6)
        assert [side.folded_texts for side in loaded] == [LEFT, RIGHT]
    again = _loaded(scorer, sides, tmp_path)
    np.testing.assert_array_equal(scorer.best(*again, top_k=7).rows, exact.rows)
    assert [side.folded_texts for side in again] == [0, 0]


@pytest.mark.parametrize(("head", "kernel"), kernels_for("compared", "feed_forward"))
def test_candidates_are_folded_once_too(
    tiny_encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, head: str, kernel: Any
) -> None:
    model = make_model(tiny_encoder, head, ONE)
    sides = make_sides(model, LEFT, RIGHT)
    asked: dict[str, Any] = {"top_k": 5, "num_candidates": 40, "index": "flat"}
    expected = Scorer(model, kernel=kernel).candidates(*sides, **asked)
    scorer = Scorer(model, kernel=kernel, memory_bytes=20_000)
    monkeypatch.setattr("distilmatch.engine.scorer._PAIRS_A_STEP", 1000)
    loaded = _loaded(scorer, sides, tmp_path)
    found = scorer.candidates(*loaded, **asked)
    np.testing.assert_array_equal(found.rows, expected.rows)
    np.testing.assert_allclose(found.scores, expected.scores, atol=2e-6)
    assert loaded[1].folded_texts <= RIGHT


def test_files_of_something_else_are_made_anew_and_damaged_ones_refused(tiny_encoder: Path, tmp_path: Path) -> None:
    model = make_model(tiny_encoder, "compared", ONE)
    sides = make_sides(model, LEFT, RIGHT)
    scorer = Scorer(model, kernel="torch", memory_bytes=20_000)
    expected = scorer.best(*sides, top_k=3)
    scorer.best(*_loaded(scorer, sides, tmp_path), top_k=3)
    other = _loaded(scorer, sides, tmp_path, mark="another model's")
    np.testing.assert_array_equal(scorer.best(*other, top_k=3).rows, expected.rows)
    assert other[1].folded_texts == RIGHT
    place = tmp_path / "1" / "chunk-000001.safetensors"
    whole = place.read_bytes()
    for at in (len(whole) - 1, len(whole) // 2, 30, 3):
        place.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        loaded = _loaded(scorer, sides, tmp_path, mark="another model's")
        try:
            found = scorer.best(*loaded, top_k=3)
        except CacheError as error:
            assert "folded texts" in str(error) and "delete" in str(error)
        else:  # the flipped bit was in what it says it is of: it is folded again
            np.testing.assert_array_equal(found.rows, expected.rows)
            assert loaded[1].folded_texts > 0
    place.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CacheError, match="are damaged"):
        scorer.best(*_loaded(scorer, sides, tmp_path, mark="another model's"), top_k=3)


def test_a_full_disk_is_told_and_nothing_half_written_is_left(
    tiny_encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make_model(tiny_encoder, "feed_forward", ONE)
    sides = make_sides(model, LEFT, RIGHT)
    scorer = Scorer(model, kernel="torch", memory_bytes=20_000)
    loaded, written, move = _loaded(scorer, sides, tmp_path), [], folded_files.move_into_place

    def full(temporary: Path, path: Path) -> None:
        if len(written) == 3:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written.append(path)
        move(temporary, path)

    monkeypatch.setattr(folded_files, "move_into_place", full)
    with pytest.raises(CacheError, match="the disk is full"):
        scorer.best(*loaded, top_k=3)
    assert sorted(path for path in tmp_path.rglob("*") if path.is_file()) == sorted(written)


@needs_native
def test_packed_texts_refuse_bytes_that_are_not_theirs(tiny_encoder: Path) -> None:
    model = make_model(tiny_encoder, "compared", ONE)
    scorer = Scorer(model, kernel="native")
    texts = scorer.kernel.prepare(make_sides(model, 5, 5)[0], 0)
    kind, facts, packed = type(texts), [int(fact) for fact in texts.facts], texts.packed_bytes()
    assert len(kind.opened(packed, 5, facts)) == 5
    for count, wrong in ((4, facts), (-1, facts), (2**60, facts), (5, [*facts[:-1], 0]), (5, facts[:3]), (5, [0] * 7)):
        with pytest.raises(ValueError):
            kind.opened(packed, count, wrong)
    spoiled = packed.copy()
    spoiled[:] = 255  # so many real tokens no text has
    with pytest.raises(ValueError, match="real tokens"):
        kind.opened(spoiled, 5, facts)
    with pytest.raises(ValueError):
        texts.put(0, texts)  # only room is filled
    room = kind.room(7, facts)
    for start in (-1, 3, 2**62):
        with pytest.raises(ValueError):
            room.put(start, texts)
    with pytest.raises(ValueError):
        kind.room(2**40, facts)
    part = texts.part(1, 4).part(1, 2)
    del texts
    assert len(part) == 1 and (part.packed_bytes() != 0).any()


@pytest.mark.parametrize("native", [False, pytest.param(True, marks=needs_native)])
def test_the_best_go_on_from_what_they_were(native: bool) -> None:
    from distilmatch.engine.kernels.native_module import NativeBestRows

    kind: Any = NativeBestRows if native else BestRows
    scores = torch.randn(9, 400).round(decimals=1)  # with ties
    whole, one, other = kind(9, 6), kind(9, 6), kind(9, 6)
    whole.add(0, scores, 0)
    one.add(0, scores[:, :150], 0)
    told = one.best()
    other.restore(*told)
    for going_on in (one, other):
        going_on.add(0, scores[:, 150:], 150)
        for found, expected in zip(going_on.best(), whole.best(), strict=True):
            np.testing.assert_array_equal(found, expected)
    few = kind(2, 6)
    few.add(0, scores[:2, :3], 0)
    again = kind(2, 6)
    again.restore(*few.best())
    np.testing.assert_array_equal(again.best()[1], few.best()[1])


def test_numbers_that_are_not_finite_are_named_wherever_the_block(tiny_encoder: Path, tmp_path: Path) -> None:
    model: DiPair = make_model(tiny_encoder, "compared", ONE)
    sides = make_sides(model, LEFT, RIGHT)
    sides[1].tokens[170, 0, 0] = float("nan")
    scorer = Scorer(model, kernel="torch", memory_bytes=20_000)
    with pytest.raises(ModelError, match="row 170"):
        scorer.best(*_loaded(scorer, sides, tmp_path), top_k=3)
