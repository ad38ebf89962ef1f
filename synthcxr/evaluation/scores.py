"""What a metric gives: a number with name, interval, count and direction; and what several metrics share."""

from dataclasses import dataclass
from importlib import import_module
from typing import Any, Literal

import numpy as np

from synthcxr.errors import UserError

Direction = Literal["higher", "lower", "zero"]  # what is better: more, less, or nearer to zero
Z95 = 1.959963984540054  # a normal variable lies within this many deviations 95 times of 100


@dataclass(frozen=True)
class Score:
    """A measured number.

    Attributes:
        name: what was measured.
        value: the estimate.
        low, high: its 95% interval; how it was found is said where the score is made.
        n: images or patients that it rests on: of the smaller set where two are compared.
        direction: which way is better.
    """

    name: str
    value: float
    low: float
    high: float
    n: int
    direction: Direction


def eval_module(name: str) -> Any:
    """A module of scipy or scikit-learn, which the package imports without.

    Raises:
        UserError: it isn't installed; says how to.
    """
    try:
        return import_module(name)
    except ImportError as error:
        raise UserError(f'evaluating needs {name.split(".")[0]}: pip install "synthcxr[eval]"') from error


def needed() -> None:
    """What every evaluation needs sooner or later is there: asked before the first picture is read.

    Raises:
        UserError: it isn't installed; says how to.
    """
    for name in ("scipy.stats", "sklearn", "torchmetrics"):
        eval_module(name)


def auc(positive: np.ndarray, negative: np.ndarray) -> float:
    """Chance that a positive's value exceeds a negative's, ties counting half."""
    below, up_to = (np.searchsorted(np.sort(negative), positive, side) for side in ("left", "right"))
    return float((below + up_to).mean() / (2 * len(negative)))


def auc_interval(value: float, positives: int, negatives: int) -> tuple[float, float]:
    """95% interval of an AUC between independent positives and negatives: Newcombe 2006 (part 2), method 5.

    A score interval on Hanley and McNeil's variance, so that it has a width at 0 and 1 too.
    """
    half = (positives + negatives) / 2 - 1

    def outside(true: float) -> bool:
        spread = 1 + half * ((1 - true) / (2 - true) + true / (1 + true))
        return (true - value) ** 2 > Z95**2 * true * (1 - true) * spread / (positives * negatives)

    return _edge(outside, 0.0, value), _edge(outside, 1.0, value)


def _edge(outside: Any, out: float, inside: float) -> float:
    """Where `outside` changes between a point out of an interval and one in it, by bisection."""
    for _ in range(60):
        middle = (out + inside) / 2
        out, inside = (middle, inside) if outside(middle) else (out, middle)
    return inside
