"""The statistics of copying: exact where they claim to be, and silent on fresh real images."""

import numpy as np
import pytest

from synthcxr.errors import UserError
from synthcxr.evaluation import scores
from synthcxr.evaluation.copying import (
    AuditError,
    authentic,
    authenticity_gap,
    calibrated_p,
    data_copying,
    excess_rate,
    flagged_by,
    flagged_level,
    fresh_rates,
    told_apart,
)
from synthcxr.evaluation.feature_set import one_a_patient

stats = pytest.importorskip("scipy.stats")
pytest.importorskip("sklearn")


def test_p_counts_held_out_images_that_lie_as_near():
    p = calibrated_p(np.array([0.5, 1, 2.5, 9]), np.array([4.0, 2, 1, 3]))
    assert p == pytest.approx(np.array([1, 2, 3, 5]) / 5)


def test_p_is_exact_for_patients_as_units_and_not_for_images():
    """One random image a patient calibrates; counting all images, one patient's long series would set the threshold."""
    rng = np.random.default_rng(0)
    by_patients, by_images = [], []
    for trial in range(4000):
        sizes = np.where(rng.random(25) < 0.2, 40, 1)
        patients = np.repeat(np.arange(25), sizes)
        # Long series lie farther off.
        images = np.repeat(rng.standard_normal(25) + (sizes > 1), sizes) + 0.1 * rng.standard_normal(len(patients))
        held_out = patients < 24
        one = images[held_out][one_a_patient(patients[held_out], trial)]
        assert len(one) == 24
        by_patients.append(calibrated_p(images[~held_out][:1], one)[0] <= 0.08)
        by_images.append(calibrated_p(images[~held_out][:1], images[held_out])[0] <= 0.08)
    assert np.mean(by_patients) == pytest.approx(0.08, abs=0.015)  # 2 of 25 ranks
    assert np.mean(by_images) > 0.16


def test_too_few_held_out_patients_are_refused():
    assert flagged_level(0.01, 99) == (1, 0.01)
    assert flagged_level(0.01, 1234) == (12, pytest.approx(12 / 1235))
    with pytest.raises(AuditError, match="at least 99"):
        flagged_level(0.01, 98)


@pytest.mark.parametrize(("hits", "n"), [(0, 300), (9, 300), (60, 300), (300, 300)])
def test_excess_is_that_of_clopper_and_pearson_for_endless_held_out_patients(hits, n):
    p = np.repeat([0.001, 0.5], [hits, n - hits])
    score = excess_rate("x", p, 0.01, 10**9)
    exact = stats.binomtest(hits, n).proportion_ci(method="exact")
    assert (score.value, score.n, score.direction) == (pytest.approx(hits / n - 0.01), n, "lower")
    assert (score.low, score.high) == pytest.approx((exact.low - 0.01, exact.high - 0.01), abs=2e-5)
    fewer = excess_rate("x", p, 0.01, 150)
    assert fewer.low <= score.low + 1e-3 and fewer.high >= score.high - 1e-3 or hits in (0, n)


@pytest.mark.parametrize("patients", [99, 400, 3000])
def test_excess_of_fresh_images_holds_zero_and_their_rate_keeps_its_range(patients):
    rng = np.random.default_rng(patients)
    zero, kept, low_high = 0, 0, fresh_rates(0.01, patients, 1000)
    for _ in range(300):
        p = calibrated_p(rng.random(1000), rng.random(patients))
        score = excess_rate("x", p, 0.01, patients)
        zero += score.low <= 0 <= score.high
        kept += low_high[0] <= (p <= 0.01).mean() <= low_high[1]
    assert zero / 300 >= 0.93 and 0.93 <= kept / 300


@pytest.mark.parametrize(
    ("patients", "alpha", "least", "most"), [(3000, 0.01, 0.95, 1), (675, 0.003, 0.95, 1), (319, 0.01, 0, 0.5)]
)
def test_one_copy_in_a_hundred_shows_in_the_rate_where_held_out_patients_are_many_enough(patients, alpha, least, most):
    """50 copies, nearer than every held-out patient, among 5,000. With few patients the rate can't tell."""
    rng, found, alarms = np.random.default_rng(patients), 0, 0
    for _ in range(100):
        held_out, fresh = rng.random(patients), rng.random(5000)
        alarms += excess_rate("x", calibrated_p(fresh, held_out), alpha, patients).low > 0
        fresh[:50] = -1
        found += excess_rate("x", calibrated_p(fresh, held_out), alpha, patients).low > 0
    assert least <= found / 100 <= most, found
    assert alarms <= 7


def test_images_of_one_prompt_are_not_independent():
    """Ten seeds of each prompt that are all flagged or all not: the interval is that of the prompts."""
    rng, held = np.random.default_rng(0), {"prompts": 0, "images": 0}
    for _ in range(100):
        p = np.repeat(np.where(rng.random(100) < 0.1, 0.001, 0.9), 10)
        for name, clusters in (("prompts", np.repeat(np.arange(100), 10)), ("images", None)):
            score = excess_rate("x", p, 0.01, 10**6, clusters)
            held[name] += score.low <= 0.09 <= score.high
    assert held["prompts"] >= 92 and held["images"] < 75
    none = excess_rate("x", np.full(1000, 0.9), 0.01, 10**6, np.repeat(np.arange(100), 10))
    assert none.high == pytest.approx(1 - 0.025**0.01 - 0.01, abs=1e-4)  # as of 100 prompts


def test_list_of_suspects_is_that_of_benjamini_and_hochberg():
    p = np.random.default_rng(0).random(200) ** 3
    steps = np.sort(p) <= 0.1 * np.arange(1, 201) / 200
    expected = p <= np.sort(p)[np.flatnonzero(steps)[-1]]
    np.testing.assert_array_equal(flagged_by(p, 0.1), expected)
    assert 0 < expected.sum() < 200


def test_data_copying_is_the_mann_whitney_score_and_falls_with_copies():
    rng = np.random.default_rng(0)
    h, s, one = rng.random(80), rng.random(120), np.zeros(200, int)
    u = stats.mannwhitneyu(s, h).statistic
    score = data_copying("x", h, s, one[:80], one[:120])
    assert score.value == pytest.approx((u - 80 * 120 / 2) / np.sqrt(80 * 120 * 201 / 12))
    assert score.high - score.low == pytest.approx(2 * 1.96, abs=0.01)
    assert data_copying("x", h, s / 2, one[:80], one[:120]).high < 0
    # A cell of copies among honest ones shows by its share; cells with too few count for nothing.
    cells_h, cells_s = np.repeat([0, 1, 2], [40, 30, 10]), np.repeat([0, 1, 2], [60, 50, 10])
    mixed = np.where(cells_s == 0, s / 4, s)

    def alone(cell):
        inside_h, inside_s = cells_h == cell, cells_s == cell
        return data_copying("x", h[inside_h], mixed[inside_s], cells_h[inside_h], cells_s[inside_s]).value

    whole = data_copying("x", h, mixed, cells_h, cells_s)
    assert whole.value == pytest.approx((4 * alone(0) + 3 * alone(1)) / 7) and whole.n == 70
    with pytest.raises(AuditError):
        data_copying("x", h[:5], s, one[:5], one[:120])


def test_authenticity_looks_up_the_nearest_training_image():
    reach = np.array([1.0, 5.0, 0.1])
    np.testing.assert_array_equal(authentic(np.array([2.0, 2.0, 2.0]), np.array([0, 1, 2]), reach), [True, False, True])


def test_authenticity_gap_is_nil_for_fresh_images_and_its_interval_holds():
    rng, held = np.random.default_rng(0), 0
    for _ in range(200):
        prompts = np.repeat(np.arange(40), 5)  # each with a rate of its own, 0.5 in the mean
        made = np.repeat(rng.random(40), 5) > rng.random(200)
        score = authenticity_gap("x", rng.random(150) < 0.5, made, prompts)
        held += score.low <= 0 <= score.high
    assert 0.92 <= held / 200
    extreme = authenticity_gap("x", np.ones(50, bool), np.zeros(80, bool))
    assert extreme.value == 1 and 0.8 < extreme.low < 1 and extreme.high == 1


def test_patients_of_one_collection_are_not_told_apart_and_others_are():
    held = 0
    for seed in range(60):
        rng = np.random.default_rng(seed)
        score = told_apart(rng.standard_normal((200, 6)), rng.standard_normal((60, 6)), seed)
        held += score.low <= 0.5 <= score.high
    assert held >= 54
    rng = np.random.default_rng(0)
    assert told_apart(rng.standard_normal((200, 6)), rng.standard_normal((100, 6)) + 0.3, 0).low > 0.5


def test_without_the_extra_the_remedy_is_named(monkeypatch):
    def missing(name):
        raise ImportError(name)

    monkeypatch.setattr(scores, "import_module", missing)
    with pytest.raises(UserError, match=r'needs scipy: pip install "synthcxr\[eval\]"'):
        excess_rate("x", np.ones(10), 0.01, 200)
