"""The positive control of a privacy audit: copies of training images, altered as a generator might alter them.

An audit that doesn't find these finds nothing; see `privacy.audit`.
"""

import io
from collections.abc import Callable

import numpy as np
from PIL import Image

from synthcxr.images import from_float, to_float

LARGEST_SHIFT = 1 / 16  # of the shorter side
QUALITY = 70
NOISE = 0.05  # standard deviation, as a share of the range from black to white

Alteration = Callable[[np.ndarray, np.random.Generator], np.ndarray]


def exact(pixels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The image itself."""
    return pixels.copy()


def shifted(pixels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Moved by whole pixels, up to a sixteenth of the shorter side each way; the border repeats."""
    most = max(1, int(min(pixels.shape) * LARGEST_SHIFT))
    top, left = rng.integers(0, 2 * most, 2, endpoint=True)
    height, width = pixels.shape
    return np.pad(pixels, most, mode="edge")[top : top + height, left : left + width]


def recontrasted(pixels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Another window and gamma: gain 0.7 to 1.3 about the mean, clipped, then gamma 0.66 to 1.52."""
    image = to_float(pixels)
    image = (image - image.mean()) * rng.uniform(0.7, 1.3) + image.mean() + rng.uniform(-0.1, 0.1)
    unit = (np.clip(image, -1, 1) + 1) / 2
    return from_float(2 * unit**2 ** rng.uniform(-0.6, 0.6) - 1, bits=8 * pixels.dtype.itemsize)


def jpeg70(pixels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Through a JPEG of quality 70, which has 8 bits; the form of the pixels stays."""
    buffer = io.BytesIO()
    Image.fromarray(from_float(to_float(pixels))).save(buffer, "JPEG", quality=QUALITY)
    with Image.open(buffer) as image:
        return from_float(to_float(np.array(image)), bits=8 * pixels.dtype.itemsize)


def noisy(pixels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """With white Gaussian noise, a twentieth of the range in standard deviation, and clipped."""
    noise = 2 * NOISE * rng.standard_normal(pixels.shape)
    return from_float(to_float(pixels) + noise, bits=8 * pixels.dtype.itemsize)


COPIES: dict[str, Alteration] = {
    "exact": exact, "shifted": shifted, "recontrasted": recontrasted, "jpeg70": jpeg70, "noisy": noisy,
}  # fmt: skip


def planted_copy(pixels: np.ndarray, kind: str, seed: int) -> np.ndarray:
    """One image (h, w), uint8 or uint16, altered in one of the ways of COPIES; the same for the same seed."""
    return COPIES[kind](pixels, np.random.default_rng(seed))
