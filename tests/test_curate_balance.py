"""Columns come out independent, and what can't be made so is said."""

import numpy as np
import pytest
from curate_images import record
from hypothesis import given, settings
from hypothesis import strategies as st

from synthcxr.data.curate.balance import associate, balance, rake
from synthcxr.data.curate.columns import Column, column, known_column
from synthcxr.data.curate.config import BalanceConfig
from synthcxr.data.record import Record
from synthcxr.errors import DatasetError


def _planted(n: int = 4000, seed: int = 0) -> list[Record]:
    """Pneumothorax with a correlation of 0.95 to chest tubes, and AP films of men mostly; some without any label."""
    rng = np.random.default_rng(seed)
    records = []
    for number in range(n):
        pneumothorax = rng.random() < 0.4
        tube = pneumothorax if rng.random() < 0.976 else not pneumothorax
        male = rng.random() < 0.5
        view = "AP" if rng.random() < (0.7 if male else 0.3) else "PA"
        findings = {"Pneumothorax": "present" if pneumothorax else "absent", "Edema": "absent"}
        findings |= {"Chest Tube": "present"} if tube else {}
        condition = {"findings": findings, "sex": "male" if male else "female", "view": view}
        if number % 50 == 0:
            condition = {"sex": "male", "view": None}
        records.append(record(number, condition=condition))
    return records


PAIRS = (("Pneumothorax", "Chest Tube"), ("sex", "view"))


def _balance(records: list[Record], pairs=PAIRS, weights=None, **changes) -> np.ndarray:
    weights = np.ones(len(records)) if weights is None else weights
    return balance(records, weights, np.zeros(len(records), bool), BalanceConfig(pairs=pairs, **changes), seed=0)


def _associations(records: list[Record], weights: np.ndarray, pairs=PAIRS):
    return [associate(column(records, one), column(records, other), weights) for one, other in pairs]


def test_the_planted_correlation_is_there():
    records = _planted()
    codes = [column(records, name).codes for name in PAIRS[0]]
    known = (codes[0] >= 0) & (codes[1] >= 0)
    assert np.corrcoef(codes[0][known], codes[1][known])[0, 1] == pytest.approx(0.95, abs=0.01)
    tube, sex = _associations(records, np.ones(len(records)))
    assert tube.odds_ratio > 500 and tube.mutual_information > 0.7 and tube.images == known.sum() == 3920
    assert 4 < 1 / sex.odds_ratio < 7


@pytest.mark.parametrize("margins", ["kept", "equal"])
def test_weights_make_all_pairs_independent_and_keep_every_image(margins):
    records = _planted()
    weights = _balance(records, method="weight", margins=margins)
    assert np.all(weights > 0) and weights.sum() == pytest.approx(len(records))
    for association in _associations(records, weights):
        assert association.odds_ratio == pytest.approx(1, abs=1e-6) and association.mutual_information < 1e-9
    share = weights[[r.condition.sex == "male" and r.condition.view is not None for r in records]].sum() / 3920
    male = np.mean([r.condition.sex == "male" for r in records if r.condition.view])
    assert share == pytest.approx(0.5 if margins == "equal" else male, abs=1e-6)


@pytest.mark.parametrize("margins", ["kept", "equal"])
def test_a_subsample_is_independent_even_without_its_weights(margins):
    records = _planted()
    weights = _balance(records, [PAIRS[0]], margins=margins)
    (counted,) = _associations(records, (weights > 0).astype(float), PAIRS[:1])
    (weighted,) = _associations(records, weights, PAIRS[:1])
    assert counted.odds_ratio == pytest.approx(1, abs=0.05) and counted.images >= 100
    assert weighted.odds_ratio == pytest.approx(1, abs=1e-6)
    unlabelled = [index for index, r in enumerate(records) if not r.condition.findings]
    assert np.all(weights[unlabelled] == 1)


def test_a_subsample_leaves_no_more_out_than_it_must():
    """10, 40, 40 and 160 images are independent already; ten more in one cell have to go again."""
    cells = [("male", "AP", 10), ("male", "PA", 40), ("female", "AP", 40), ("female", "PA", 160)]
    records = [record(n, condition={"sex": s, "view": v}) for s, v, count in cells for n in range(count)]
    assert np.all(_balance(records, [PAIRS[1]]) == 1)
    records = [r.model_copy(update={"id": f"{n}"}) for n, r in enumerate([*records, *records[:10]])]
    weights = _balance(records, [PAIRS[1]])
    (after,) = _associations(records, (weights > 0).astype(float), [PAIRS[1]])
    assert after.odds_ratio == pytest.approx(1, abs=0.1)
    assert np.all(weights[:10] + weights[250:] <= 2.5) and 120 < (weights > 0).sum() < 260


def test_images_named_first_are_left_out_last():
    records = _planted(1000)
    first = np.arange(len(records)) % 10 == 0
    weights = balance(records, np.ones(1000), first, BalanceConfig(pairs=PAIRS[1:]), seed=0)
    assert (weights[first] > 0).mean() > (weights[~first] > 0).mean() + 0.2


def test_given_weights_are_balanced_not_replaced():
    records = _planted()
    given_weights = np.random.default_rng(1).uniform(1, 9, len(records))
    for method in ("weight", "subsample"):
        weights = _balance(records, [PAIRS[0]], given_weights, method=method)
        (after,) = _associations(records, weights, PAIRS[:1])
        assert after.odds_ratio == pytest.approx(1, abs=1e-6)
        factor = weights / given_weights
        assert len(np.unique(factor.round(9))) <= 6  # one a cell, 1 for the unlabelled, 0 for those left out


def test_it_depends_on_seed_and_ids_not_on_the_order():
    records = _planted(500)
    weights = _balance(records, [PAIRS[1]])
    turned = _balance(records[::-1], [PAIRS[1]])[::-1]
    assert np.array_equal(weights > 0, turned > 0)


@pytest.mark.parametrize("method", ["weight", "subsample"])
def test_an_empty_cell_is_named(method):
    records = [record(n, condition={"sex": "male", "view": "AP" if n % 2 else "PA"}) for n in range(8)]
    records += [record(9, condition={"sex": "female", "view": "AP"})]
    with pytest.raises(DatasetError, match="no image is left with sex female and view PA.*leave the pair out"):
        _balance(records, [PAIRS[1]], method=method)


@settings(max_examples=40)
@given(st.lists(st.tuples(*[st.integers(-1, 2)] * 3), min_size=1, max_size=60), st.booleans())
def test_raking_holds_for_tables_of_any_size(rows, equal):
    full = [(a, b, c) for a in range(3) for b in range(3) for c in range(3)]
    codes = np.array(full + rows)
    a, b, c = (Column(name, ("x", "y", "z"), codes[:, place]) for place, name in enumerate("abc"))
    weights = rake([(a, b), (b, c)], np.ones(len(codes)), equal)
    assert np.all(weights > 0)
    for pair in ((a, b), (b, c)):
        assert associate(*pair, weights).mutual_information < 1e-5
        assert associate(*pair, weights).odds_ratio is None


def test_mutual_information_and_odds_of_known_tables():
    def told(table):
        places = [(i, j) for i, row in enumerate(table) for j, count in enumerate(row) for _ in range(count)]
        codes = np.array(places)
        one, other = (Column(name, ("yes", "no"), codes[:, k]) for k, name in enumerate("ab"))
        return associate(one, other, np.ones(len(codes)))

    assert (told([[5, 0], [0, 5]]).odds_ratio, told([[5, 0], [0, 5]]).mutual_information) == (np.inf, 1.0)
    assert told([[6, 2], [3, 4]]).odds_ratio == 4.0
    assert told([[4, 0], [2, 0]]).odds_ratio is None


def test_columns_and_their_unknowns():
    records = [
        record(0, condition={"findings": {"Edema": "present"}, "age": 19, "sex": "male"}),
        record(1, condition={"findings": {"Edema": "uncertain"}, "age": 80}),
        record(2, condition={"findings": {"Mass": "present"}, "age": 20}),
        record(3),
    ]
    assert column(records, "Edema").codes.tolist() == [0, -1, 1, -1]
    ages = column(records, "age")
    assert [ages.levels[code] if code >= 0 else None for code in ages.codes] == ["0-19", "80+", "20-39", None]
    assert column(records, "sex").codes.tolist() == [0, -1, -1, -1]
    assert (known_column("SEX"), known_column("pleural effusions")) == ("sex", "Pleural Effusion")
    with pytest.raises(ValueError, match="'vieww' is neither; did you mean 'view'"):
        known_column("vieww")
