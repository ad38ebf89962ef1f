"""Pixels as features: 64 x 64, z-scored, compared by their best correlation over small shifts.

No network, so nothing that was trained on the images in question. What is compared are windows of 56 x 56: the middle
of a query with each of the 81 windows of a reference image, so that a shift by up to 4 pixels either way (a sixteenth
of the picture) leaves no border in the comparison.
"""

from collections.abc import Iterable, Iterator

import numpy as np
import torch
from torch.nn.functional import pad

from synthcxr.evaluation.neighbours import Grouping, Neighbours, check_features, slices
from synthcxr.images import to_float, to_square

SIZE, SHIFT = 64, 4
SIDE = 2 * SHIFT + 1  # places of a window, each way
WINDOW, SHIFTS = SIZE - 2 * SHIFT, SIDE**2
COMPONENTS = 63  # of a window, for the bound on its correlation
SPARE = 13  # groups looked at in any case, beyond the k that are asked for
BANK_IMAGES = 12_000  # reference images held as components of all their windows at once: 250 MB
QUERIES = 64  # at a time
FLAT = 1e-3  # a window with a smaller norm has no pattern to correlate
SLACK = 1e-5  # more than float32 can err in a correlation


def pixel_features(images: Iterable[np.ndarray]) -> np.ndarray:
    """uint8 or uint16 (h, w) images -> float32 (n, 64, 64): the centre square, antialiased, mean 0, deviation 1.

    An image of one gray has no pattern: it's all zeros, and correlates with nothing.
    """
    small = np.array([to_square(to_float(image), SIZE) for image in images], dtype=np.float32).reshape(-1, SIZE, SIZE)
    centred = small - small.mean((1, 2), keepdims=True)
    deviation = centred.std((1, 2), keepdims=True)
    return centred / np.where(deviation > 1e-6, deviation, np.inf)


def nearest_shifted(
    queries: np.ndarray,
    reference: np.ndarray,
    k: int = 1,
    groups: np.ndarray | None = None,
    own: np.ndarray | None = None,
) -> Neighbours:
    """As `nearest`, by sqrt(2 - 2 r): r is the best Pearson correlation of the query's middle over 81 shifts.

    The nearest one is exact: a window's correlation is at most that of its first principal components plus the product
    of what these leave out (Cauchy-Schwarz), and whatever that bound lets beat the best so far is compared in full. So
    queries that are like nothing in the reference cost more. The further k - 1 are the nearest of those that were
    looked at, the k + 13 that the bound ranks first among them.

    Args:
        queries, reference: (n, 64, 64) and (m, 64, 64), as of `pixel_features`.
        k, groups, own: see `nearest`.
    """
    check_features(queries, reference, "(n, 64, 64)")
    grouping = Grouping(len(queries), len(reference), k, groups, own)
    order = grouping.codes.argsort(stable=True)  # a group's rows side by side, so that no block cuts it in two
    basis = _basis(reference)
    best, index = torch.full((len(queries), k), -torch.inf), torch.zeros(len(queries), dtype=torch.long)
    for block in _whole_groups(grouping.codes[order]):
        rows, codes = order[block], grouping.codes[order[block]]
        bank = _Bank(torch.from_numpy(reference[rows.numpy()]), basis)
        for asked in slices(len(queries), QUERIES):
            middles = torch.from_numpy(queries[asked])[:, SHIFT:-SHIFT, SHIFT:-SHIFT]
            query = _Query(middles.flatten(1), basis)
            bound = bank.bounds(query)
            grouping.exclude(bound, asked, codes, -torch.inf)
            ranked = -grouping.smallest(-bound, codes)
            least = ranked.topk(min(k + SPARE, ranked.shape[1])).values[:, -1]
            found = bank.correlations(query, bound, least, best[asked, 0])
            top = found.max(1)
            index[asked] = torch.where(top.values > best[asked, 0], rows[top.indices], index[asked])
            best[asked] = torch.cat([best[asked], -grouping.smallest(-found, codes)], 1).topk(k).values
    return Neighbours((2 - 2 * best.double()).clamp_min(0).sqrt().numpy(), index.numpy())


class _Query:
    """Middles of some queries (b, 56 * 56), as unit windows and as components."""

    def __init__(self, middles: torch.Tensor, basis: torch.Tensor):
        self.unit = _unit(middles)
        self.coded = _coded((self.unit @ basis.T).T, self.unit.square().sum(1)).T


class _Bank:
    """Some reference images, flat (n, 64 * 64): the norms of their windows (n, 81), and these as components."""

    def __init__(self, images: torch.Tensor, basis: torch.Tensor):
        self.images = images.flatten(1)
        self.norms = torch.cat([_norms(images[rows]) for rows in slices(len(images), QUERIES)])
        self.coded = torch.empty(SHIFTS, len(basis) + 1, len(images))
        for shift, placed in enumerate(_placed(basis).unbind(1)):
            # The basis has mean 0, so a window's own mean doesn't matter.
            components = placed @ self.images.T / self.norms[:, shift]
            self.coded[shift] = _coded(components, (self.norms[:, shift] < torch.inf).float())

    def bounds(self, query: _Query) -> torch.Tensor:
        """(b, n): no window of the image correlates better with the query."""
        bound = torch.full((len(query.coded), len(self.images)), -torch.inf)
        at_shift = torch.empty_like(bound)
        for components in self.coded:
            torch.maximum(bound, torch.mm(query.coded, components, out=at_shift), out=bound)
        return bound

    def correlations(
        self, query: _Query, bound: torch.Tensor, least: torch.Tensor, beaten: torch.Tensor
    ) -> torch.Tensor:
        """(b, n): the best correlation over all shifts where it was looked at, minus infinity elsewhere.

        Args:
            bound: (b, n), minus infinity where an image is no candidate.
            least: (b,) bound from which an image is looked at in any case.
            beaten: (b,) correlation found before; whatever may exceed it and what the first look finds is looked at.
        """
        found = torch.full_like(bound, -torch.inf)
        for q, placed in enumerate(_placed(query.unit)):
            first = (bound[q] >= least[q]) & (bound[q] > -torch.inf)
            found[q, first] = self._look(placed, first)
            second = ~first & (bound[q] > torch.maximum(beaten[q], found[q].max()) - SLACK)
            found[q, second] = self._look(placed, second)
        return found

    def _look(self, placed: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
        """Correlations of one query, at all places (81, 64 * 64), with the images that are wanted (n,)."""
        rows = wanted.nonzero()[:, 0]
        if not len(rows):
            return self.norms.new_empty(0)
        return (self.images[rows] @ placed.T / self.norms[rows]).amax(1)


def _whole_groups(codes: torch.Tensor) -> Iterator[slice]:
    """Sorted codes in slices of BANK_IMAGES rows or a little more, none of which ends within a group."""
    start = 0
    while start < len(codes):
        last = min(start + BANK_IMAGES, len(codes)) - 1
        stop = int(torch.searchsorted(codes, codes[last], right=True))
        yield slice(start, stop)
        start = stop


def _unit(windows: torch.Tensor) -> torch.Tensor:
    """(n, 56 * 56) with mean 0 and norm 1; a flat window becomes 0."""
    centred = windows - windows.mean(1, keepdim=True)
    norm = centred.norm(dim=1, keepdim=True)
    return centred / norm.where(norm > FLAT, torch.inf)


def _placed(windows: torch.Tensor) -> torch.Tensor:
    """(b, 56 * 56) -> (b, 81, 64 * 64): each window at each place of an image, the last one first, zeros around it."""
    framed = pad(windows.view(-1, WINDOW, WINDOW), (2 * SHIFT,) * 4)
    return framed.unfold(1, SIZE, 1).unfold(2, SIZE, 1).reshape(len(windows), SHIFTS, SIZE**2)


def _norms(images: torch.Tensor) -> torch.Tensor:
    """(n, 64, 64) -> (n, 81): the norm of each window less its mean, in `_placed`'s order; infinite for a flat one."""
    sums = []
    for values in (images.double(), images.double().square()):
        total = pad(values.cumsum(1).cumsum(2), (1, 0, 1, 0))
        rows = total[:, WINDOW:] - total[:, :-WINDOW]
        sums.append((rows[:, :, WINDOW:] - rows[:, :, :-WINDOW]).flatten(1).flip(1))
    norms = (sums[1] - sums[0].square() / WINDOW**2).clamp_min(0).sqrt()
    return norms.where(norms > FLAT, torch.inf).float()


def _coded(components: torch.Tensor, squares: torch.Tensor) -> torch.Tensor:
    """Components (c, n) of windows, and last the norm of what they leave out of the windows' squared norms (n,).

    Inner products of two such columns are bounds on the correlation of the windows.
    """
    left = (squares - components.square().sum(0)).clamp_min(0).sqrt()
    return torch.cat([components, left[None]])


def _basis(reference: np.ndarray) -> torch.Tensor:
    """(components, 56 * 56) orthonormal, each of mean 0: principal directions of some windows of the reference.

    Which ones are taken changes how tight the bound is, never what is found to be nearest.
    """
    rows = np.linspace(0, len(reference) - 1, min(len(reference), 1024)).astype(int)
    dy, dx = np.divmod(np.arange(len(rows)) * 31 % SHIFTS, SIDE)
    windows = [reference[row, y : y + WINDOW, x : x + WINDOW].ravel() for row, y, x in zip(rows, dy, dx, strict=True)]
    unit = _unit(torch.from_numpy(np.stack(windows)).double())
    values, vectors = torch.linalg.eigh(unit @ unit.T)
    kept = values > 1e-9
    values, vectors = values[kept][-COMPONENTS:], vectors[:, kept][:, -COMPONENTS:]
    return ((vectors / values.sqrt()).T @ unit).float()
