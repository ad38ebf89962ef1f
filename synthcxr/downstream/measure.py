"""Numbers of every arm from its predictions: a value a seed, and draws under the same patients' weights for all."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from synthcxr.downstream.bench import Bench, Pool
from synthcxr.downstream.cell import Predictions
from synthcxr.downstream.config import Shortcut
from synthcxr.downstream.labels import is_finding, values_of
from synthcxr.downstream.metrics import METRICS
from synthcxr.downstream.subsets import CELLS, shares_of
from synthcxr.evaluation.fairness import operating_point, underdiagnosis_rates
from synthcxr.evaluation.judged import people
from synthcxr.evaluation.resampling import weighted_auc, weighted_mean
from synthcxr.evaluation.scores import Direction

MACRO, ALL = "macro", "all"
GAP, WORST = "underdiagnosis gap", "underdiagnosis, worst group"
CORRELATED, UNCORRELATED, DROP = "AUROC, correlated test", "AUROC, uncorrelated test", "drop"

Key = tuple[str, float, float]  # arm, fraction, multiple


@dataclass(frozen=True, eq=False)
class Measured:
    """One quantity of one arm.

    Attributes:
        values: (seeds,); draws: (seeds, replicates), under weights of patients.
        n: test images that it rests on.
    """

    metric: str
    label: str
    direction: Direction
    values: np.ndarray
    draws: np.ndarray
    n: int


def measure(bench: Bench, seeds: Sequence[Predictions], weights: np.ndarray) -> Iterator[Measured]:
    """All metrics of one arm, fraction and multiple: of each label, and their mean over findings.

    Args:
        seeds: predictions, one a seed.
        weights: (replicates, test images); see resampling.cluster_weights.
    """
    for metric in METRICS:
        found = []
        for place, label in enumerate(bench.labels):
            known = ~np.isnan(bench.test.labels[:, place])
            there, own = bench.test.labels[known, place] == 1, weights[:, known]
            told = [one.test[known, place].astype(np.float64) for one in seeds]
            values = np.array([metric.point(one, there) for one in told])
            draws = np.array([metric.weighted(one, there, own) for one in told])
            found.append(Measured(metric.name, label, metric.direction, values, draws, int(known.sum())))
        findings = [one for one in found if is_finding(one.label)]
        values, draws = (np.mean([getattr(one, name) for one in findings], axis=0) for name in ("values", "draws"))
        yield Measured(metric.name, MACRO, metric.direction, values, draws, min(one.n for one in findings))
        yield from found


def underdiagnosis_of(
    bench: Bench, seeds: Sequence[Predictions], weights: np.ndarray
) -> tuple[list[Measured], str] | None:
    """Gap between groups of people, rate of the worst group, and which that is; None with fewer than two groups.

    Ill is who has any of the findings; healthy is called who is less likely ill than the share of healthy validation
    images allows, so that all classifiers are compared at one operating point, which no test image helped to find.
    """
    healthy, ill, known = [], _ill(bench.test, bench.labels), people(bench.test.records) != ""
    known &= ~np.isnan(ill)
    for one in seeds:
        sick = _ill(bench.validate, bench.labels)
        told = -_called_ill(one.validate, bench.labels)[~np.isnan(sick)]
        threshold = operating_point(told, sick[~np.isnan(sick)] == 1)
        healthy.append(-_called_ill(one.test, bench.labels)[known] > threshold)
    groups, ill, own = people(bench.test.records)[known], ill[known] == 1, weights[:, known]
    ones = np.ones((1, int(known.sum())))
    names, _ = underdiagnosis_rates(healthy[0], ill, groups, ones) if ill.any() else ((), None)
    if len(names) < 2:
        return None
    points = np.array([underdiagnosis_rates(one, ill, groups, ones)[1][0] for one in healthy])
    draws = np.array([underdiagnosis_rates(one, ill, groups, own)[1] for one in healthy])
    n = int(np.isin(groups[ill], names).sum())
    found = [
        Measured(GAP, ALL, "lower", np.ptp(points, axis=1), np.ptp(draws, axis=2), n),
        Measured(WORST, ALL, "lower", points.max(axis=1), draws.max(axis=2), n),
    ]
    return found, names[int(points.mean(axis=0).argmax())]


def shortcut_of(
    bench: Bench, shortcut: Shortcut, seeds: Sequence[Predictions], weights: np.ndarray
) -> tuple[list[Measured], Mapping[tuple[int, int], Measured]]:
    """AUROC on a test as correlated as the training images and on one without, and what is called rightly in each cell.

    All test images are in both tests; what differs is how much each of the four cells counts.
    """
    finding, confounder = values_of(bench.test.records, (shortcut.finding, shortcut.confounder)).T
    rows = {cell: np.flatnonzero((finding == cell[0]) & (confounder == cell[1])) for cell in CELLS}
    known = np.concatenate(list(rows.values()))
    there, ones = finding == 1, np.ones((1, len(finding)))
    place = bench.labels.index(shortcut.finding)
    areas = {}
    for name, correlation in ((CORRELATED, shortcut.correlation), (UNCORRELATED, 0.0)):
        told = []
        for which in (ones, weights):
            balanced = np.zeros_like(which)
            for cell, share in shares_of(correlation).items():
                total = which[:, rows[cell]].sum(axis=1, keepdims=True)
                balanced[:, rows[cell]] = share * which[:, rows[cell]] / np.maximum(total, 1)
            told.append(
                np.array([weighted_auc(one.test[known, place], there[known], balanced[:, known]) for one in seeds])
            )
        areas[name] = Measured(name, shortcut.finding, "higher", told[0][:, 0], told[1], len(known))
    one, other = areas[CORRELATED], areas[UNCORRELATED]
    drop = Measured(DROP, shortcut.finding, "lower", one.values - other.values, one.draws - other.draws, len(known))
    right, sick = [], bench.validate.labels[:, place]
    for predictions in seeds:
        told = predictions.validate[~np.isnan(sick), place]
        threshold = -operating_point(-told, sick[~np.isnan(sick)] == 1)
        right.append(((predictions.test[:, place] >= threshold) == there).astype(float))
    cells = {}
    for cell, own in rows.items():
        values = np.array([one[own].mean() for one in right])
        draws = np.array([weighted_mean(one[own], weights[:, own]) for one in right])
        cells[cell] = Measured("called rightly", shortcut.finding, "higher", values, draws, len(own))
    return [*areas.values(), drop], cells


def _called_ill(told: np.ndarray, labels: Sequence[str]) -> np.ndarray:
    columns = [place for place, label in enumerate(labels) if is_finding(label)]
    return 1 - np.prod(1 - told[:, columns].astype(np.float64), axis=1)


def _ill(pool: Pool, labels: Sequence[str]) -> np.ndarray:
    """1 with any of the findings, 0 with none, NaN where one isn't known and none is there."""
    values = pool.labels[:, [place for place, label in enumerate(labels) if is_finding(label)]]
    unknown = np.isnan(values).any(axis=1) & ~(values == 1).any(axis=1)
    return np.where(unknown, np.nan, (values == 1).any(axis=1).astype(float))
