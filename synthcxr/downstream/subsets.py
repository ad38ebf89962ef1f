"""Which real images: nested fractions of the training patients, and images in which a shortcut is planted."""

import math
from collections.abc import Sequence

import numpy as np

from synthcxr.errors import UserError
from synthcxr.runs import derive_seed

CELLS = ((1, 1), (1, 0), (0, 1), (0, 0))  # finding there or not, confounder there or not


def nested(patients: np.ndarray, fraction: float, seed: int) -> np.ndarray:
    """Indices of the images of the first ceil(fraction * count) patients, in an order that is the seed's own.

    So a smaller fraction's patients are all among a larger one's, and no patient is cut in two.

    Args:
        patients: (n,) the patient of each image.
        fraction: in (0, 1].
    """
    names = np.unique(patients)
    order = np.random.default_rng(derive_seed(seed, "patients")).permutation(len(names))
    # The product of 0.1 and 30 patients is a little more than 3.
    count = math.ceil(round(fraction * len(names), 9))
    return np.flatnonzero(np.isin(patients, names[order[:count]]))


def planted(finding: np.ndarray, confounder: np.ndarray, correlation: float, seed: int) -> np.ndarray:
    """Indices of as many images as there can be in which both are there in half, correlated by phi as asked.

    Args:
        finding, confounder: (n,) 1, 0 or NaN (never taken).
        correlation: phi of the four-fold table, in [0, 1).
    Raises:
        UserError: a cell has no image.
    """
    rng = np.random.default_rng(derive_seed(seed, "shortcut"))
    rows = [np.flatnonzero((finding == f) & (confounder == c)) for f, c in CELLS]
    shares = [shares_of(correlation)[cell] for cell in CELLS]
    total = min(len(row) / share for row, share in zip(rows, shares, strict=True))
    counts = [round(total * share) for share in shares]
    if min(counts) < 1:
        told = ", ".join(f"{len(row)}" for row in rows)
        raise UserError(
            f"shortcut: a correlation of {correlation} can't be planted in images of the four cells ({told}); give more"
            " images, or a smaller correlation"
        )
    kept = [rng.permutation(row)[:count] for row, count in zip(rows, counts, strict=True)]
    return np.sort(np.concatenate(kept))


def shares_of(correlation: float) -> dict[tuple[int, int], float]:
    """The share of each of CELLS where both are there in half of the images and phi is the correlation."""
    same, other = (1 + correlation) / 4, (1 - correlation) / 4
    return {cell: same if cell[0] == cell[1] else other for cell in CELLS}


def cell_weights(finding: np.ndarray, confounder: np.ndarray, correlation: float) -> np.ndarray:
    """(n,) weights under which images have the table of `planted`; 0 where either isn't known. They sum to 1."""
    weights = np.zeros(len(finding))
    for cell, share in shares_of(correlation).items():
        rows = (finding == cell[0]) & (confounder == cell[1])
        weights[rows] = share / max(1, rows.sum())
    return weights


def phi(finding: Sequence[float] | np.ndarray, confounder: Sequence[float] | np.ndarray) -> float:
    """The correlation of two columns of 0 and 1."""
    return float(np.corrcoef(finding, confounder)[0, 1])
