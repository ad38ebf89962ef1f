"""Fractions are nested and keep patients whole; a planted shortcut has the correlation that was asked for."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from synthcxr.downstream.subsets import CELLS, cell_weights, nested, phi, planted, shares_of
from synthcxr.errors import UserError


@given(st.lists(st.integers(0, 30), min_size=1, max_size=200), st.integers(0, 5))
def test_fractions_are_nested_and_patients_whole(patients: list[int], seed: int) -> None:
    names = np.array([f"patient-{number}" for number in patients])
    before: set[int] = set()
    for fraction in (0.01, 0.1, 0.25, 0.5, 1.0):
        rows = nested(names, fraction, seed)
        assert before <= set(rows)
        inside = np.isin(np.arange(len(names)), rows)
        assert not set(names[inside]) & set(names[~inside])
        assert len(set(names[inside])) == max(1, -(-round(fraction * 100) * len(set(patients)) // 100))
        before = set(rows)
    assert before == set(range(len(names)))


def test_seeds_take_other_patients() -> None:
    names = np.array([f"patient-{number}" for number in range(100)])
    assert set(nested(names, 0.1, 0)) != set(nested(names, 0.1, 1))


@pytest.mark.parametrize("correlation", [0.0, 0.5, 0.95])
def test_a_shortcut_is_planted_as_asked(correlation: float) -> None:
    rng = np.random.default_rng(0)
    finding, confounder = (rng.random(8000) < 0.3).astype(float), (rng.random(8000) < 0.4).astype(float)
    finding[:50] = np.nan
    rows = planted(finding, confounder, correlation, 0)
    assert not np.isnan(finding[rows]).any() and len(rows) > 500
    assert phi(finding[rows], confounder[rows]) == pytest.approx(correlation, abs=0.01)
    assert finding[rows].mean() == pytest.approx(0.5, abs=0.01)
    weights = cell_weights(finding, confounder, correlation)
    assert weights.sum() == pytest.approx(1) and not weights[:50].any()
    for cell in CELLS:
        own = (finding == cell[0]) & (confounder == cell[1])
        assert weights[own].sum() == pytest.approx(shares_of(correlation)[cell])


def test_an_empty_cell_is_said() -> None:
    both = np.array([1.0, 1.0, 0.0, 0.0])
    with pytest.raises(UserError, match="can't be planted"):
        planted(both, both, 0.5, 0)
