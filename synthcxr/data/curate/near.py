"""Copies that were saved again: moved a little, brightened, resized, compressed.

Three looks, each at what the one before left over: a perceptual hash, which nearly every two chests with the same
outline share; the small picture, which finds films of one patient in one pose; and fine detail at 128 pixels, where
two exposures never agree and copies do.
"""

import sys
from collections.abc import Callable, Iterator
from functools import lru_cache

import numpy as np
from PIL import Image
from tqdm import tqdm

from synthcxr.data.curate.config import NearConfig
from synthcxr.data.curate.duplicates import Pair
from synthcxr.data.curate.fingerprint import OFFSETS, WINDOW, Fingerprints, band, windows
from synthcxr.images import to_float

MIN_COARSE, MIN_DETAIL = 0.9, 0.75  # correlations of small pictures: low, since they only choose what is looked at
FINE = 128  # pixels a side of the last look, or of the smaller image
REACH = 0.075  # of the side: how far the last look moves one over the other
_CACHED = 256  # images, of 256 kB
_ROWS = 512  # images compared with all others at once: 5 MB of distances for 10,000
_PAIRS = 2048
_CELL = 4  # pixels a side of the means that the coarse correlation compares


def near_pairs(prints: Fingerprints, read: Callable[[int], np.ndarray], config: NearConfig) -> list[Pair]:
    """Every two images of which one is a copy of the other.

    Mirrored, turned by more than a degree or so and cropped copies aren't found. Takes n^2 / 2 comparisons of 64 bits
    for each window.

    Args:
        read: the pixels of an image, uint8 or uint16 (h, w), by index.
    """
    suspects = _suspects(prints, config)
    look = lru_cache(_CACHED)(lambda index, size: fine_detail(read(index), size))
    sizes = lru_cache(_CACHED)(lambda index: min(FINE, *read(index).shape))
    found = []
    for (one, other), distance in tqdm(suspects.items(), "compare", file=sys.stderr, unit="pair", disable=None):
        if prints.pixels[one] == prints.pixels[other]:
            continue
        size = min(sizes(one), sizes(other))
        similarity = best_correlation(look(one, size), look(other, size))
        if similarity >= config.min_similarity:
            found.append(Pair(one, other, exact=False, distance=distance, similarity=similarity))
    return found


def fine_detail(pixels: np.ndarray, size: int) -> np.ndarray:
    """(h, w) -> float32 (2 size, 2 size): detail of `size` pixels, at half a pixel's step."""
    picture = Image.fromarray(to_float(pixels)).resize((size, size), Image.Resampling.BOX)
    return band(np.asarray(picture.resize((2 * size, 2 * size), Image.Resampling.BICUBIC))[None], 1.4, 4.0)[0]


def best_correlation(one: np.ndarray, other: np.ndarray) -> float:
    """The largest normalised correlation of two details (n, n), one moved over the other by up to REACH of the side.

    Computed for all shifts at once by Fourier transforms (Lewis 1995, "Fast normalized cross-correlation"); detail has
    no mean to speak of. 0 where either is blank.
    """
    side = len(one)
    margin = int(REACH * side)
    inner = np.zeros((side, side), np.float32)
    inner[margin:-margin, margin:-margin] = 1
    template = one * inner

    def correlate(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return np.fft.irfft2(np.conj(np.fft.rfft2(a)) * np.fft.rfft2(b), s=a.shape)

    energy = np.sqrt(np.square(template).sum() * np.maximum(correlate(inner, np.square(other)), 0))
    shifts = np.r_[0 : margin + 1, -margin:0]  # those at which the template doesn't wrap around
    inside = np.ix_(shifts, shifts)
    blank = 1e-4 * side  # of an image of one gray, whatever rounding leaves of it
    told = np.where(energy[inside] > blank, correlate(template, other)[inside] / np.maximum(energy[inside], blank), 0.0)
    return float(min(told.max(), 1.0))


def _suspects(prints: Fingerprints, config: NearConfig) -> dict[tuple[int, int], int]:
    """Pairs that two looks at small pictures leave over, with the distance of their hashes, in order."""
    found: dict[tuple[int, int], int] = {}
    detail = _details(prints.small)
    for number, offset in enumerate(OFFSETS):
        for one, other, distance in _candidates(prints, number, offset, config.max_distance):
            alike = _detail_similarity(detail[one], detail[other], offset) >= MIN_DETAIL
            for a, b, bits in zip(one[alike].tolist(), other[alike].tolist(), distance[alike].tolist(), strict=True):
                key = (min(a, b), max(a, b))
                found[key] = min(bits, found.get(key, bits))
    return dict(sorted(found.items()))


def _candidates(
    prints: Fingerprints, number: int, offset: tuple[int, int], max_distance: int
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """(one, other, distance), a block of pairs at a time: the centre of `one` is like the window of `other`."""
    centre, window = (_coarse(windows(prints.small, place)) for place in (OFFSETS[0], offset))
    for start in range(0, len(prints), _ROWS):
        differing = np.bitwise_count(prints.hashes[start : start + _ROWS, :1] ^ prints.hashes[None, :, number])
        rows, others = np.nonzero(differing <= max_distance)
        distances, ones = differing[rows, others], rows + start
        # Without a shift each pair comes up twice; with one, the second time is the opposite shift.
        new = np.flatnonzero(ones < others if number == 0 else ones != others)
        for block in range(0, len(new), _PAIRS):
            part = new[block : block + _PAIRS]
            part = part[np.einsum("nd,nd->n", centre[ones[part]], window[others[part]]) >= MIN_COARSE]
            if len(part):
                yield ones[part], others[part], distances[part]


def _coarse(seen: np.ndarray) -> np.ndarray:
    """(n, WINDOW, WINDOW) -> float32 (n, 196): means of cells, centred and of length 1; dot products correlate."""
    side = WINDOW // _CELL
    cells = seen.reshape(len(seen), side, _CELL, side, _CELL).mean(axis=(2, 4), dtype=np.float32).reshape(len(seen), -1)
    centred = cells - cells.mean(axis=1, keepdims=True)
    return centred / np.maximum(np.linalg.norm(centred, axis=1, keepdims=True), 1e-6)


def _details(small: np.ndarray) -> np.ndarray:
    """float16, as `small`: what of it lies between 0.7 and 2 pixels of blur; made a block at a time."""
    details = np.empty_like(small)
    for start in range(0, len(small), _ROWS):
        details[start : start + _ROWS] = band(small[start : start + _ROWS], 0.7, 2.0)
    return details


def _detail_similarity(one: np.ndarray, other: np.ndarray, offset: tuple[int, int]) -> np.ndarray:
    """float16 (n, SIDE, SIDE) twice -> (n,): the best correlation within a pixel of the offset."""
    centre, moved = windows(one.astype(np.float32), (0, 0)), other.astype(np.float32)
    best = np.full(len(one), -1.0, np.float32)
    for down in (-1, 0, 1):
        for right in (-1, 0, 1):
            window = windows(moved, (offset[0] + down, offset[1] + right))
            lengths = np.sqrt(_dots(centre, centre) * _dots(window, window))
            best = np.maximum(best, _dots(centre, window) / np.maximum(lengths, 1e-6))
    return best


def _dots(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    return np.einsum("nij,nij->n", one, other)
