"""The bootstrap over patients or prompts, and numbers that are computed under its weights, all replicates at once."""

import numpy as np

from synthcxr.evaluation.scores import Direction, Score

REPLICATES = 1000
LEAST_PROMPTS = 20  # with fewer, prompts are a fixed design and pictures its draws


def units_of(prompts: np.ndarray) -> np.ndarray:
    """What generated pictures are drawn by: the prompt where there are enough of them, else the picture."""
    return prompts if len(np.unique(prompts)) >= LEAST_PROMPTS else np.arange(len(prompts))


def cluster_weights(units: np.ndarray, replicates: int = REPLICATES, seed: int = 0) -> np.ndarray:
    """float64 (replicates, n): how often each row counts when units are drawn with repetition (Field and Welsh 2007).

    Args:
        units: (n,) the unit of each row; all rows of a unit are drawn together.
    """
    _, codes = np.unique(units, return_inverse=True)
    count = int(codes.max()) + 1
    drawn = np.random.default_rng(seed).integers(count, size=(replicates, count))
    places = (drawn + count * np.arange(replicates)[:, None]).ravel()
    times = np.bincount(places, minlength=replicates * count).reshape(replicates, count)
    return times[:, codes].astype(np.float64)


def weighted_mean(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """(replicates,) means of (n,) values; not a number where nothing was drawn."""
    total = weights.sum(axis=1)
    return np.divide(weights @ values, total, out=np.full(len(weights), np.nan), where=total > 0)


def weighted_auc(values: np.ndarray, labels: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """(replicates,) areas under the ROC curve of (n,) values, ties counting half; not a number without both classes.

    Args:
        labels: (n,) bool.
        weights: (replicates, n), as of `cluster_weights`; a row of ones gives the plain area.
    """
    order = np.argsort(values, kind="stable")
    _, starts = np.unique(values[order], return_index=True)
    ranked, labels = weights[:, order], labels[order]
    positive, negative = (np.add.reduceat(ranked * chosen, starts, axis=1) for chosen in (labels, ~labels))
    below = np.cumsum(negative, axis=1) - negative / 2
    pairs = positive.sum(axis=1) * negative.sum(axis=1)
    return np.divide((positive * below).sum(axis=1), pairs, out=np.full(len(weights), np.nan), where=pairs > 0)


def bootstrap_score(name: str, value: float, draws: np.ndarray, n: int, direction: Direction) -> Score:
    """A score with the percentile interval of its replicates (Efron 1981), those that couldn't be computed left out."""
    low, high = np.nanpercentile(draws, [2.5, 97.5])
    return Score(name, float(value), float(min(low, value)), float(max(high, value)), n, direction)
