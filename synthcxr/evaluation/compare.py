"""Two sets of images by every metric: overall, by finding and by group, each beside real against real at the same n."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from synthcxr.data.curate.columns import column
from synthcxr.data.record import Record
from synthcxr.evaluation.fidelity import Metric, bootstrap
from synthcxr.evaluation.result import Line, Section, line
from synthcxr.runs import derive_seed
from synthcxr.vocabulary import Finding


@dataclass(frozen=True, eq=False)
class Rows:
    """Features (n, d) of images, the unit of each (a patient, a prompt) and the record it's told of in."""

    features: np.ndarray
    units: np.ndarray
    records: Sequence[Record]

    def take(self, rows: np.ndarray) -> "Rows":
        return Rows(self.features[rows], self.units[rows], [self.records[row] for row in rows])

    def __len__(self) -> int:
        return len(self.records)


@dataclass(frozen=True)
class Comparison:
    """How sets are compared: see EvaluateConfig for the fields."""

    section: Section
    metrics: Mapping[str, Metric]
    extractor: str
    least: int
    replicates: int
    seed: int


def cells(records: Sequence[Record]) -> Iterator[tuple[str, np.ndarray]]:
    """Names of groups and their rows: all, each finding, each sex, age of twenty years, and view."""
    yield "all", np.arange(len(records))
    for finding in Finding:
        there = finding in {f for record in records for f in record.condition.findings}
        if there:
            yield f"finding: {finding.value}", np.flatnonzero(column(records, finding.value).codes == 0)
    for name in ("sex", "age", "view"):
        levels = column(records, name)
        for code, level in enumerate(levels.levels):
            yield f"{name}: {level}", np.flatnonzero(levels.codes == code)


def compare(real: Rows, fake: Rows, comparison: Comparison) -> tuple[list[Line], list[str]]:
    """Lines of every metric in every cell that both sets have, and what was left out and why.

    The real set is cut in two by units. Half A against the synthetic set is the value, A against half B the floor, all
    three cut to the same n: what remains between real sets of this size, no generator can go below.
    """
    lines, left_out = [], []
    of_fake = dict(cells(fake.records))
    for group, rows in cells(real.records):
        if group not in of_fake:
            continue
        a, b, c = _equal(real.take(rows), fake.take(of_fake[group]), comparison.seed)
        if len(c) < comparison.least:
            counts = f"{len(rows)} real (in two halves) and {len(of_fake[group])} synthetic images"
            left_out.append(f"{comparison.section}, {group}: {counts} are fewer than {comparison.least} a set")
            continue
        for metric in comparison.metrics.values():
            try:
                scores, floors = (
                    bootstrap(metric, a.features, x.features, a.units, x.units, comparison.replicates, comparison.seed)
                    for x in (c, b)
                )
            except ValueError as error:
                left_out.append(f"{', '.join(metric.names)}, {group}: {error} in half of {len(c)} images")
                continue
            lines += [
                line(comparison.section, score, comparison.extractor, group, floor, "real against real")
                for score, floor in zip(scores, floors, strict=True)
            ]
    return lines, left_out


def _equal(real: Rows, fake: Rows, seed: int) -> tuple[Rows, Rows, Rows]:
    """Two parts of the real set, of different units, and the synthetic set, all cut at random to one size."""
    rng = np.random.default_rng(derive_seed(seed, "halves"))
    _, codes = np.unique(real.units, return_inverse=True)
    shuffled = rng.permutation(codes.max() + 1)[codes] if len(codes) else codes
    order = np.argsort(shuffled, kind="stable")
    cut = int(np.searchsorted(shuffled[order], (shuffled.max(initial=-1) + 1) / 2))
    parts = [rng.permutation(order[:cut]), rng.permutation(order[cut:])]
    size = min(len(parts[0]), len(parts[1]), len(fake))
    a, b = (real.take(np.sort(part[:size])) for part in parts)
    return a, b, fake.take(np.sort(rng.permutation(len(fake))[:size]))
