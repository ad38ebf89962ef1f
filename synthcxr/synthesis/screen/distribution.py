"""Unlike real radiographs: the Mahalanobis distance of the classifier's features to those of its training images.

Lee et al. 2018 ("A simple unified framework for detecting out-of-distribution samples", sec. 2.1), with one Gaussian
for all classes: radiographs show several findings at once. It needs the mean and the covariance of the training
features, which are sums over thousands of patients, where nearest neighbours would need each one's.
"""

from dataclasses import dataclass

import numpy as np

RIDGE = 1e-3  # of the mean variance, added to each: directions in which training features don't vary


@dataclass(frozen=True, eq=False)
class Gaussian:
    """Where features of real radiographs lie.

    Attributes:
        mean: (d,) float32.
        whitening: (d, d) float32; (features - mean) @ whitening has about the identity as covariance.
        limit: the largest distance that passes.
    """

    mean: np.ndarray
    whitening: np.ndarray
    limit: float = np.inf

    def distance(self, features: np.ndarray) -> np.ndarray:
        """(n, d) -> (n,): root mean square of the whitened features, about 1 for a training image."""
        return np.sqrt(np.square((features - self.mean) @ self.whitening).mean(1))


def fit_gaussian(train: np.ndarray, held_out: np.ndarray, rate: float) -> Gaussian:
    """Fit to (n, d) training features; of (m, d) held-out ones, one a patient, a share of at least `rate` passes.

    Raises:
        ValueError: too few held-out patients for the rate.
    """
    centred = train - train.mean(0)
    covariance = centred.T @ centred / len(train)
    values, vectors = np.linalg.eigh(
        covariance + RIDGE * covariance.trace() / len(covariance) * np.eye(len(covariance))
    )
    whitening = ((vectors / np.sqrt(values)) @ vectors.T).astype(np.float32)
    fitted = Gaussian(train.mean(0).astype(np.float32), whitening)
    limit = -lowest_passing(-fitted.distance(held_out), rate)
    if not np.isfinite(limit):
        raise ValueError(f"{len(held_out)} held-out patients don't tell what {rate:g} of radiographs keep to")
    return Gaussian(fitted.mean, fitted.whitening, limit)


def lowest_passing(values: np.ndarray, rate: float) -> float:
    """The limit below which at most 1 - rate of further values lie, by their rank among these: conformal.

    Minus infinity where these are too few to tell (fewer than rate / (1 - rate)).
    """
    rank = int(np.floor((1 - rate) * (len(values) + 1) + 1e-9))
    return float(np.sort(values)[rank - 1]) if rank else -np.inf
