"""Metrics under weights: ones give scikit-learn's numbers, whole numbers those of rows that are repeated."""

import numpy as np
import pytest

from synthcxr.downstream.metrics import AUROC, BINS, METRICS, Metric, calibration_error, mean_of


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)
@pytest.mark.parametrize("ties", [False, True])
def test_weights_stand_for_repeated_rows(metric: Metric, ties: bool) -> None:
    rng = np.random.default_rng(3)
    told = rng.random(200)
    if ties:
        told = np.round(told, 1)
    there = rng.random(200) < told
    weights = rng.integers(0, 4, (5, 200)).astype(float)
    ones = metric.weighted(told, there, np.ones((1, 200)))[0]
    assert ones == pytest.approx(metric.point(told, there))
    for one, row in zip(metric.weighted(told, there, weights), weights, strict=True):
        times = np.repeat(np.arange(200), row.astype(int))
        assert one == pytest.approx(metric.point(told[times], there[times]))


def test_calibration_error_of_known_bins() -> None:
    told = np.array([0.99] * 10 + [0.01] * 10)
    there = np.array([True] * 8 + [False] * 2 + [False] * 10)
    assert calibration_error(told, there, np.ones((1, 20)))[0] == pytest.approx(0.5 * 0.19 + 0.5 * 0.01)
    assert BINS == 15


def test_a_mean_leaves_out_labels_with_one_kind_of_image_and_unknown_ones() -> None:
    told = np.array([[0.9, 0.1], [0.1, 0.2], [0.5, 0.3]])
    labels = np.array([[1, 1], [0, 1], [np.nan, 1]])
    assert mean_of(AUROC, told, labels) == 1
    with pytest.raises(ValueError, match="no label"):
        mean_of(AUROC, told, np.ones((3, 2)))
