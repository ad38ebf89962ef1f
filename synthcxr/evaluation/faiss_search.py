"""`neighbours.nearest` by faiss (Douze et al. 2024), for large sets: the same answer, sooner from some 10,000 rows on.

Its flat index compares in float32 with everything, so it leaves nothing out; but float32 can't tell a copy from a close
neighbour. It only names candidates here, whose distances are computed again in float64, and more of them are asked for
until what it could have ranked wrongly can't be among the nearest.
"""

from importlib import import_module
from typing import Any

import numpy as np
import torch

from synthcxr.errors import UserError
from synthcxr.evaluation import neighbours
from synthcxr.evaluation.neighbours import Grouping, Neighbours, check_features, slices

SPARE = 32  # candidates at first, beyond the k that are asked for
ASKED = 1024  # queries at a time
SLACK = 1e-5  # more than float32 can err in a squared distance, as a share of the squared norms


def faiss_module() -> Any:
    """faiss, which the package imports without.

    Raises:
        UserError: it isn't installed; says how to.
    """
    try:
        return import_module("faiss")
    except ImportError as error:
        raise UserError('search = faiss: faiss isn\'t installed; pip install "synthcxr[faiss]"') from error


def nearest_by_faiss(
    queries: np.ndarray,
    reference: np.ndarray,
    k: int = 1,
    groups: np.ndarray | None = None,
    own: np.ndarray | None = None,
) -> Neighbours:
    """As `nearest`, with the same arguments, distances and rows."""
    check_features(queries, reference)
    grouping = Grouping(len(queries), len(reference), k, groups, own)
    search = _Search(reference, grouping, k)
    distance, index = np.empty((len(queries), k)), np.empty(len(queries), dtype=np.int64)
    for rows in slices(len(queries), ASKED):
        pending, count = np.arange(rows.start, rows.stop), min(search.first, len(reference))
        while len(pending):
            told, first, certain = search(queries[pending], pending, count)
            distance[pending[certain]], index[pending[certain]] = told[certain], first[certain]
            pending, count = pending[~certain], min(4 * count, len(reference))
    return Neighbours(distance, index)


class _Search:
    """A reference as faiss holds it: about its mean, where float32 loses least."""

    def __init__(self, reference: np.ndarray, grouping: Grouping, k: int):
        self.reference, self.grouping, self.k = reference, grouping, k
        # As many rows as k groups and one's own have, if they are all of one size.
        self.first = (k + 1) * -(-len(reference) // (int(grouping.codes.max()) + 1)) + SPARE
        self.mean = reference.mean(0, dtype=np.float64)
        self.index = faiss_module().IndexFlatL2(reference.shape[1])
        self.largest = 0.0
        for rows in slices(len(reference), max(1, neighbours.BLOCK_NUMBERS // reference.shape[1])):
            part = self._centred(reference[rows])
            self.largest = max(self.largest, float(np.square(part).sum(1).max()))
            self.index.add(part)

    def __call__(self, queries: np.ndarray, places: np.ndarray, count: int) -> tuple[np.ndarray, ...]:
        """Distances to the k nearest groups (b, k), the nearest rows (b,), and for which queries these are certain."""
        centred = self._centred(queries)
        squared, found = self.index.search(centred, count)
        found = np.sort(found, axis=1)  # of equal distances the first row's, as `nearest` has it
        apart = torch.from_numpy(self._distances(queries, found))
        codes = self.grouping.codes[torch.from_numpy(found)]
        if self.grouping.own is not None:
            apart = apart.masked_fill(self.grouping.own[torch.from_numpy(places), None] == codes, torch.inf)
        first = found[np.arange(len(found)), apart.argmin(1).numpy()]
        told = _smallest_of_groups(apart, codes, self.k)
        slack = SLACK * (np.square(centred, dtype=np.float64).sum(1) + self.largest)
        certain = np.square(told[:, -1]) <= squared[:, -1] - slack
        return told, first, certain | (count == len(self.reference))

    def _centred(self, rows: np.ndarray) -> np.ndarray:
        return np.ascontiguousarray(rows - self.mean, dtype=np.float32)

    def _distances(self, queries: np.ndarray, found: np.ndarray) -> np.ndarray:
        """(b, count), of queries from the rows that were found: in the precision they come in, summed in float64."""
        apart, precision = np.empty(found.shape), np.result_type(queries, self.reference)
        for rows in slices(len(queries), max(1, neighbours.BLOCK_NUMBERS // (found.shape[1] * queries.shape[1]))):
            near = torch.from_numpy(self.reference[found[rows]].astype(precision, copy=False))
            near -= torch.from_numpy(queries[rows, None].astype(precision, copy=False))
            apart[rows] = near.square_().sum(2, dtype=torch.float64).sqrt_().numpy()
        return apart


def _smallest_of_groups(apart: torch.Tensor, codes: torch.Tensor, k: int) -> np.ndarray:
    """(b, k) rising: the smallest distances of different groups; infinite where there are fewer among these (b, n)."""
    order = apart.argsort(dim=1, stable=True)
    apart, codes = apart.gather(1, order), codes.gather(1, order)
    same = codes.argsort(dim=1, stable=True)  # a group's distances side by side, still rising
    grouped = codes.gather(1, same)
    again = torch.zeros_like(grouped, dtype=torch.bool)
    again[:, 1:] = grouped[:, 1:] == grouped[:, :-1]
    apart = apart.gather(1, same).masked_fill(again, torch.inf)
    return apart.topk(k, largest=False).values.numpy()
