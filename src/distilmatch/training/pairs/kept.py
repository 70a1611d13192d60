"""What of a text a student keeps, chosen from the texts that it will learn from: how many output tokens, and whether words,
numbers and codes to the letter.

What is not kept no training brings back: of product records with 33 tokens, sixteen leave half of what tells two models
apart. Vectors beyond a text's own tokens would be empty. Where texts have numbers, a match hangs on them, and an encoder
hardly tells two numbers apart.

Shape legend: n texts of a side.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from transformers import AutoConfig, AutoTokenizer

from distilmatch.config.pairs import NARROWEST_LEXICAL, StudentConfig
from distilmatch.models.lexical import has_number
from distilmatch.models.streams import Stream
from distilmatch.pretrained.encoder import with_prompts
from distilmatch.pretrained.names import resolve_model
from distilmatch.types import TupleTable

logger = logging.getLogger(__name__)

FEWEST_KEPT, MOST_KEPT = 8, 48
_STEP = 4  # kept tokens are a multiple of it
_QUANTILE = 0.9
_SAMPLE = 2000  # texts of a side that are counted
_NUMBERED = 0.2  # share of the rows with numbers in all their texts from which on a student is lexical
_HALF = 0.75  # of the median text's tokens: below it a loss is said


def with_shape(student: StudentConfig, encoders: Sequence[str | Path], table: TupleTable) -> StudentConfig:
    """The student's shape with what is left open chosen from the texts: `kept_tokens` and `lexical`; said in the log.

    Args:
        encoders: one for all sides, or one a side.
        table: the transfer set.
    """
    return with_lexical(with_kept_tokens(student, encoders, table), encoders, table)


def with_lexical(student: StudentConfig, encoders: Sequence[str | Path], table: TupleTable) -> StudentConfig:
    """The student's shape with `lexical` chosen, where that is left open and its head can read it; said in the log.

    Arguments as of `with_shape`.
    """
    if student.lexical is not None or student.head != "transformer":
        return student
    configs = [AutoConfig.from_pretrained(resolve_model(name), trust_remote_code=False) for name in encoders]
    widest = min(int(config.hidden_size) for config in configs)
    if not NARROWEST_LEXICAL <= (student.width or widest) <= widest:
        return student
    share = numbered_share(table)
    lexical = share >= _NUMBERED
    logger.info(
        "lexical vector: %s; %.0f %% of the rows have numbers in all their texts",
        "yes" if lexical else "no",
        100 * share,
    )
    return student.replaced(lexical=lexical)


def numbered_share(table: TupleTable) -> float:
    """The share of up to 2,000 rows of a table that have numbers in all their texts."""
    rows = table.rows[np.unique(np.linspace(0, len(table) - 1, min(len(table), _SAMPLE)).astype(int))]
    return float(np.mean([all(has_number(table.texts[text]) for text in row) for row in rows.tolist()]))


def with_kept_tokens(student: StudentConfig, encoders: Sequence[str | Path], table: TupleTable) -> StudentConfig:
    """The student's shape with `kept_tokens` chosen, where they are left open and its head is a transformer; said in the log.

    Where they are given and keep less than three quarters of a side's median text, that is said.

    Args:
        encoders: one for all sides, or one a side.
        table: the transfer set.
    """
    if student.head != "transformer":
        return student
    chooses = not student.kept_tokens
    places = [resolve_model(encoder) for encoder in encoders]
    student = with_prompts(student, places[0])
    places *= student.sides // len(places)
    lengths = [token_counts(student, place, table, side) for side, place in enumerate(places)]
    if chooses:
        chosen = tuple(kept_for(own, length) for own, length in zip(lengths, student.max_lengths, strict=True))
        student = student.replaced(kept_tokens=chosen)
    for name, kept, own in zip(student.side_names, student.kept_tokens, lengths, strict=True):
        _say(name, kept, own, chooses)
    return student


def kept_for(lengths: np.ndarray, max_length: int) -> int:
    """The kept tokens that hold nine in ten texts, of (n,) numbers of their tokens."""
    wanted = int(np.quantile(lengths, _QUANTILE, method="higher"))
    rounded = -(-wanted // _STEP) * _STEP
    return min(max(FEWEST_KEPT, min(rounded, MOST_KEPT)), max_length)


def token_counts(student: StudentConfig, encoder: str | Path, table: TupleTable, side: int) -> np.ndarray:
    """(n,) tokens of up to 2,000 texts of a side, as the student reads them: prompt and special tokens included, cut at its
    `max_lengths`.
    """
    texts = np.unique(table.rows[:, side])
    chosen = texts[np.unique(np.linspace(0, len(texts) - 1, min(len(texts), _SAMPLE)).astype(int))]
    stream = Stream.of_side(student, side)
    tokenizer = AutoTokenizer.from_pretrained(encoder, trust_remote_code=False)
    return stream.token_ids(tokenizer, [table.texts[i] for i in chosen]).lengths


def _say(side: str, kept: int, lengths: np.ndarray, chosen: bool) -> None:
    median, most = int(np.median(lengths)), int(np.quantile(lengths, _QUANTILE, method="higher"))
    found = f"texts have {median} tokens (median; {most} at the ninetieth percentile)"
    if chosen:
        logger.info("%s: %d tokens of a text are kept; %s", side, kept, found)
    elif kept < _HALF * median:
        logger.warning(
            "%s: %d of %d tokens kept: %s. No training brings back the others: raise `student.kept_tokens`, or leave it out",
            side, kept, median, found,
        )  # fmt: skip
