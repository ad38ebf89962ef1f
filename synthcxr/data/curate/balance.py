"""Columns made independent of each other, and how far from it they are.

A model that sees a chest tube wherever there's a pneumothorax learns the tube. Here each cell of the two columns' table
gets the share that independence gives it, by weights (reweighing: Kamiran and Calders 2012; inverse-probability weights
stabilised by the margins) or by leaving images out. Several pairs at once are raked: fitted in turn until all hold
(iterative proportional fitting: Deming and Stephan 1940).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from synthcxr.data.curate.columns import UNKNOWN, Column, column
from synthcxr.data.curate.config import BalanceConfig
from synthcxr.data.record import Record
from synthcxr.errors import DatasetError
from synthcxr.runs import derive_seed

_SWEEPS = 1000
_CLOSE = 1e-9  # relative, when raking stops
_TOLERABLE = 1e-3  # relative, above which it has failed

Pairs = Sequence[tuple[Column, Column]]


@dataclass(frozen=True)
class Association:
    """How two columns hang together, over images in which both are known.

    Attributes:
        images: how many those are.
        odds_ratio: of a table of two by two, 1 for independence and infinite where only agreeing cells hold images;
            None for a larger table or one with an empty row or column.
        mutual_information: bits, 0 for independence.
    """

    one: str
    other: str
    images: int
    odds_ratio: float | None
    mutual_information: float


def balance(
    records: Sequence[Record], weights: np.ndarray, first: np.ndarray, config: BalanceConfig, seed: int
) -> np.ndarray:
    """New weights (n,) under which both columns of each pair are independent; 0 for an image that is left out.

    An image in which one of two columns isn't known is left as it is for that pair. The sum of weights stays what it
    was for those that are kept. `subsample` leaves out as few images as the margins allow, and then only corrects
    what whole numbers can't say: counted without their weights, the images are as independent as rounding permits.

    Args:
        weights: (n,) > 0.
        first: (n,) bool, images that are the last of their cell to be left out.

    Raises:
        DatasetError: two columns can't be made independent, since there's no image of some combination.
    """
    pairs = [(column(records, one), column(records, other)) for one, other in config.pairs]
    for one, other in pairs:
        _check_filled(one, other, np.ones(len(records)), "add such images, or leave the pair out")
    equal = config.margins == "equal"
    if config.method == "weight":
        return rake(pairs, weights, equal)
    kept = _subsample(records, pairs, rake(pairs, np.ones(len(records)), equal), first, seed)
    for one, other in pairs:
        _check_filled(one, other, kept.astype(float), "use method=weight or margins=equal")
    return rake(pairs, np.where(kept, weights, 0.0), equal)


def associate(one: Column, other: Column, weights: np.ndarray) -> Association:
    """How two columns of n images hang together under weights (n,) >= 0."""
    table = _table(one, other, weights)
    known = (one.codes != UNKNOWN) & (other.codes != UNKNOWN) & (weights > 0)
    return Association(one.name, other.name, int(known.sum()), _odds_ratio(table), _mutual_information(table))


def rake(pairs: Pairs, weights: np.ndarray, equal: bool) -> np.ndarray:
    """Weights (n,) scaled so that each pair's table is the product of its margins.

    The margins are those that the weights give, or equal ones. Pairs that share a column can contradict each other in
    that where values are unknown; then the tables are independent all the same, and the margins as near as that allows.

    Raises:
        DatasetError: the pairs can't be independent together.
    """
    targets = [_target(_table(one, other, weights), equal) for one, other in pairs]
    raked, worst = _raked(pairs, weights, targets)
    if worst > _CLOSE:
        raked, worst = _raked(pairs, raked, None)
    if worst > _TOLERABLE:
        names = "; ".join(f"{one.name} and {other.name}" for one, other in pairs)
        raise DatasetError(f"balance.pairs: {names} can't all be made independent at once; leave a pair out")
    return raked


def _raked(pairs: Pairs, weights: np.ndarray, targets: Sequence[np.ndarray] | None) -> tuple[np.ndarray, float]:
    """Weights fitted to one table after another, None for what their margins are at the time; the largest miss."""
    weights, worst = weights.astype(np.float64), 0.0
    for _ in range(_SWEEPS):
        worst = 0.0
        for place, (one, other) in enumerate(pairs):
            table = _table(one, other, weights)
            target = _target(table, equal=False) if targets is None else targets[place]
            factor = np.divide(target, table, out=np.ones_like(table), where=table > 0)
            worst = max(worst, float(np.abs(factor - 1).max(initial=0.0)))
            known = (one.codes != UNKNOWN) & (other.codes != UNKNOWN)
            weights[known] *= factor[one.codes[known], other.codes[known]]
        if worst < _CLOSE:
            break
    return weights, worst


def _subsample(records: Sequence[Record], pairs: Pairs, wanted: np.ndarray, first: np.ndarray, seed: int) -> np.ndarray:
    """(n,) bool: of each combination of levels, the share of its images that `wanted` (n,) gives relative to others."""
    codes = np.stack([side.codes for pair in pairs for side in pair], axis=1)
    concerned = np.zeros(len(records), dtype=bool)
    for one, other in pairs:
        concerned |= (one.codes != UNKNOWN) & (other.codes != UNKNOWN)
    kept = ~concerned
    most = wanted[concerned].max(initial=0.0)
    _, cells = np.unique(codes, axis=0, return_inverse=True)
    for cell in np.unique(cells[concerned]):
        members = np.flatnonzero((cells.ravel() == cell) & concerned)
        quota = round(float(wanted[members[0]] / most) * len(members))
        order = {member: (not first[member], derive_seed(seed, f"balance/{records[member].id}")) for member in members}
        drawn = sorted(order, key=order.__getitem__)
        kept[drawn[:quota]] = True
    return kept


def _check_filled(one: Column, other: Column, weights: np.ndarray, remedy: str) -> None:
    table = _table(one, other, weights)
    rows, columns = table.sum(axis=1) > 0, table.sum(axis=0) > 0
    for row, place in np.argwhere((table == 0) & rows[:, None] & columns):
        raise DatasetError(
            f"balance.pairs: no image is left with {one.name} {one.levels[row]} and {other.name} {other.levels[place]},"
            f" so the two can't be made independent; {remedy}"
        )


def _table(one: Column, other: Column, weights: np.ndarray) -> np.ndarray:
    """(levels of one, levels of other): sums of weights over images in which both are known."""
    shape = (len(one.levels), len(other.levels))
    known = (one.codes != UNKNOWN) & (other.codes != UNKNOWN)
    places = one.codes[known] * shape[1] + other.codes[known]
    return np.bincount(places, weights[known], minlength=shape[0] * shape[1]).reshape(shape).astype(np.float64)


def _target(table: np.ndarray, equal: bool) -> np.ndarray:
    rows, columns = table.sum(axis=1, keepdims=True), table.sum(axis=0, keepdims=True)
    if equal:
        rows, columns = (np.where(margin > 0, 1.0, 0.0) for margin in (rows, columns))
    product = rows * columns
    return product * (table.sum() / product.sum()) if product.sum() else product


def _odds_ratio(table: np.ndarray) -> float | None:
    if table.shape != (2, 2):
        return None
    agreeing, opposing = table[0, 0] * table[1, 1], table[0, 1] * table[1, 0]
    if opposing == 0:
        return float("inf") if agreeing > 0 else None
    return float(agreeing / opposing)


def _mutual_information(table: np.ndarray) -> float:
    """Bits: sum of p(a, b) log2 p(a, b) / (p(a) p(b))."""
    if table.sum() == 0:
        return 0.0
    joint = table / table.sum()
    independent = joint.sum(axis=1, keepdims=True) * joint.sum(axis=0, keepdims=True)
    seen = joint > 0
    return max(0.0, float(np.sum(joint[seen] * np.log2(joint[seen] / independent[seen]))))
