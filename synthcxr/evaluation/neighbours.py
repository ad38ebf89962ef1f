"""Exact nearest neighbours, block by block: memory stays flat however many rows there are.

A neighbour may be a patient rather than an image: with `groups`, the distance to a patient is that to the nearest of
their images, so that a long series of one patient isn't fifty neighbours.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

BLOCK_NUMBERS = 2**22  # float64 numbers in one block of anything: 32 MiB


@dataclass(frozen=True)
class Neighbours:
    """What is nearest to each of n queries.

    Attributes:
        distance: (n, k) float64, rising along a row: to the k nearest groups.
        index: (n,) the row of the reference that is nearest of all.
    """

    distance: np.ndarray
    index: np.ndarray


class Grouping:
    """Which rows of a reference belong together, and which of them are no neighbours of a query.

    Args:
        queries, rows: how many rows the queries and the reference have.
        k: how many groups a query is to find.
        groups: (rows,) the group of each, a patient say; None: each row is its own group, named by its number.
        own: (n,) the group of each query, whose rows are no neighbours of it; one that isn't in `groups` excludes
            nothing. None excludes nothing at all.
    Raises:
        ValueError: a length that doesn't fit, or more neighbours than groups.
    """

    def __init__(
        self, queries: int, rows: int, k: int, groups: np.ndarray | None = None, own: np.ndarray | None = None
    ):
        for given, count in ((groups, rows), (own, queries)):
            if given is not None and len(given) != count:
                raise ValueError(f"{len(given)} group names for {count} rows")
        names, codes = np.unique(np.arange(rows) if groups is None else np.asarray(groups), return_inverse=True)
        if not 1 <= k <= len(names):
            raise ValueError(f"k = {k} must be in 1 to {len(names)}, the number of groups")
        self.codes = torch.from_numpy(codes.astype(np.int64))
        self.own = None
        if own is not None:
            place = np.searchsorted(names, own).clip(max=len(names) - 1)
            self.own = torch.from_numpy(np.where(names[place] == own, place, -1).astype(np.int64))

    def exclude(self, values: torch.Tensor, queries: slice, codes: torch.Tensor, worst: float) -> None:
        """Set what a query has in common with its own group to `worst`; values (b, rows), codes (rows,)."""
        if self.own is not None:
            values.masked_fill_(self.own[queries, None] == codes[None], worst)

    def smallest(self, values: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
        """(b, rows) -> (b, groups): the smallest value of each group that occurs in codes (rows,)."""
        present, codes = codes.unique(return_inverse=True)
        if len(present) == len(codes):
            return values
        start = values.new_full((len(values), len(present)), float("inf"))
        return start.scatter_reduce(1, codes.expand_as(values), values, "amin")


def nearest(
    queries: np.ndarray,
    reference: np.ndarray,
    k: int = 1,
    groups: np.ndarray | None = None,
    own: np.ndarray | None = None,
) -> Neighbours:
    """The k nearest groups of each query by Euclidean distance, computed in float64.

    Args:
        queries, reference: (n, d) and (m, d) arrays of any float type; converted block by block.
        k: at most the number of groups; where fewer are left to a query, the distances beyond are infinite.
        groups, own: see Grouping.
    Raises:
        ValueError: shapes that don't go together, a k out of range, or a value that isn't finite.
    """
    check_features(queries, reference)
    grouping = Grouping(len(queries), len(reference), k, groups, own)
    distance, index = np.empty((len(queries), k)), np.empty(len(queries), dtype=np.int64)
    for rows, block in distances(queries, reference):
        grouping.exclude(block, rows, grouping.codes, float("inf"))
        index[rows] = block.argmin(1).numpy()
        distance[rows] = grouping.smallest(block, grouping.codes).topk(k, largest=False).values.numpy()
    return Neighbours(distance, index)


def distances(queries: np.ndarray, reference: np.ndarray) -> Iterator[tuple[slice, torch.Tensor]]:
    """Euclidean distances, some queries at a time: (which queries, float64 (b, m)).

    What rounding alone can leave of a distance between equal rows counts as zero: below a millionth of their norms.
    """
    step, width = max(1, BLOCK_NUMBERS // len(reference)), max(1, BLOCK_NUMBERS // reference.shape[1])
    step = min(step, width)
    reference_squares = torch.cat([_double(reference[rows]).square().sum(1) for rows in slices(len(reference), width)])
    for rows in slices(len(queries), step):
        asked = _double(queries[rows])
        sums = asked.square().sum(1, keepdim=True) + reference_squares
        block = torch.empty_like(sums)
        for columns in slices(len(reference), width):
            torch.mm(asked, _double(reference[columns]).T, out=block[:, columns])
        block.mul_(-2).add_(sums)
        block[block < 1e-12 * sums] = 0
        yield rows, block.sqrt_()


def slices(count: int, step: int) -> Iterator[slice]:
    """0 to count, cut into slices of at most `step`."""
    return (slice(start, min(start + step, count)) for start in range(0, count, step))


def check_features(a: np.ndarray, b: np.ndarray, form: str = "(n, d)") -> None:
    """Both are of the form that is named, of one width, not empty, and finite.

    Raises:
        ValueError: they aren't; says how.
    """
    for name, array in (("first", a), ("second", b)):
        if array.ndim != form.count(",") + 1 or 0 in array.shape:
            raise ValueError(f"the {name} features have shape {array.shape}; they must be {form}, and not empty")
        if not np.isfinite(array).all():
            raise ValueError(f"the {name} features hold values that aren't finite")
    if a.shape[1:] != b.shape[1:]:
        raise ValueError(f"features of shape {a.shape[1:]} can't be compared with {b.shape[1:]}; use one extractor")


def _double(rows: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(rows, dtype=np.float64))
