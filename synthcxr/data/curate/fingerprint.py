"""What is kept of each image while a dataset is curated: a hash of its pixels, perceptual hashes, a small picture."""

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from PIL import Image

from synthcxr.images import to_float

SIDE = 64  # pixels of the small picture
WINDOW = 56  # what of it is hashed and compared, so that a shifted copy still shows the same
MARGIN = (SIDE - WINDOW) // 2
_STEP = 3  # pixels between windows; the hash bears the 1.5 that are left
# (down, right) in pixels from the centre; the first is the centre itself.
OFFSETS = ((0, 0), *((y, x) for y in (-_STEP, 0, _STEP) for x in (-_STEP, 0, _STEP) if (y, x) != (0, 0)))


@dataclass(frozen=True)
class Fingerprints:
    """Of n images, 8.3 kB each.

    Attributes:
        pixels: n times the sha256 of size, depth and decoded pixels.
        hashes: uint64 (n, len(OFFSETS)), the perceptual hash of each window.
        small: float16 (n, SIDE, SIDE), mean 0 and deviation 1 each; all 0 for an image of one gray.
    """

    pixels: list[str]
    hashes: np.ndarray
    small: np.ndarray

    def __len__(self) -> int:
        return len(self.pixels)

    @property
    def features(self) -> np.ndarray:
        """float32 (n, SIDE * SIDE / 4): the small pictures at half size, to compare by where no model is at hand."""
        n, half = len(self), SIDE // 2
        return self.small.reshape(n, half, 2, half, 2).mean(axis=(2, 4), dtype=np.float32).reshape(n, -1)


class Scanner:
    """Takes the fingerprints of images that pass through on their way to somebody else."""

    def __init__(self) -> None:
        self._pixels: list[str] = []
        self._hashes: list[np.ndarray] = []
        self._small: list[np.ndarray] = []

    def watch(self, images: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        """The same images, uint8 or uint16 (h, w), in the same order."""
        for image in images:
            small = _small_picture(image)
            self._pixels.append(_pixel_hash(image))
            self._hashes.append(_perceptual_hashes(small))
            self._small.append(small.astype(np.float16))
            yield image

    def fingerprints(self) -> Fingerprints:
        """Of all images that passed."""
        n = len(self._pixels)
        hashes = np.array(self._hashes, np.uint64).reshape(n, len(OFFSETS))
        return Fingerprints(self._pixels, hashes, np.array(self._small, np.float16).reshape(n, SIDE, SIDE))


def windows(pictures: np.ndarray, offset: tuple[int, int]) -> np.ndarray:
    """(n, SIDE, SIDE) -> (n, WINDOW, WINDOW), `offset` pixels (down, right) from the centre."""
    top, left = MARGIN + offset[0], MARGIN + offset[1]
    return pictures[:, top : top + WINDOW, left : left + WINDOW]


def band(pictures: np.ndarray, fine: float, coarse: float) -> np.ndarray:
    """(n, side, side) -> float32 of the same shape: what lies between two Gaussian blurs, in pixels."""
    side = pictures.shape[-1]
    pictures = pictures.astype(np.float32)
    narrow, wide = _blur(side, fine), _blur(side, coarse)
    return narrow @ pictures @ narrow.T - wide @ pictures @ wide.T


def _pixel_hash(image: np.ndarray) -> str:
    digest = hashlib.sha256(f"{image.dtype.itemsize} {image.shape}".encode())
    digest.update(np.ascontiguousarray(image, dtype=image.dtype.newbyteorder("<")))
    return digest.hexdigest()


def _small_picture(image: np.ndarray) -> np.ndarray:
    # Box means over the whole image, its aspect given up: a copy of another size or shape comes out the same.
    small = Image.fromarray(to_float(image)).resize((SIDE, SIDE), Image.Resampling.BOX)
    centred = np.asarray(small, dtype=np.float32) - np.mean(small, dtype=np.float64)
    deviation = float(centred.std())
    return (centred / deviation if deviation > 1e-4 else np.zeros_like(centred)).astype(np.float32)


def _perceptual_hashes(small: np.ndarray) -> np.ndarray:
    """uint64 (len(OFFSETS),): the DCT hash of each window.

    The signs of the 8 x 8 lowest frequencies of the cosine transform against their median, the constant left out
    (pHash: Zauner 2010, "Implementation and benchmarking of perceptual image hash functions", 3.2.1).
    """
    cosines = _cosines()
    seen = np.stack([windows(small[None], offset)[0] for offset in OFFSETS])
    low = (cosines @ seen @ cosines.T).reshape(len(OFFSETS), 64)
    bits = low > np.median(low[:, 1:], axis=1, keepdims=True)
    bits[:, 0] = False
    return np.packbits(bits, axis=1).view(np.uint64)[:, 0]


@lru_cache
def _cosines() -> np.ndarray:
    """(8, WINDOW): the first rows of the type 2 cosine transform, unscaled."""
    return np.cos(np.pi * np.arange(8)[:, None] * (2 * np.arange(WINDOW) + 1) / (2 * WINDOW))


@lru_cache
def _blur(side: int, deviation: float) -> np.ndarray:
    """float32 (side, side): a Gaussian blur along one axis; at the edges only what there is counts."""
    place = np.arange(side)
    weights = np.exp(-((place[:, None] - place) ** 2) / (2 * deviation**2))
    return (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)
