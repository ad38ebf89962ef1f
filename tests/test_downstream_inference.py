"""Intervals over seeds, Holm, label saving: known answers, and what comes of no effect at all."""

import numpy as np
import pytest

from synthcxr.downstream.inference import holm, label_saving, label_saving_interval, over_seeds

FRACTIONS = (0.05, 0.1, 0.25, 1.0)


def curve(fraction: np.ndarray | float) -> np.ndarray | float:
    return 0.8 + 0.05 * np.log(fraction)


def test_holm_gives_the_published_values() -> None:
    # The same as statsmodels' multipletests(..., method="holm").
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.9]) == [1.0, 1.0] and holm([]) == [] and holm([0.02]) == [0.02]


@pytest.mark.parametrize("fraction", [0.05, 0.1, 0.25])
@pytest.mark.parametrize("factor", [0.9, 1.0, 2.0, 3.5])
def test_label_saving_finds_the_factor_of_a_constructed_curve(fraction: float, factor: float) -> None:
    real = curve(np.array(FRACTIONS))
    found = label_saving(FRACTIONS, real, float(curve(factor * fraction)), fraction)
    if factor * fraction < FRACTIONS[0]:
        assert found.bound == "at most" and found.factor == pytest.approx(FRACTIONS[0] / fraction)
    else:
        assert found.bound is None and found.factor == pytest.approx(factor)


def test_label_saving_says_where_the_curve_ends() -> None:
    real = curve(np.array(FRACTIONS))
    beyond = label_saving(FRACTIONS, real, float(real[-1]) + 0.01, 0.1)
    assert beyond.bound == "at least" and beyond.factor == pytest.approx(10)
    draws = np.tile(real[:, None, None], (1, 5, 50))
    low, high = label_saving_interval(FRACTIONS, draws, np.full((5, 50), 2.0), 0.1, 0)
    assert low == high == pytest.approx(10)


def test_a_curve_that_dips_is_made_monotone() -> None:
    found = label_saving((0.1, 0.2, 0.4), np.array([0.7, 0.69, 0.8]), 0.75, 0.1)
    assert found.bound is None and 2 < found.factor < 4


def test_a_strong_effect_is_found_and_no_effect_seldom() -> None:
    """Of data with spread both between seeds and between patients, 5% of intervals leave the truth out, or fewer."""
    rng = np.random.default_rng(0)
    missed = 0
    for _ in range(300):
        patient = rng.normal(0, 0.01)
        values = patient + rng.normal(0, 0.01, 5)
        draws = values[:, None] + rng.normal(0, 0.01, 200)[None]
        none = over_seeds(values, draws)
        missed += not none.low <= 0 <= none.high
        assert (none.p < 0.05) == (not none.low <= 0 <= none.high)
        strong = over_seeds(values + 0.2, draws + 0.2)
        assert strong.p < 0.001 and strong.low > 0.1
    assert missed <= 300 * 0.05 + 3 * np.sqrt(300 * 0.05 * 0.95)


def test_few_seeds_that_disagree_tell_little() -> None:
    draws = np.tile(np.array([[0.1], [0.0]]), (1, 100))
    two = over_seeds(np.array([0.1, 0.0]), draws)
    assert two.high - two.low > 1  # Student's t with one degree of freedom
    same = over_seeds(np.zeros(5), np.zeros((5, 100)))
    assert (same.value, same.low, same.high, same.p) == (0, 0, 0, 1)
