"""How many tokens are kept, chosen from the texts."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
from transformers import AutoTokenizer

from distilmatch import DiPair, PairRecipe, StudentConfig, TableConfig, TaskConfig, TeacherConfig
from distilmatch.training.pairs.distil import new_student
from distilmatch.training.pairs.kept import (
    kept_for,
    numbered_share,
    token_counts,
    with_kept_tokens,
    with_lexical,
    with_shape,
)
from distilmatch.types import TupleTable


def _table(left: int, right: int, rows: int = 40) -> TupleTable:
    """Texts of about `left` and `right` words."""
    rng = np.random.default_rng(0)
    words = ["red", "blue", "lamp", "dog", "ball", "cup", "green"]
    sides = [
        [" ".join(rng.choice(words, max(1, length + int(rng.integers(-1, 2))))) + f" {i}" for i in range(rows)]
        for length in (left, right)
    ]
    numbers = np.arange(rows)
    return TupleTable(texts=[*sides[0], *sides[1]], rows=np.stack([numbers, rows + numbers], 1))


def test_nine_in_ten_texts_are_whole(tiny_encoder: Path) -> None:
    table = _table(4, 20)
    student = with_kept_tokens(StudentConfig(max_lengths=(64, 64)), [tiny_encoder], table)
    tokenizer = AutoTokenizer.from_pretrained(tiny_encoder)
    for side, kept in enumerate(student.kept_tokens):
        lengths = [len(tokenizer(table.texts[i])["input_ids"]) for i in table.rows[:, side]]
        assert list(token_counts(student, tiny_encoder, table, side)) == lengths
        assert np.mean(np.array(lengths) <= kept) >= 0.9
        assert kept % 4 == 0 and kept - 8 <= np.quantile(lengths, 0.9)
    assert student.kept_tokens[0] < student.kept_tokens[1]


@pytest.mark.parametrize(
    ("lengths", "max_length", "kept"),
    [
        ([3] * 10, 128, 8),
        ([33] * 10, 128, 36),
        ([500] * 10, 512, 48),
        ([30] * 10, 24, 24),
        ([10] * 19 + [90], 128, 12),
        ([5], 4, 4),
    ],
)
def test_the_choice(lengths: list[int], max_length: int, kept: int) -> None:
    assert kept_for(np.array(lengths), max_length) == kept


def test_what_is_given_stays_and_a_loss_is_said(tiny_encoder: Path, caplog: pytest.LogCaptureFixture) -> None:
    given = StudentConfig(max_lengths=(64, 64), kept_tokens=(8, 8))
    with caplog.at_level(logging.INFO, logger="distilmatch"):
        assert with_kept_tokens(given, [tiny_encoder], _table(4, 20)).kept_tokens == (8, 8)
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == 1 and "right: 8 of" in said[0] and "kept_tokens" in said[0]


def test_other_heads_keep_what_they_kept(tiny_encoder: Path) -> None:
    student = StudentConfig(max_lengths=(64, 12), head="feed_forward")
    assert with_kept_tokens(student, [tiny_encoder], _table(4, 20)) is student
    assert DiPair.from_encoder(tiny_encoder, student).student.kept_tokens == (16, 12)


def test_a_recipe_leaves_the_choice_to_its_texts(tiny_encoder: Path) -> None:
    recipe = PairRecipe(
        train="train.jsonl",
        output="run",
        task=TaskConfig(kind="binary"),
        table=TableConfig(label_column="label"),
        teacher=TeacherConfig(models=("teacher",)),
        encoder=(str(tiny_encoder),),
        student=StudentConfig(max_lengths=(32, 64), head_start="random"),
        start="encoder",
    )
    assert new_student(recipe).student.kept_tokens == (16, 16)  # no text is known
    short, long = new_student(recipe, _table(3, 30)).student.kept_tokens
    assert short == 8 and 30 < long <= 48


def _numbered(share: float, rows: int = 50) -> TupleTable:
    """Rows of which a share has numbers in both texts; the others in one."""
    left = [f"lamp {i}" for i in range(rows)]
    right = [f"blue lamp {i}" if i < share * rows else f"blue lamp {'x' * i}" for i in range(rows)]
    numbers = np.arange(rows)
    return TupleTable(texts=[*left, *right], rows=np.stack([numbers, rows + numbers], 1))


@pytest.mark.parametrize(("share", "lexical"), [(0.0, False), (0.18, False), (0.2, True), (1.0, True)])
def test_numbers_make_a_student_lexical(
    tiny_encoder: Path, caplog: pytest.LogCaptureFixture, share: float, lexical: bool
) -> None:
    table = _numbered(share)
    assert numbered_share(table) == pytest.approx(share)
    with caplog.at_level(logging.INFO, logger="distilmatch"):
        student = with_shape(StudentConfig(), [tiny_encoder], table)
    assert student.lexical is lexical
    said = "yes" if lexical else "no"
    assert f"lexical vector: {said}; {100 * share:.0f} % of the rows" in caplog.text


def test_what_is_said_of_lexical_vectors_stays(tiny_encoder: Path) -> None:
    table = _numbered(1.0)
    for given in (
        StudentConfig(lexical=False),
        StudentConfig(head="cosine"),
        StudentConfig(width=8),
        StudentConfig(width=4096),
    ):
        assert with_lexical(given, [tiny_encoder], table) is given
    assert with_lexical(StudentConfig(width=16), [tiny_encoder], table).lexical


def test_a_new_student_counts_the_terms_of_its_texts(tiny_encoder: Path, tmp_path: Path) -> None:
    recipe = PairRecipe(
        train=str(tmp_path / "train.jsonl"),
        output=str(tmp_path / "run"),
        encoder=(str(tiny_encoder),),
        task=TaskConfig(kind="binary"),
        table=TableConfig(label_column="label", teacher_columns=("logit",)),
        student=StudentConfig(max_lengths=(24, 24)),
    )
    table = _numbered(1.0)
    student = new_student(recipe, table)
    part = student.head_inputs[0].lexical
    assert student.student.lexical and part is not None
    assert int(part.counted) == len(table.texts) and int(part.found.max()) >= len(table.texts)  # type: ignore[union-attr]
