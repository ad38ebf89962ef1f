"""How pictures look, whatever they show: sharpness, spectrum and grays, as rows that metrics of two sets compare."""

from collections.abc import Iterable

import numpy as np

from synthcxr.evaluation.fidelity import Features, Metric
from synthcxr.evaluation.scores import eval_module
from synthcxr.images import to_float

RINGS, LEVELS = 16, 64  # of spatial frequency, up to Nyquist; of gray, from black to white
LOWEST = 4  # cycles a picture: where the first ring begins; below, a small picture would leave rings empty


def appearance_features(images: Iterable[np.ndarray]) -> np.ndarray:
    """Square uint8 or uint16 images, all of one size, 32 pixels or more -> float32 (n, 1 + RINGS + LEVELS).

    Sharpness: log2 of the mean squared Laplacian (of grays from 0 to 1). Spectrum: decibels of the mean power in rings
    of frequency, evenly spaced in its logarithm, under a Hann window, without which the edges of a picture would be its
    detail. Grays: shares of the pixels.
    """
    return np.array([_features(to_float(image).astype(np.float64) / 2 + 0.5) for image in images], dtype=np.float32)


def _features(unit: np.ndarray) -> np.ndarray:
    size = len(unit)
    laplacian = unit[:-2, 1:-1] + unit[2:, 1:-1] + unit[1:-1, :-2] + unit[1:-1, 2:] - 4 * unit[1:-1, 1:-1]
    window = np.hanning(size)[:, None] * np.hanning(size)
    power = np.abs(np.fft.rfft2((unit - unit.mean()) * window)) ** 2 / size**2
    ring = ring_of(size)
    inside = ring >= 0
    sums = np.bincount(ring[inside], power[inside], minlength=RINGS)
    counts = np.bincount(ring[inside], minlength=RINGS)
    spectrum = 10 * np.log10(sums / counts + 1e-10)
    grays = np.bincount((unit * LEVELS).astype(int).clip(0, LEVELS - 1).ravel(), minlength=LEVELS) / unit.size
    return np.concatenate([[np.log2(np.square(laplacian).mean() + 1e-10)], spectrum, grays])


def ring_of(size: int) -> np.ndarray:
    """The ring of each frequency of `rfft2`; -1 for those outside of all."""
    radius = np.hypot(np.fft.fftfreq(size)[:, None], np.fft.rfftfreq(size)) * size
    ring = np.floor(np.log(np.maximum(radius, 1e-9) / LOWEST) / np.log(size / 2 / LOWEST) * RINGS)
    return np.where((radius >= LOWEST) & (radius < size / 2), ring, -1).astype(int)


def frequencies(size: int) -> np.ndarray:
    """(RINGS,) the middle of each ring, as a share of the Nyquist frequency of a picture of `size` pixels a side."""
    return (2 * LOWEST / size) ** (1 - (np.arange(RINGS) + 0.5) / RINGS)


def spectra(rows: np.ndarray) -> np.ndarray:
    """(n, RINGS) decibels."""
    return rows[:, 1 : 1 + RINGS]


def sharpness(real: Features, fake: Features) -> float:
    """How much sharper the second set is: mean log2 of the squared Laplacian; -1 is half the energy, 0 is alike."""
    return float(fake[:, 0].mean(dtype=np.float64) - real[:, 0].mean(dtype=np.float64))


def spectrum_error(real: Features, fake: Features) -> float:
    """Root mean square over the rings of the difference between mean spectra, in decibels."""
    apart = spectra(fake).mean(0, dtype=np.float64) - spectra(real).mean(0, dtype=np.float64)
    return float(np.sqrt(np.square(apart).mean()))


def gray_distance(real: Features, fake: Features) -> float:
    """Wasserstein distance between the grays of all pixels, as a share of the range from black to white."""
    middles = (np.arange(LEVELS) + 0.5) / LEVELS
    weights = [rows[:, 1 + RINGS :].sum(0, dtype=np.float64) for rows in (real, fake)]
    return float(eval_module("scipy.stats").wasserstein_distance(middles, middles, *weights))


# One line a metric.
APPEARANCE: dict[str, Metric] = {
    "sharpness": Metric(("sharpness",), lambda a, b: (sharpness(a, b),), "zero"),
    "spectrum": Metric(("spectrum",), lambda a, b: (spectrum_error(a, b),), "lower", least=0),
    "grays": Metric(("grays",), lambda a, b: (gray_distance(a, b),), "lower", least=0, most=1),
}  # fmt: skip
