"""Altered copies of texts."""

from __future__ import annotations

import re

import numpy as np
import pytest

from distilmatch.data.perturb import perturb

RECORD = "lenovo back pack 15 inch; brand lenovo; model 41u5254; price 44.99"
DONOR = "hp basic backpack 17; brand hp; model H2W17AA; price 24.88"


def _copies(text: str, donor: str, count: int = 400) -> list[str]:
    rng = np.random.default_rng(0)
    return [perturb(text, rng, donor) for _ in range(count)]


def test_numbers_change_by_a_digit_or_to_the_donor() -> None:
    copies = _copies(RECORD, DONOR)
    digit = [
        copy
        for copy in copies
        if len(copy) == len(RECORD) and sum(a != b for a, b in zip(copy, RECORD, strict=True)) == 1
    ]
    assert len(digit) > 40
    for copy in digit:
        (place,) = [i for i, (a, b) in enumerate(zip(copy, RECORD, strict=True)) if a != b]
        assert RECORD[place].isdigit() and copy[place].isdigit()
    assert any("H2W17AA" in copy and "brand lenovo" in copy and "price 44.99" in copy for copy in copies)


def test_fields_are_dropped_and_moved_whole() -> None:
    fields = RECORD.split("; ")
    copies = _copies(RECORD, DONOR)
    dropped = [copy for copy in copies if copy.split("; ") in [fields[:i] + fields[i + 1 :] for i in range(4)]]
    moved = [copy for copy in copies if sorted(copy.split("; ")) == sorted(fields) and copy != RECORD]
    assert len(dropped) > 20 and len(moved) > 20


def test_sentences_without_numbers_change_by_words() -> None:
    copies = _copies("a man is playing a guitar", "two dogs run in a field")
    assert not any(re.search(r"\d", copy) for copy in copies)
    known = set("a man is playing a guitar two dogs run in a field".split())
    assert all(set(copy.split()) <= known for copy in copies)
    assert any(copy.startswith("a man") and copy.endswith("field") for copy in copies)


@pytest.mark.parametrize("text", ["", "x", "7", "; ", "a; ", "東京の天気", "\n\n", "１２ km", "a\nb"])
@pytest.mark.parametrize("donor", ["", "y 8", "大阪は雨"])
def test_any_text_can_be_altered(text: str, donor: str) -> None:
    assert all(isinstance(copy, str) for copy in _copies(text, donor, 40))


def test_the_same_state_alters_alike() -> None:
    assert _copies(RECORD, DONOR) == _copies(RECORD, DONOR)
