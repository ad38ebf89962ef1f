"""Too near to a training image: an index that knows one of them again, and holds 28 bytes of each.

What a picture is compared by is its pixels, 64 x 64 and z-scored (evaluation.pixels), as the audit does; but the index
may hold no images. So a training image's middle window is told by 128 principal components of such windows, half
whitened, and of these only the signs of 256 random projections are kept (Charikar 2002; Plan and Vershynin 2013). A
picture is tried at all 81 shifts, with its projections unrounded, against all training images.

What the index gives away: whoever holds a radiograph can tell whether it was trained on, as with any index that knows
copies again; that is what it's for. Who holds none can work out from its bits, 256 a training image, the soft outline
of a chest: no detail that the components don't tell, no grey levels, no name, no label, no order (rows are sorted).
"""

from dataclasses import dataclass

import numpy as np

from synthcxr.evaluation.copying import calibrated_p, flagged_level
from synthcxr.evaluation.pixels import SHIFT, WINDOW, pixel_features

COMPONENTS, BITS = 128, 224
FITTED = 1024  # training images, at most, that the components are found from
ROWS = 2**16  # of the index, compared at once


@dataclass(frozen=True, eq=False)
class Index:
    """Training images as bits, and how near held-out patients come to them.

    Attributes:
        mean: (56 * 56,) float16, the mean unit window.
        projections: (56 * 56, 224) int8, from a window less the mean to what's rounded to bits.
        codes: (n, 28) uint8, packed bits, each once; n is at most the number of training images.
        held_out: (patients,) float32, the distance of one image of each held-out patient, sorted.
        alpha: share of fresh real images that may count as copies.
    """

    mean: np.ndarray
    projections: np.ndarray
    codes: np.ndarray
    held_out: np.ndarray
    alpha: float


class CopyCheck:
    """An index, ready to be asked; unpacked it takes 1 KB a training image."""

    def __init__(self, index: Index):
        self.index = index
        self._mean, self._projections = index.mean.astype(np.float32), index.projections.astype(np.float32)
        self._signs = np.unpackbits(index.codes, axis=1).astype(np.float32) * 2 - 1

    def p(self, pixels: np.ndarray) -> float:
        """How rarely a held-out patient's image lies as near to a training image as this one, (0, 1]."""
        return float(calibrated_p(np.array([self.distance(pixels)]), self.index.held_out)[0])

    def distance(self, pixels: np.ndarray) -> float:
        """1 less the best agreement with a training image over 81 shifts, weighted by projection; 0 to 2.

        1 is what chance gives, and a picture of one grey.
        """
        windows = np.lib.stride_tricks.sliding_window_view(pixel_features([pixels])[0], (WINDOW, WINDOW))
        projected = (unit_windows(windows.reshape(-1, WINDOW**2)) - self._mean) @ self._projections
        projected /= np.maximum(np.abs(projected).sum(1, keepdims=True), 1e-12)
        best = max((projected @ self._signs[at : at + ROWS].T).max() for at in range(0, len(self._signs), ROWS))
        return float(np.float32(1) - best)


def build_index(train: np.ndarray, fitted: np.ndarray, held_out: np.ndarray, alpha: float, seed: int) -> Index:
    """The index of training images, calibrated on one image of each held-out patient.

    Args:
        train: (n, 64, 64) as of `pixel_features`.
        fitted: rows of `train` of which no two are one patient's; the first 1,024 give the components.
        held_out: uint8 images.
    Raises:
        AuditError: too few held-out patients for alpha.
    """
    flagged_level(alpha, len(held_out))
    middles = unit_windows(train[:, SHIFT:-SHIFT, SHIFT:-SHIFT].reshape(len(train), -1))
    chosen = middles[fitted[:FITTED]].astype(np.float64)
    mean = chosen.mean(0)
    values, vectors = np.linalg.eigh((chosen - mean) @ (chosen - mean).T)
    kept = values > 1e-9
    values, vectors = values[kept][-COMPONENTS:], vectors[:, kept][:, -COMPONENTS:]
    # X'v / sqrt(value) is orthonormal; another fourth root whitens by half.
    components = (chosen - mean).T @ vectors / values**0.75
    random = np.random.default_rng(seed).standard_normal((components.shape[1], BITS))
    projections = components @ random
    projections = np.rint(127 * projections / np.abs(projections).max()).astype(np.int8)
    mean = mean.astype(np.float16)
    bits = (middles - mean.astype(np.float32)) @ projections.astype(np.float32) > 0
    codes = np.unique(np.packbits(bits, axis=1), axis=0)
    check = CopyCheck(Index(mean, projections, codes, np.empty(0, np.float32), alpha))
    distances = np.sort(np.array([check.distance(image) for image in held_out], dtype=np.float32))
    return Index(mean, projections, codes, distances, alpha)


def unit_windows(windows: np.ndarray) -> np.ndarray:
    """(n, 56 * 56) with mean 0 and norm 1; a flat window becomes 0."""
    centred = windows - windows.mean(1, keepdims=True)
    norm = np.linalg.norm(centred, axis=1, keepdims=True)
    return (centred / np.where(norm > 1e-3, norm, np.inf)).astype(np.float32)
