"""How alike two sets of images are, from their features: (n, d) arrays whose rows are images, of one extractor.

Each metric depends on the number of rows: compare at equal n, and beside what two real sets of that n give.
"""

from collections.abc import Callable
from dataclasses import astuple, dataclass

import numpy as np

from synthcxr.evaluation.neighbours import check_features, distances, nearest
from synthcxr.evaluation.scores import Z95, Direction, Score

Features = np.ndarray
LEADING = 64  # principal components, where all dimensions would take too many rows
CMMD_SCALE = 1000.0  # as in the paper, so that values are no tiny fractions


@dataclass(frozen=True)
class Manifold:
    """How two sets cover each other: shares in [0, 1], and a density of 1 where both are drawn alike."""

    precision: float
    recall: float
    density: float
    coverage: float


def frechet_distance(a: Features, b: Features) -> float:
    """Squared Frechet distance between Gaussians fitted to two feature sets (Heusel et al. 2017, eq. 6).

    The trace of (A B)^(1/2) is taken as the sum of the singular values of A^(1/2) B^(1/2): only symmetric matrices are
    rooted, and no root is taken of a number that rounding has made negative.

    Returns:
        >= 0, in squared feature units; 0 for identical sets. Biased upwards by an amount that falls as 1 / n.
    Raises:
        ValueError: not more rows than dimensions (the covariance would be singular; says how many are missing).
    """
    check_features(a, b)
    _enough_rows(a, b, a.shape[1])
    (mean_a, cov_a), (mean_b, cov_b) = (_moments(features) for features in (a, b))
    shared = np.linalg.svd(_root(cov_a) @ _root(cov_b), compute_uv=False).sum()
    return max(0.0, float(np.square(mean_a - mean_b).sum() + np.trace(cov_a) + np.trace(cov_b) - 2 * shared))


def leading_frechet_distance(a: Features, b: Features, components: int = LEADING) -> float:
    """The Frechet distance in the directions in which the first set varies most: its first principal components.

    For sets too small to tell a covariance in all directions. The first set is that of real images; its own directions
    suit it a little better than they suit any other set, real ones included, so compare beside these.

    Raises:
        ValueError: not more rows than components.
    """
    check_features(a, b)
    _enough_rows(a, b, min(components, a.shape[1]))
    mean = a.mean(axis=0, dtype=np.float64)
    if len(a) < a.shape[1]:  # as many directions as rows, at a price that grows with the square of the rows
        basis = np.linalg.svd(a - mean, full_matrices=False)[2][:components].T
    else:
        basis = np.linalg.eigh(_moments(a)[1])[1][:, -components:]
    return frechet_distance((a - mean) @ basis, (b - mean) @ basis)


def kernel_distance(a: Features, b: Features, subsets: int = 50, subset_size: int = 500, seed: int = 0) -> float:
    """Kernel distance, KID: unbiased squared MMD with the kernel (x.y / d + 1)^3 (Binkowski et al. 2018, sec. 4).

    Args:
        subsets: how many pairs of subsets are averaged, each drawn afresh and without repetition from both sets.
        subset_size: rows of each; sets that have no more are compared whole, once.
    Returns:
        About 0 for sets of one distribution, at times below it: it's unbiased.
    """
    check_features(a, b)
    rng = np.random.default_rng(seed)
    size = min(subset_size, len(a), len(b))
    if size < 2 or subsets < 1:
        raise ValueError(f"{subsets} subsets of {size} rows; at least 1 of 2 rows are needed")
    if max(len(a), len(b)) <= subset_size:
        return _polynomial_mmd(a.astype(np.float64), b.astype(np.float64))

    def drawn(features: Features) -> Features:
        return features[rng.choice(len(features), size, replace=False)].astype(np.float64)

    return float(np.mean([_polynomial_mmd(drawn(a), drawn(b)) for _ in range(subsets)]))


def gaussian_mmd(a: Features, b: Features, bandwidth: float | None = None) -> float:
    """Unbiased squared MMD with a Gaussian kernel, times 1000 (CMMD: Jayasumana et al. 2024, sec. 4).

    Args:
        bandwidth: the kernel's deviation. The paper's 10 is for CLIP embeddings of norm 1; by default it's the square
            root of the total variance of `a` (half the mean squared distance), which suits features of any scale.
    """
    check_features(a, b)
    if min(len(a), len(b)) < 2:
        raise ValueError("at least 2 rows of each set are needed")
    width = bandwidth or float(np.sqrt(np.var(a, axis=0, ddof=1, dtype=np.float64).sum()))
    if width <= 0:
        raise ValueError("the first set's rows are all equal: give a bandwidth")

    def total(x: Features, y: Features) -> float:
        return sum(float((block.square() / (-2 * width**2)).exp().sum()) for _, block in distances(x, y))

    n, m = len(a), len(b)
    within = (total(a, a) - n) / (n * (n - 1)) + (total(b, b) - m) / (m * (m - 1))
    return CMMD_SCALE * (within - 2 * total(a, b) / (n * m))


def precision_recall_density_coverage(real: Features, fake: Features, k: int = 5) -> Manifold:
    """Precision and recall (Kynkaanniemi et al. 2019, eq. 1 and 2), density and coverage (Naeem et al. 2020, eq. 2, 3).

    A ball around each image reaches to the k-th nearest other image of its set. Precision: fakes in some real ball;
    recall: reals in some fake ball; density: real balls that a fake is in, over k; coverage: real balls with a fake in.

    Raises:
        ValueError: not more than k rows in each set.
    """
    check_features(real, fake)
    if min(len(real), len(fake)) <= k:
        raise ValueError(f"k = {k} neighbours need more than {k} rows in each set")
    real_radius, fake_radius = (
        nearest(features, features, k, own=np.arange(len(features))).distance[:, -1] for features in (real, fake)
    )
    within, covered, recalled = 0, np.zeros(len(real), dtype=bool), np.zeros(len(real), dtype=bool)
    precise = 0
    for rows, block in distances(fake, real):
        apart = block.numpy()
        inside = apart <= real_radius
        within += int(inside.sum())
        precise += int(inside.any(axis=1).sum())
        covered |= inside.any(axis=0)
        recalled |= (apart <= fake_radius[rows, None]).any(axis=0)
    return Manifold(precise / len(fake), float(recalled.mean()), within / (k * len(fake)), float(covered.mean()))


@dataclass(frozen=True)
class Metric:
    """A metric of two feature sets that gives one number or several.

    Attributes:
        names: one a number.
        measure: (real, fake) -> the numbers.
        direction: which way is better.
        least, most: the range of the numbers, or of each, by which intervals are cut.
    """

    names: tuple[str, ...]
    measure: Callable[[Features, Features], tuple[float, ...]]
    direction: Direction
    least: float = -np.inf
    most: float | tuple[float, ...] = np.inf


# One line a metric.
METRICS: dict[str, Metric] = {
    "frechet": Metric(("frechet",), lambda a, b: (frechet_distance(a, b),), "lower", least=0),
    "frechet_64": Metric(("frechet_64",), lambda a, b: (leading_frechet_distance(a, b),), "lower", least=0),
    "kernel": Metric(("kernel",), lambda a, b: (kernel_distance(a, b),), "lower"),
    "gaussian_mmd": Metric(("gaussian_mmd",), lambda a, b: (gaussian_mmd(a, b),), "lower"),
    "manifold": Metric(
        ("precision", "recall", "density", "coverage"),
        lambda a, b: astuple(precision_recall_density_coverage(a, b)), "higher", least=0, most=(1, 1, np.inf, 1),
    ),
}  # fmt: skip


def bootstrap(
    metric: Metric,
    a: Features,
    b: Features,
    groups_a: np.ndarray | None = None,
    groups_b: np.ndarray | None = None,
    replicates: int = 100,
    seed: int = 0,
) -> tuple[Score, ...]:
    """The metric's numbers with 95% intervals, from half of the units at a time, drawn without repetition.

    Drawing with repetition, as the plain bootstrap does, puts copies of rows into a set: nearest neighbours at distance
    0, and covariances of fewer independent rows, so that density, recall and the Frechet distance are those of another
    problem. Half-samples hold no row twice, and their spread around their own mean is that of the whole set's estimate
    (delete-d jackknife with d = n / 2: Shao and Wu 1989; subsampling: Politis and Romano 1994). Their mean, which is
    that of n / 2 rows, isn't used. The interval is for the value expected at this n, bias included.

    Args:
        groups_a, groups_b: (n,) the unit of each row, a patient or a prompt; None: each row is its own.
        replicates: how many half-samples.
    Returns:
        One score a number of the metric, in the order of `metric.names`.
    Raises:
        ValueError: as the metric raises it; half of the rows have to be enough for it.
    """
    if replicates < 2:
        raise ValueError(f"replicates = {replicates} must be at least 2")
    rng = np.random.default_rng(seed)
    values = np.array(metric.measure(a, b))
    draws = [metric.measure(_half(a, groups_a, rng), _half(b, groups_b, rng)) for _ in range(replicates)]
    reach = Z95 * np.std(draws, axis=0, ddof=1)
    low, high = (np.clip(values + sign * reach, metric.least, metric.most) for sign in (-1, 1))
    count = min(len(a), len(b))
    return tuple(
        Score(name, float(value), float(start), float(end), count, metric.direction)
        for name, value, start, end in zip(metric.names, values, low, high, strict=True)
    )


def _half(features: Features, groups: np.ndarray | None, rng: np.random.Generator) -> Features:
    """The rows of a random half of the groups."""
    _, codes = np.unique(np.arange(len(features)) if groups is None else groups, return_inverse=True)
    count = int(codes.max()) + 1
    return features[np.isin(codes, rng.choice(count, (count + 1) // 2, replace=False))]


def _enough_rows(a: Features, b: Features, dimensions: int) -> None:
    rows = min(len(a), len(b))
    if rows <= dimensions:
        missing = dimensions + 1 - rows
        raise ValueError(f"{rows} rows don't tell a covariance in {dimensions} dimensions; {missing} more are needed")


def _moments(features: Features) -> tuple[np.ndarray, np.ndarray]:
    wide = features.astype(np.float64)
    return wide.mean(axis=0), np.atleast_2d(np.cov(wide, rowvar=False))


def _root(covariance: np.ndarray) -> np.ndarray:
    """The symmetric square root of a covariance."""
    values, vectors = np.linalg.eigh(covariance)
    return (vectors * np.sqrt(values.clip(min=0))) @ vectors.T


def _polynomial_mmd(x: Features, y: Features) -> float:
    """Unbiased squared MMD of two sets."""
    d, within = x.shape[1], 0.0
    for features in (x, y):
        n = len(features)
        kernel = (features @ features.T / d + 1) ** 3
        within += (kernel.sum() - np.trace(kernel)) / (n * (n - 1))
    return within - 2 * float(((x @ y.T / d + 1) ** 3).mean())
