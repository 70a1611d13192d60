"""Calibrations against scikit-learn and a general optimiser, and their inverses, on random scores."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize
from scipy.special import expit
from sklearn.isotonic import IsotonicRegression
from sklearn.metrics import log_loss as sk_log_loss

from distilmatch.errors import ConfigError, DataError
from distilmatch.metrics.calibration import (
    FOLDS,
    METHODS,
    Calibration,
    Method,
    _folds,
    expected_calibration_error,
    fit,
    fit_isotonic,
    fit_platt,
    held_out_probabilities,
    log_loss,
    reliability,
)


def drawn(seed: int, rows: int = 400, scale: float = 2.0, shift: float = -1.0) -> tuple[np.ndarray, np.ndarray]:
    """Labels, and logits that are wrong by a scale and a shift."""
    generator = np.random.default_rng(seed)
    truth = generator.normal(size=rows) * 2 - 1
    return (generator.random(rows) < expit(truth)).astype(float), (truth - shift) / scale


def smoothed_loss(weights: np.ndarray, gold: np.ndarray, logits: np.ndarray) -> float:
    """What Platt scaling makes small, written out."""
    p, q = gold.sum(), (1 - gold).sum()
    targets = np.where(gold > 0, (p + 1) / (p + 2), 1 / (q + 2))
    values = weights[0] * logits + weights[1]
    return float(np.mean(np.logaddexp(0, values) - targets * values))


@pytest.mark.parametrize("seed", range(5))
def test_platt_finds_the_least_log_loss(seed: int) -> None:
    gold, logits = drawn(seed, scale=10.0**seed)
    fitted = fit_platt(gold, logits)
    found = np.array([fitted.scale, fitted.shift])
    unit = np.array([logits.std(), 1.0])  # the optimiser needs numbers of one size
    slow = minimize(lambda w: smoothed_loss(w / unit, gold, logits), found * unit * 0.5, method="Nelder-Mead",
                    options={"xatol": 1e-9, "fatol": 1e-14, "maxiter": 10_000})  # fmt: skip
    assert smoothed_loss(found, gold, logits) <= slow.fun + 1e-12
    np.testing.assert_allclose(found * unit, slow.x, rtol=1e-4, atol=1e-5)


def test_platt_mends_a_scale_and_a_shift() -> None:
    gold, logits = drawn(0, rows=50_000)
    fitted = fit_platt(gold, logits)
    assert fitted.scale == pytest.approx(2.0, rel=0.05) and fitted.shift == pytest.approx(-1.0, abs=0.05)
    assert expected_calibration_error(gold, expit(logits)) > 0.08
    assert expected_calibration_error(gold, fitted(logits)) < 0.01


def test_separated_scores_and_scores_of_the_wrong_order() -> None:
    gold = np.array([0.0, 0.0, 1.0, 1.0])
    assert 0.5 < fit_platt(gold, np.array([-2.0, -1.0, 1.0, 2.0])).scale < 10  # the labels alone would say infinite
    wrong = fit_platt(gold, np.array([2.0, 1.0, -1.0, -2.0]))
    assert wrong.scale == 0 and wrong(np.array([3.0])) == pytest.approx([0.5])
    assert fit_platt(gold, np.full(4, 7.0))(np.array([7.0])) == pytest.approx([0.5])


@given(st.lists(st.tuples(st.booleans(), st.integers(-5, 5)), min_size=1, max_size=40))
def test_isotonic_is_scikit_learns_within_its_limits(rows: list[tuple[bool, int]]) -> None:
    gold, logits = np.array([float(positive) for positive, _ in rows]), np.array([float(number) for _, number in rows])
    room = 1 / (len(rows) + 2)
    slow = IsotonicRegression(y_min=room, y_max=1 - room, out_of_bounds="clip").fit(logits, gold)
    asked = np.linspace(-7, 7, 57)
    np.testing.assert_allclose(fit_isotonic(gold, logits)(asked), slow.predict(asked), atol=1e-12)


@given(st.integers(0, 2**32 - 1), st.sampled_from(METHODS), st.floats(0, 1))
def test_a_limit_is_where_the_probability_is_passed(seed: int, method: Method, probability: float) -> None:
    generator = np.random.default_rng(seed)
    logits = generator.integers(-8, 8, 30) / 2
    calibration = fit(method, generator.random(30) < expit(logits), logits)
    limit = calibration.limit(probability)
    asked = np.linspace(-6, 6, 1001)
    asked = asked[np.abs(asked - limit) > 1e-9]  # there rounding decides
    assert ((calibration(asked) > probability) == (asked > limit)).all()


@given(st.integers(0, 2**32 - 1), st.integers(1, 20), st.booleans())
def test_reliability_counts_every_row_once(seed: int, bins: int, equal_mass: bool) -> None:
    generator = np.random.default_rng(seed)
    probabilities = generator.integers(0, 21, 60) / 20
    gold = generator.integers(0, 2, 60).astype(float)
    table = reliability(gold, probabilities, bins=bins, equal_mass=equal_mass)
    assert sum(each.rows for each in table) == 60
    assert sum(each.rows * each.probability for each in table) == pytest.approx(probabilities.sum())
    assert sum(each.rows * each.matches for each in table) == pytest.approx(gold.sum())
    if not equal_mass:
        slow = 0.0
        for place in range(bins):
            within = [
                i for i, p in enumerate(probabilities) if place / bins < p <= (place + 1) / bins or (p == place == 0)
            ]
            if within:
                slow += abs(sum(probabilities[i] - gold[i] for i in within)) / 60
        assert expected_calibration_error(gold, probabilities, bins=bins) == pytest.approx(slow)


def test_log_loss() -> None:
    gold, logits = drawn(1)
    assert log_loss(gold, expit(logits)) == pytest.approx(sk_log_loss(gold, expit(logits)))
    assert log_loss(np.array([1.0]), np.array([0.0])) > 100  # and no infinite number


@pytest.mark.parametrize("method", METHODS)
def test_held_out_rows_are_not_fitted_on(method: Method) -> None:
    gold, logits = drawn(2, rows=200)
    queries = np.random.default_rng(0).permutation(200) // 10
    held = held_out_probabilities(method, gold, logits, seed=3, queries=queries)
    folds = _folds(gold > 0, 3, queries)
    assert len(np.unique(folds)) == FOLDS
    assert all(len(np.unique(folds[queries == query])) == 1 for query in np.unique(queries))
    for fold in range(FOLDS):
        others = folds != fold
        slow = fit(method, gold[others], logits[others])(logits[~others])
        assert held[~others].tolist() == slow.tolist()
    assert log_loss(gold, fit(method, gold, logits)(logits)) < log_loss(gold, held)
    assert held_out_probabilities(method, gold[:1], logits[:1], seed=0).shape == (1,)


def test_folds_have_like_shares_of_matches() -> None:
    positive = np.random.default_rng(1).random(503) < 0.1
    folds = _folds(positive, 0, None)
    counts = [int(positive[folds == fold].sum()) for fold in range(FOLDS)]
    assert max(counts) - min(counts) <= 1


def test_settings_that_are_no_calibration() -> None:
    for wrong in (
        {"method": "platt", "scale": -1.0},
        {"method": "isotonic"},
        {"method": "isotonic", "logits": (0.0, 0.0), "probabilities": (0.1, 0.2)},
        {"method": "isotonic", "logits": (0.0, 1.0), "probabilities": (0.3, 0.2)},
        {"method": "isotonic", "logits": (0.0, 1.0), "probabilities": (0.0, 0.2)},
    ):
        with pytest.raises(ConfigError):
            Calibration(**wrong)
    with pytest.raises(DataError, match="no finite number"):
        fit_platt(np.array([0.0, 1.0]), np.array([0.0, np.inf]))
