"""A teacher's classes are found by their names; names that are not the task's are an error that shows both lists."""

from __future__ import annotations

from itertools import permutations

import pytest

from distilmatch.errors import DistilmatchError

from .setup import Setup
from .teachers import TEACHER_DOORS, teacher_that_says

CLASSES = ("entailment", "neutral", "contradiction")


@pytest.mark.parametrize(
    "order", list(permutations(CLASSES))[1:], ids=lambda order: "-".join(name[0] for name in order)
)
@pytest.mark.parametrize("door", TEACHER_DOORS)
def test_classes_in_another_order_are_found_by_name(setup: Setup, door: str, order: tuple[str, ...]) -> None:
    if door == "distil_pairs" and order != ("contradiction", "entailment", "neutral"):
        pytest.skip("one training is enough")
    for answer in CLASSES if door != "distil_pairs" else ("entailment",):
        assert TEACHER_DOORS[door](setup, teacher_that_says(setup, order, answer), CLASSES, answer) == {answer}


@pytest.mark.parametrize("door", TEACHER_DOORS)
def test_capitals_and_underscores_are_the_same_names(setup: Setup, door: str) -> None:
    if door == "distil_pairs":
        pytest.skip("as label_transfer_set")
    teacher = teacher_that_says(setup, ("CONTRADICTION", "Entailment", "NEUTRAL"), "Entailment")
    found = TEACHER_DOORS[door](setup, teacher, CLASSES, "entailment")
    assert {name.lower() for name in found} == {"entailment"}


@pytest.mark.parametrize("names", [("entailment", "neutral", "other"), ("yes", "maybe", "no")])
@pytest.mark.parametrize("door", TEACHER_DOORS)
def test_other_names_are_refused_with_both_lists(setup: Setup, door: str, names: tuple[str, ...]) -> None:
    with pytest.raises(DistilmatchError) as refused:
        TEACHER_DOORS[door](setup, teacher_that_says(setup, names, names[0]), CLASSES, "entailment")
    assert all(name in str(refused.value) for name in (*names, *CLASSES))
