"""What a classifier's probabilities are worth: each metric once by scikit-learn, and once under bootstrap weights.

The weights are (replicates, n), how often each image counts; a row of ones gives scikit-learn's number.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from synthcxr.evaluation.resampling import weighted_auc
from synthcxr.evaluation.scores import Direction, eval_module

BINS = 15  # of equal width, as Guo et al. 2017 have them

Point = Callable[[np.ndarray, np.ndarray], float]
Weighted = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Metric:
    """A metric of probabilities (n,) and whether it's there (n,) bool."""

    name: str
    direction: Direction
    point: Point
    weighted: Weighted


def weighted_average_precision(told: np.ndarray, there: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """(replicates,) average precision: sum over thresholds of the recall gained times the precision there."""
    order = np.argsort(-told, kind="stable")
    _, starts = np.unique(-told[order], return_index=True)
    ranked = weights[:, order]
    positive = np.cumsum(np.add.reduceat(ranked * there[order], starts, axis=1), axis=1)
    called = np.cumsum(np.add.reduceat(ranked, starts, axis=1), axis=1)
    precision = np.divide(positive, called, out=np.zeros_like(called), where=called > 0)
    gained = np.diff(positive, axis=1, prepend=0)
    total = positive[:, -1]
    return np.divide((gained * precision).sum(axis=1), total, out=np.full(len(weights), np.nan), where=total > 0)


def brier(told: np.ndarray, there: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """(replicates,) mean squared error of the probabilities (Brier 1950)."""
    return (weights @ (told - there) ** 2) / weights.sum(axis=1)


def calibration_error(told: np.ndarray, there: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """(replicates,) expected calibration error: mean over bins of |frequency - mean probability|, by images in them."""
    bins = np.minimum((told * BINS).astype(int), BINS - 1)
    apart = np.zeros((len(told), BINS))
    apart[np.arange(len(told)), bins] = told - there
    return np.abs(weights @ apart).sum(axis=1) / weights.sum(axis=1)


def _auroc(told: np.ndarray, there: np.ndarray) -> float:
    return float(eval_module("sklearn.metrics").roc_auc_score(there, told))


def _average_precision(told: np.ndarray, there: np.ndarray) -> float:
    return float(eval_module("sklearn.metrics").average_precision_score(there, told))


def _brier(told: np.ndarray, there: np.ndarray) -> float:
    return float(eval_module("sklearn.metrics").brier_score_loss(there, told))


def _calibration(told: np.ndarray, there: np.ndarray) -> float:
    return float(calibration_error(told, there, np.ones((1, len(told))))[0])  # scikit-learn has none


AUROC = Metric("AUROC", "higher", _auroc, weighted_auc)
METRICS = (
    AUROC,
    Metric("AUPRC", "higher", _average_precision, weighted_average_precision),
    Metric("Brier", "lower", _brier, brier),
    Metric("ECE", "lower", _calibration, calibration_error),
)


def mean_of(metric: Metric, told: np.ndarray, labels: np.ndarray) -> float:
    """Mean over the columns of (n, labels) that have both kinds of image.

    Raises:
        ValueError: there's none.
    """
    values = []
    for column in range(labels.shape[1]):
        known = ~np.isnan(labels[:, column])
        there = labels[known, column] == 1
        if there.any() and not there.all():
            values.append(metric.point(told[known, column].astype(np.float64), there))
    if not values:
        raise ValueError("no label has images with it and without it")
    return float(np.mean(values))
