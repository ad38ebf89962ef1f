"""Fairness: scikit-learn's numbers, intervals that hold, gaps that are found where they are and only there."""

import numpy as np
import pytest

from synthcxr.evaluation.fairness import Fairness, operating_point, subgroup_auc, underdiagnosis
from synthcxr.evaluation.resampling import cluster_weights, weighted_auc, weighted_mean

metrics = pytest.importorskip("sklearn.metrics")


def patients_of(rng: np.random.Generator, images: int) -> np.ndarray:
    """Whose each image is: one to four of a patient."""
    return np.repeat(np.arange(images), rng.integers(1, 5, images))[:images]


def scene(rng: np.random.Generator, groups: int, images: int, rate: float, gap: float = 0.0):
    """Images of each group, all ill, whether they're called healthy (patients differ), and their patients.

    Returns:
        called healthy (n,), ill (n,), group (n,), patient (n,).
    """
    parts = []
    for group in range(groups):
        patients = patients_of(rng, images)
        true = rate + (gap if group == 0 else 0.0)
        own = rng.beta(6 * true, 6 * (1 - true), images)[patients]
        parts.append((rng.random(images) < own, np.full(images, f"g{group}"), patients + group * images))
    called, names, patients = (np.concatenate(part) for part in zip(*parts, strict=True))
    return called, np.ones(len(called), dtype=bool), names, patients


def test_areas_are_those_of_scikit_learn_to_the_last_digits():
    rng = np.random.default_rng(0)
    for digits in (1, 12):  # with and without ties
        told, there = np.round(rng.random(300), digits), rng.random(300) < 0.3
        plain = weighted_auc(told, there, np.ones((1, 300)))[0]
        assert plain == pytest.approx(metrics.roc_auc_score(there, told), abs=1e-12)
        weights = cluster_weights(np.repeat(np.arange(100), 3), replicates=5, seed=1)
        expected = [metrics.roc_auc_score(there, told, sample_weight=row) for row in weights]
        assert weighted_auc(told, there, weights) == pytest.approx(expected, abs=1e-12)
    groups, patients = np.repeat(["a", "b", "c"], 100), np.arange(300)
    found = subgroup_auc(told, there, groups, patients, replicates=50)
    expected = [metrics.roc_auc_score(there[groups == g], told[groups == g]) for g in "abc"]
    assert [score.value for score in found.groups] == pytest.approx(expected, abs=1e-12)
    assert found.gap.value == pytest.approx(max(expected) - min(expected), abs=1e-12)
    assert found.spread.value == pytest.approx(np.diff(np.percentile(expected, [10, 90]))[0], abs=1e-12)
    assert found.worst == "abc"[int(np.argmin(expected))]


def test_underdiagnosis_is_the_false_positive_rate_of_no_finding_as_scikit_learn_counts_it():
    rng = np.random.default_rng(1)
    ill, healthy, groups = rng.random(600) < 0.5, rng.random(600), np.repeat(["a", "b"], 300)
    called = healthy > operating_point(healthy, ill)
    assert called.sum() == (~ill).sum()  # as many are called healthy as are
    found = underdiagnosis(called, ill, groups, np.arange(600), replicates=50)
    for score, group in zip(found.groups, "ab", strict=True):
        own = groups == group
        _, false_healthy, _, right_healthy = np.array(
            metrics.confusion_matrix(~ill[own], called[own]).ravel()
        )  # true negative, false positive, false negative, true positive of "No Finding"
        wrong, count = false_healthy, ill[own].sum()
        assert score.value == pytest.approx((wrong + 0.5) / (count + 1), abs=1e-12) and right_healthy >= 0
        assert score.n == count


def test_cluster_weights_draw_whole_units():
    units = np.array(["p", "q", "p", "r"])
    weights = cluster_weights(units, replicates=4000, seed=0)
    np.testing.assert_array_equal(weights[:, 0], weights[:, 2])
    assert (weights[:, [0, 1, 3]].sum(1) == 3).all() and weights.mean(0) == pytest.approx(1, abs=0.05)
    assert weighted_mean(np.array([1.0, 2, 3, 4]), np.array([[1, 0, 1, 2], [0, 0, 0, 0]]))[0] == 3
    assert np.isnan(weighted_mean(np.ones(4), np.zeros((1, 4)))[0])


def test_intervals_by_patients_hold_what_they_should():
    """Of rates and of areas, with several images a patient that err alike."""
    rng, held = np.random.default_rng(0), {"rate": 0, "area": 0}
    trials = 300
    for _ in range(trials):
        called, ill, names, patients = scene(rng, 2, 300, 0.3)
        found = underdiagnosis(called, ill, names, patients, replicates=300)
        held["rate"] += sum(score.low <= 0.3 <= score.high for score in found.groups) / 2
        there = np.tile([True, False], 300)
        alike = 0.6 * rng.standard_normal(1200)[patients]
        told = alike + 0.8 * rng.standard_normal(600) + 0.74 * there  # an area of 0.70
        found = subgroup_auc(told, there, names, patients, replicates=300)
        true = 0.6996  # Phi(0.74 / sqrt(2))
        held["area"] += sum(score.low <= true <= score.high for score in found.groups) / 2
    assert 0.93 <= held["rate"] / trials <= 0.97, held
    assert 0.93 <= held["area"] / trials <= 0.97, held


def test_a_gap_is_found_where_it_is_and_seldom_where_it_is_not():
    """Four groups of 1,000 images; the gap's own interval would lie above 0 always, were it that of a range."""
    rng, trials = np.random.default_rng(0), 120
    alarms = found = covered = 0
    for _ in range(trials):
        none = underdiagnosis(*scene(rng, 4, 1000, 0.25), replicates=200).gap
        some = underdiagnosis(*scene(rng, 4, 1000, 0.25, gap=0.10), replicates=200).gap
        alarms += none.low > 0
        found += some.low > 0
        covered += some.low <= 0.10 <= some.high
        assert none.value > 0
    assert alarms / trials <= 0.05, alarms
    assert found / trials >= 0.9, found
    assert covered / trials >= 0.93


def test_small_groups_are_left_out_and_said():
    rng = np.random.default_rng(2)
    told, there = rng.random(150), np.tile([True, False], 75)
    groups = np.repeat(["a", "b", "tiny"], [60, 60, 30])
    found = subgroup_auc(told, there, groups, np.arange(150), replicates=50)
    assert isinstance(found, Fairness) and found.left_out == {"tiny": 15} and len(found.groups) == 2
    with pytest.raises(ValueError, match="a gap needs two"):
        subgroup_auc(told[:60], there[:60], groups[:60], np.arange(60))
    ill = np.arange(150) % 60 < 19
    with pytest.raises(ValueError, match="underdiagnosis of 0 groups with 20 images"):
        underdiagnosis(told > 0.5, ill, groups, np.arange(150))


def test_a_smaller_gap_may_hide_a_worse_worst_group():
    called = np.repeat([True, False, True, False], [30, 70, 40, 60])
    names, ill = np.repeat(["a", "b"], 100), np.ones(200, dtype=bool)
    found = underdiagnosis(called, ill, names, np.arange(200), replicates=50)
    assert found.worst == "b" and found.gap.value == pytest.approx(10 / 101)
