"""From seeds and bootstrap draws to intervals, p-values, and how many labels synthetic data is worth. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from synthcxr.evaluation.scores import eval_module


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds with its 95% interval, and the two-sided p-value of its being 0."""

    value: float
    low: float
    high: float
    p: float


def over_seeds(values: np.ndarray, draws: np.ndarray) -> Estimate:
    """A mean over seeds; both who was tested and how training went may have come out otherwise.

    The variance is that of the mean under the bootstrap over patients, plus that between seeds over their number; the
    interval is Student's, with the degrees of freedom of Satterthwaite (1946): few seeds that disagree make it wide.
    One seed tells nothing of the others: then the interval is of patients alone.

    Args:
        values: (seeds,) a number each, a difference of two arms with the same seed say.
        draws: (seeds, replicates) the same under weights of patients, the same weights for all seeds.
    """
    t = eval_module("scipy.stats").t
    seeds, mean = len(values), float(values.mean())
    of_patients = float(np.nanvar(draws.mean(axis=0), ddof=1))
    of_seeds = float(values.var(ddof=1)) / seeds if seeds > 1 else 0.0
    error = np.sqrt(of_patients + of_seeds)
    if error == 0:
        return Estimate(mean, mean, mean, 1.0 if mean == 0 else 0.0)
    freedom = (seeds - 1) * error**4 / of_seeds**2 if of_seeds > 0 else np.inf
    reach = float(t.ppf(0.975, freedom)) * error
    return Estimate(mean, mean - reach, mean + reach, float(2 * t.sf(abs(mean) / error, freedom)))


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values of a family of comparisons, so that one below 0.05 by chance in the whole family is as rare as that.

    Holm (1979): the smallest times their number, the next one times one less, and so on, never falling.
    """
    adjusted, largest = [0.0] * len(p_values), 0.0
    for rank, place in enumerate(np.argsort(p_values, kind="stable")):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[place]))
        adjusted[place] = float(largest)
    return adjusted


@dataclass(frozen=True)
class Saving:
    """How many times as many real patients real data alone needs for the same; `bound` where the curve ends before."""

    factor: float
    bound: Literal["at least", "at most"] | None


def label_saving(fractions: Sequence[float], real: np.ndarray, score: float, fraction: float) -> Saving:
    """Where on the real curve a score lies, over the fraction that it was reached with.

    The curve is made monotone (isotonic regression) and read linearly in the logarithm of the fraction.

    Args:
        fractions: rising; real: (fractions,) what real data alone reaches, higher is better.
        score: of another arm with `fraction` of the real patients.
    """
    regression = eval_module("sklearn.isotonic").IsotonicRegression()
    places = np.log(fractions)
    curve = regression.fit_transform(places, real)
    # At the ends of the curve nothing is known of what lies beyond.
    if score >= curve[-1]:
        first = fractions[int(np.argmax(curve >= curve[-1]))] if score == curve[-1] else fractions[-1]
        return Saving(first / fraction, None if score == curve[-1] else "at least")
    if score < curve[0]:
        return Saving(fractions[0] / fraction, "at most")
    above = int(np.searchsorted(curve, score, side="right"))
    low, high = curve[above - 1], curve[above]
    place = places[above - 1] + (score - low) / (high - low) * (places[above] - places[above - 1])
    return Saving(float(np.exp(place)) / fraction, None)


def label_saving_interval(
    fractions: Sequence[float], real: np.ndarray, scores: np.ndarray, fraction: float, seed: int
) -> tuple[float, float]:
    """95% interval of the factor, by drawing patients and seeds anew; it ends where the curve does.

    All but one of the seeds are drawn with repetition, so that their spread isn't underestimated (Rao and Wu 1988).

    Args:
        real: (fractions, seeds, replicates); scores: (seeds, replicates), under the same weights of patients.
    """
    rng = np.random.default_rng(seed)
    seeds, replicates = scores.shape
    factors = []
    for replicate in range(replicates):
        drawn = rng.integers(seeds, size=max(1, seeds - 1))
        curve, score = real[:, drawn, replicate].mean(axis=1), scores[drawn, replicate].mean()
        if np.isfinite(curve).all() and np.isfinite(score):
            factors.append(label_saving(fractions, curve, float(score), fraction).factor)
    low, high = np.percentile(factors, [2.5, 97.5])
    return float(low), float(high)
