"""The statistics of copying: what nearest distances to the training images say, calibrated on patients held out.

Throughout, T are training images, H images of held-out patients, S synthetic ones, and d1 is the distance to the
nearest image in T. H is measured against the same T as S is, so the sizes of T and H may differ by any factor;
distances within T (which many audits calibrate on) would be those to another, smaller reference.
"""

from collections.abc import Callable

import numpy as np

from synthcxr.errors import UserError
from synthcxr.evaluation.scores import Z95, Score, auc, auc_interval, eval_module

CELL_ROWS = 20  # fewest held-out and synthetic images in a cell of the data-copying test


class AuditError(UserError):
    """What was given can't be audited."""


def calibrated_p(values: np.ndarray, held_out: np.ndarray) -> np.ndarray:
    """How rarely a held-out patient lies as near: p(s) = (1 + #{h: d1(h) <= d1(s)}) / (|H| + 1), (n,) in (0, 1].

    A conformal p-value: uniform for an image of a fresh patient, in finite samples and whatever the distribution.

    Args:
        values: (n,) nearness of what is to be judged; small is near.
        held_out: (patients,) the same measure of one random image of each held-out patient. All images of a patient
            wouldn't do: one long series would set the threshold. Averaging over each patient's images (hierarchical
            conformal prediction, Lee, Barber and Willett 2023) is safe, but flags up to one patient in all too few,
            and so hides as many copies: with 100 patients, 0.4% of fresh real radiographs instead of 1%.
    """
    return (1 + np.searchsorted(np.sort(held_out), values, side="right")) / (len(held_out) + 1)


def flagged_level(alpha: float, patients: int) -> tuple[int, float]:
    """How many of patients + 1 ranks lie at or below alpha, and the share of fresh real images that is flagged so.

    Raises:
        AuditError: not even the nearest would be flagged.
    """
    rank = int(np.floor(alpha * (patients + 1) + 1e-9))
    if rank < 1:
        least = int(np.ceil(1 / alpha - 1e-9)) - 1
        raise AuditError(f"{patients} held-out patients can't show a rate of {alpha:g}; hold out at least {least}")
    return rank, rank / (patients + 1)


def fresh_rates(alpha: float, patients: int, images: int) -> tuple[float, float]:
    """The range that the flagged share of so many fresh real images keeps to 95 times of 100: beta-binomial.

    The held-out patients are a draw as well: the share that lies below their rank-th is a beta variable.
    """
    rank, _ = flagged_level(alpha, patients)
    counts = eval_module("scipy.stats").betabinom(images, rank, patients + 1 - rank).ppf([0.025, 0.975])
    return float(counts[0] / images), float(counts[1] / images)


def excess_rate(name: str, p: np.ndarray, alpha: float, patients: int, clusters: np.ndarray | None = None) -> Score:
    """Share of synthetic images with p <= alpha, beyond the share of fresh real images that would be flagged.

    The interval is that of Clopper and Pearson (1934) with the held-out draw in it: the count that is flagged is
    binomial about (a beta variable + the excess), and each end is the excess at which a count as far out has a chance
    of 2.5%. As held-out patients grow in number it becomes the plain one less alpha; with few it's honestly wider.
    Fresh real images give an interval that holds 0 at least 95 times of 100.

    Args:
        p: (n,) of `calibrated_p`.
        patients: how many held-out patients it was calibrated on.
        clusters: (n,) what images come from together, a prompt say. They then count as so many fewer independent ones
            (Korn and Graubard 1998); None: each stands for itself.
    Raises:
        AuditError: too few held-out patients for alpha.
    """
    rank, level = flagged_level(alpha, patients)
    flagged = (p <= alpha + 1e-12).astype(float)
    count = _independent(flagged, clusters)
    hits = flagged.mean() * count
    chance = eval_module("scipy.special").betainc
    strata = (np.arange(500) + 0.5) / 500
    fresh = eval_module("scipy.stats").beta.ppf(strata, rank, patients + 1 - rank)

    def at_least(excess: float) -> float:
        return float(chance(hits, count - hits + 1, np.clip(fresh + excess, 0, 1)).mean())

    def at_most(excess: float) -> float:
        return 1 - float(chance(hits + 1, count - hits, np.clip(fresh + excess, 0, 1)).mean())

    low = _root(lambda excess: at_least(excess) - 0.025) if hits > 0 else -level
    high = _root(lambda excess: 0.025 - at_most(excess)) if hits < count else 1 - level
    return Score(name, float(flagged.mean() - level), max(low, -level), min(high, 1 - level), len(p), "lower")


def flagged_by(p: np.ndarray, fdr: float) -> np.ndarray:
    """(n,) bool: the list of Benjamini and Hochberg (1995), on which at most a share `fdr` of fresh images is expected.

    Calibrated p-values share their held-out images and so depend on each other, positively: the procedure holds for
    them (Bates et al. 2023, theorem 2).
    """
    return eval_module("scipy.stats").false_discovery_control(p) <= fdr


def data_copying(
    name: str, held_out: np.ndarray, synthetic: np.ndarray, held_out_cells: np.ndarray, synthetic_cells: np.ndarray
) -> Score:
    """C_T of the data-copying test (Meehan, Chaudhuri and Dasgupta 2020, sec. 3): below about -2, S lies too near T.

    In each cell, the Mann-Whitney statistic of d1 as a normal score, positive where S lies farther from T than H does;
    then their mean, weighted by the cells' shares of H. The interval is the value's under equal distributions. Images
    that vary too little lie near T as well, so below 0 it's a reason to look, and no proof.

    Args:
        held_out, synthetic: d1 of independent images: one a patient.
        held_out_cells, synthetic_cells: the cell of each; a cell with fewer than 20 of either is left out.
    Raises:
        AuditError: no cell has enough.
    """
    scores, weights = [], []
    for cell in np.intersect1d(held_out_cells, synthetic_cells):
        h, s = held_out[held_out_cells == cell], synthetic[synthetic_cells == cell]
        if min(len(h), len(s)) >= CELL_ROWS:
            deviation = np.sqrt((len(h) + len(s) + 1) / (12 * len(h) * len(s)))
            scores.append((auc(s, h) - 0.5) / deviation)
            weights.append(len(h))
    if not scores:
        raise AuditError(f"{name} needs {CELL_ROWS} held-out patients and synthetic images that lie near each other")
    shares = np.array(weights) / np.sum(weights)
    value, reach = float(shares @ scores), Z95 * float(np.sqrt(np.square(shares).sum()))
    return Score(name, value, value - reach, value + reach, int(np.sum(weights)), "zero")


def authenticity_gap(
    name: str, held_out: np.ndarray, synthetic: np.ndarray, clusters: np.ndarray | None = None
) -> Score:
    """How much less often synthetic images are authentic than held-out real ones are: 0 is best, above it is copying.

    An image is authentic (Alaa et al. 2022, sec. 2.3) where its nearest training image has another patient's nearer.

    Args:
        held_out, synthetic: bool, of `authentic`; of the held-out images, one a patient.
        clusters: what synthetic images come from together; see `excess_rate`.
    """
    real = held_out.astype(float)
    made = synthetic.astype(float) if clusters is None else _means(synthetic, clusters)
    value = float(real.mean() - made.mean())
    # One authentic and one copied unit more in each: so that shares of 0 and 1 have a width (Agresti and Caffo 2000).
    padded = [np.append(units, [0.0, 1.0]) for units in (real, made)]
    middle = padded[0].mean() - padded[1].mean()
    reach = Z95 * np.sqrt(sum(units.var(ddof=1) / len(units) for units in padded))
    low, high = max(-1.0, min(value, middle - reach)), min(1.0, max(value, middle + reach))
    return Score(name, value, float(low), float(high), min(len(real), len(made)), "lower")


def authentic(distance: np.ndarray, index: np.ndarray, reach: np.ndarray) -> np.ndarray:
    """(n,) bool: whether an image is no nearer to its nearest training image than that one's nearest neighbour is.

    Args:
        distance, index: (n,) d1 and the training image that it's to.
        reach: (training images,) the distance of each to the nearest one of another patient. It's the nearest training
            image's own reach that counts, so it's looked up by `index`.
    """
    return distance >= reach[index]


def told_apart(train: np.ndarray, held_out: np.ndarray, seed: int) -> Score:
    """How well a classifier that knows no model tells training patients from held-out ones: AUC, 0.5 is best.

    Where it does, the two differ by more than having been trained on, and nothing calibrated on H holds for T.

    Args:
        train, held_out: (patients, d) features of one image of each.
    Returns:
        The AUC of logistic regression that's fitted to half of the patients, on the other half; n is of these.
        Averaging over folds would look more precise than it is: each fold's patients fit the others' classifiers.
    """
    linear = eval_module("sklearn.linear_model")
    x = np.concatenate([train, held_out])
    x = (x - x.mean(0)) / np.maximum(x.std(0), 1e-12)
    y = np.repeat([True, False], [len(train), len(held_out)])
    rng = np.random.default_rng(seed)
    fit = np.concatenate([rng.permutation(len(part)) < len(part) / 2 for part in (train, held_out)])
    model = linear.LogisticRegression(C=0.1, class_weight="balanced", max_iter=1000).fit(x[fit], y[fit])
    of_train, of_held_out = (model.decision_function(x[~fit & chosen]) for chosen in (y, ~y))
    value = auc(of_train, of_held_out)
    low, high = auc_interval(value, len(of_train), len(of_held_out))
    return Score("training told from held-out", value, low, high, min(len(of_train), len(of_held_out)), "zero")


def _independent(flagged: np.ndarray, clusters: np.ndarray | None) -> float:
    """As how many independent images these count, by the spread of their clusters' sums; at least one a cluster."""
    n, rate = len(flagged), flagged.mean()
    if clusters is None:
        return float(n)
    _, codes = np.unique(clusters, return_inverse=True)
    count = int(codes.max()) + 1
    if rate in (0, 1) or count < 2:
        return float(count)  # nothing tells how alike a cluster's images are
    sums = np.bincount(codes, flagged - rate)
    variance = np.square(sums).sum() * count / (count - 1) / n**2
    return float(np.clip(rate * (1 - rate) / variance, 1, n))


def _means(values: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """(groups,) the mean of each group's values."""
    _, codes = np.unique(groups, return_inverse=True)
    return np.bincount(codes, values.astype(float)) / np.bincount(codes)


def _root(rising: Callable[[float], float]) -> float:
    return float(eval_module("scipy.optimize").brentq(rising, -1.0, 1.0, xtol=1e-7))
