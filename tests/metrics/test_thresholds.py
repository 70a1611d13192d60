"""Thresholds against a slow search through every cut, on random scores with many ties."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from distilmatch.errors import ConfigError, DataError
from distilmatch.metrics.thresholds import Cut, Cuts, parsed_name, threshold_asked

_ROWS = st.lists(st.tuples(st.booleans(), st.integers(-4, 4)), min_size=1, max_size=30).filter(
    lambda rows: any(positive for positive, _ in rows)
)


def slow_cuts(gold: list[bool], scores: list[float]) -> list[Cut]:
    """Each way to cut, the strictest first, by going through all rows."""
    cuts = []
    for lowest in sorted(set(scores), reverse=True):
        said = [score >= lowest for score in scores]
        hits = sum(a and b for a, b in zip(gold, said, strict=True))
        precision, recall = hits / sum(said), hits / sum(gold)
        cuts.append(Cut(threshold=lowest, precision=precision, recall=recall, f1=2 * hits / (sum(said) + sum(gold))))
    return cuts


def as_said(cuts: Cuts, cut: Cut, scores: list[float]) -> float:
    """The lowest score that a threshold keeps."""
    assert cut in [cuts.at(place) for place in range(len(cuts.thresholds))]
    return min(score for score in scores if score > cut.threshold)


@given(_ROWS, st.floats(0.01, 1.0), st.sampled_from((1.0, 1 / 3, 1e-6, 1e6)))
def test_thresholds_are_those_of_a_slow_search(rows: list[tuple[bool, int]], wanted: float, unit: float) -> None:
    gold, scores = [positive for positive, _ in rows], [float(np.float32(number * unit)) for _, number in rows]
    cuts, slow = Cuts.of(np.array(gold), np.array(scores)), slow_cuts(gold, scores)
    for place, each in enumerate(slow):
        found = cuts.at(place)
        assert as_said(cuts, found, scores) == each.threshold
        assert (found.precision, found.recall, found.f1) == (each.precision, each.recall, each.f1)
    best = max(slow, key=lambda cut: (cut.f1, cut.threshold))
    assert as_said(cuts, cuts.best_f1(), scores) == best.threshold
    enough = [cut for cut in slow if cut.precision >= wanted]
    found_precision = cuts.for_precision(wanted)
    assert (found_precision is None) == (not enough)
    if found_precision is not None:
        most = max(enough, key=lambda cut: (cut.recall, cut.precision))
        assert as_said(cuts, found_precision, scores) == most.threshold
    enough = [cut for cut in slow if cut.recall >= wanted]
    purest = max(enough, key=lambda cut: (cut.precision, cut.recall))
    assert as_said(cuts, cuts.for_recall(wanted), scores) == purest.threshold


@given(_ROWS)
def test_thresholds_lie_midway_between_two_scores(rows: list[tuple[bool, int]]) -> None:
    gold, scores = np.array([positive for positive, _ in rows]), np.array([float(number) for _, number in rows])
    cuts = Cuts.of(gold, scores)
    levels = np.unique(scores)[::-1]
    assert cuts.thresholds[:-1].tolist() == ((levels[:-1] + levels[1:]) / 2).tolist()
    assert levels[-1] - 1e-5 < cuts.thresholds[-1] < levels[-1]


@given(_ROWS, st.lists(st.integers(0, 29), min_size=1, max_size=40))
def test_weights_are_repeated_rows(rows: list[tuple[bool, int]], drawn: list[int]) -> None:
    gold, scores = np.array([positive for positive, _ in rows]), np.array([number for _, number in rows])
    chosen = np.array(drawn) % len(rows)
    weights = np.bincount(chosen, minlength=len(rows))
    if not gold[chosen].any():
        with pytest.raises(DataError, match="no row is a match"):
            Cuts.of(gold, scores, weights)
        return
    one, other = Cuts.of(gold, scores, weights), Cuts.of(gold[chosen], scores[chosen])
    for name in ("thresholds", "true_positives", "predicted"):
        assert getattr(one, name).tolist() == getattr(other, name).tolist()


@given(_ROWS, st.integers(1, 200))
def test_the_table_answers_every_share(rows: list[tuple[bool, int]], step: int) -> None:
    gold, scores = np.array([positive for positive, _ in rows]), np.array([number for _, number in rows])
    cuts = Cuts.of(gold, scores)
    table = cuts.table()
    assert cuts.best_f1() in table and cuts.for_recall(step / 200) in table
    precise = cuts.for_precision(step / 200)
    assert precise is None or precise in table
    for before, after in zip(table[:-1], table[1:], strict=True):
        assert before.threshold > after.threshold
        assert before.precision > after.precision and before.recall < after.recall


def test_neighbouring_numbers_are_told_apart() -> None:
    high = 1.0
    low = np.nextafter(high, 0.0)
    cut = Cuts.of(np.array([1, 0]), np.array([high, low])).best_f1()
    assert cut.f1 == 1.0 and (high > cut.threshold) and not (low > cut.threshold)


def test_names() -> None:
    assert parsed_name("best_f1") == ("best_f1", 0.0)
    assert parsed_name(" precision=0.95") == ("precision", 0.95)
    assert threshold_asked("0.25") == 0.25 and threshold_asked("recall=1") == "recall=1"
    for wrong in ("best_f2", "precision", "precision=0", "recall=1.5", "recall=nan", "best_f1=1", "nan", ""):
        with pytest.raises(ConfigError, match="no threshold is called"):
            threshold_asked(wrong)
    with pytest.raises(ConfigError, match="did you mean 'precision'"):
        parsed_name("precison=0.9")


def test_what_cannot_be_cut_is_refused() -> None:
    with pytest.raises(DataError, match="no row is a match"):
        Cuts.of(np.zeros(3), np.arange(3))
    with pytest.raises(DataError, match="one gold label and one score"):
        Cuts.of(np.ones(3), np.arange(4))
    with pytest.raises(DataError, match="no finite number"):
        Cuts.of(np.ones(2), np.array([0.0, np.nan]))
