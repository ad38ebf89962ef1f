"""Is a classifier as good for everyone? Discrimination and underdiagnosis by group, and the gaps between groups.

Underdiagnosis is the share of ill people whom a classifier calls healthy: the false-positive rate of "No Finding"
(Seyyed-Kalantari et al. 2021). A gap between groups is never below zero, so that chance alone opens one: a gap counts
only where its interval leaves out 0.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from synthcxr.evaluation.resampling import REPLICATES, bootstrap_score, cluster_weights, weighted_auc
from synthcxr.evaluation.scores import Direction, Score

LEAST = 20  # images that a group's rate needs
PRIOR = 0.5  # Jeffreys: a half of a hit and a half of a miss, so that a rate of 0 of 20 isn't 0


@dataclass(frozen=True)
class Fairness:
    """One quantity by group.

    Attributes:
        groups: a score each, in the order of their names.
        gap: largest less smallest.
        spread: 90th less 10th percentile of the groups, which a single small group moves less.
        worst: the name of the group that is worst off; a smaller gap with a worse worst group is no gain.
        left_out: groups that are too small, with their counts.
    """

    groups: tuple[Score, ...]
    gap: Score
    spread: Score
    worst: str
    left_out: Mapping[str, int]


def operating_point(healthy: np.ndarray, ill: np.ndarray) -> float:
    """The threshold at which as many of n images are called healthy (`healthy` above it) as are: one for all groups.

    Matched like this, two classifiers are compared at one operating point, not at what their calibration makes of 0.5.

    Args:
        healthy: (n,) any score that rises with health; ill: (n,) bool.
    """
    return float(np.quantile(healthy, ill.mean(), method="lower"))


def underdiagnosis(
    called_healthy: np.ndarray, ill: np.ndarray, groups: np.ndarray, patients: np.ndarray, seed: int = 0,
    replicates: int = REPLICATES,
) -> Fairness:  # fmt: skip
    """The share of ill images that are called healthy, by group, smoothed as by Jeffreys: (k + 1/2) / (n + 1).

    Args:
        called_healthy, ill: (n,) bool.
        groups: (n,) names, of a cell of age, sex and race say.
        patients: (n,) the unit by which intervals are drawn.
    Raises:
        ValueError: fewer than two groups have LEAST ill images.
    """
    values, names, units = called_healthy[ill].astype(np.float64), groups[ill], patients[ill]
    cells, left_out = _cells(names, [np.ones(len(names), dtype=bool)])

    return _by_group(
        "underdiagnosis", lambda weights: _rates(values, cells, weights), cells, left_out, units, "lower", seed,
        replicates,
    )  # fmt: skip


def underdiagnosis_rates(
    called_healthy: np.ndarray, ill: np.ndarray, groups: np.ndarray, weights: np.ndarray
) -> tuple[tuple[str, ...], np.ndarray]:
    """Names of the groups that are large enough, and their rates (replicates, groups) under given weights.

    For several classifiers of the same images: with the same weights, what they have in common cancels out.

    Args:
        called_healthy, ill, groups: see `underdiagnosis`; weights: (replicates, n), as of `cluster_weights`.
    """
    cells, _ = _cells(groups[ill], [np.ones(int(ill.sum()), dtype=bool)])
    return tuple(cells), _rates(called_healthy[ill].astype(np.float64), cells, weights[:, ill])


def _rates(values: np.ndarray, cells: Mapping[str, np.ndarray], weights: np.ndarray) -> np.ndarray:
    if not cells:
        return np.empty((len(weights), 0))
    return np.column_stack(
        [(weights[:, cell] @ values[cell] + PRIOR) / (weights[:, cell].sum(1) + 2 * PRIOR) for cell in cells.values()]
    )


def subgroup_auc(
    told: np.ndarray, there: np.ndarray, groups: np.ndarray, patients: np.ndarray, seed: int = 0,
    replicates: int = REPLICATES,
) -> Fairness:  # fmt: skip
    """Area under the ROC curve by group; a group needs LEAST images with and without what is looked for.

    Args:
        told: (n,) the classifier's score; there: (n,) bool; groups, patients: see `underdiagnosis`.
    """
    cells, left_out = _cells(groups, [there, ~there])

    def areas(weights: np.ndarray) -> np.ndarray:
        return np.column_stack([weighted_auc(told[cell], there[cell], weights[:, cell]) for cell in cells.values()])

    return _by_group("AUROC", areas, cells, left_out, patients, "higher", seed, replicates)


def _cells(groups: np.ndarray, kinds: Sequence[np.ndarray]) -> tuple[dict[str, np.ndarray], dict[str, int]]:
    """Rows of each group that has LEAST of each kind of image; and the other groups, with how many of the rarest."""
    cells, left_out = {}, {}
    for name in np.unique(groups):
        rows = np.flatnonzero(groups == name)
        least = min(kind[rows].sum() for kind in kinds)
        if least >= LEAST:
            cells[str(name)] = rows
        else:
            left_out[str(name)] = int(least)
    return cells, left_out


def _by_group(
    what: str, measure: Callable[[np.ndarray], np.ndarray], cells: Mapping[str, np.ndarray],
    left_out: Mapping[str, int], units: np.ndarray, direction: Direction, seed: int, replicates: int,
) -> Fairness:  # fmt: skip
    """Scores of every cell, by `measure`: weights (replicates, n) to values (replicates, cells)."""
    if len(cells) < 2:
        raise ValueError(f"{what} of {len(cells)} groups with {LEAST} images; a gap needs two")
    weights = cluster_weights(units, replicates, seed)
    values = measure(np.ones((1, len(units))))[0]
    draws = measure(weights)
    draws = draws[np.isfinite(draws).all(axis=1)]
    scores = tuple(
        bootstrap_score(f"{what}, {name}", value, draw, len(cell), direction)
        for (name, cell), value, draw in zip(cells.items(), values, draws.T, strict=True)
    )
    count = min(map(len, cells.values()))
    worst = list(cells)[int(values.argmax() if direction == "lower" else values.argmin())]
    low, high = _gap_interval(values, draws)
    gap = Score(f"gap, {what}", float(np.ptp(values)), low, high, count, "lower")
    between = np.diff(np.percentile(values, [10, 90]))[0]
    tails = np.diff(np.percentile(draws, [10, 90], axis=1), axis=0)[0]
    return Fairness(scores, gap, bootstrap_score(f"p90 - p10, {what}", between, tails, count, "lower"), worst, left_out)


def _gap_interval(values: np.ndarray, draws: np.ndarray) -> tuple[float, float]:
    """95% interval of largest less smallest: from simultaneous intervals of all differences between two groups.

    The bootstrap of a range would lie above 0 always. Here the widest studentised error of any difference bounds them
    all at once (max-t: Westfall and Young 1993; Romano and Wolf 2005). Each end errs at most 2.5 times of 100, however
    many groups there are; of equal groups the lower end exceeds 0 no more often.
    """
    one, other = np.triu_indices(len(values), 1)
    apart, drawn = values[one] - values[other], draws[:, one] - draws[:, other]
    deviation = np.maximum(drawn.std(axis=0, ddof=1), 1e-12)
    reach = np.quantile((np.abs(drawn - drawn.mean(axis=0)) / deviation).max(axis=1), 0.975) * deviation
    return float(max(0.0, (np.abs(apart) - reach).max())), float((np.abs(apart) + reach).max())
