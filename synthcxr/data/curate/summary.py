"""What a curation did, in counts: why images went, and what the collection is made of before and after."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import get_args

import numpy as np

from synthcxr.data.curate.balance import Association, associate
from synthcxr.data.curate.columns import COLUMNS, UNKNOWN, column
from synthcxr.data.curate.config import CurateConfig
from synthcxr.data.curate.ledger import Decision, Reason
from synthcxr.data.record import Record
from synthcxr.vocabulary import Finding


@dataclass(frozen=True)
class Count:
    """How many there are of something."""

    name: str
    images: int


@dataclass(frozen=True)
class Level:
    """One value of a column, or one finding that is present: images before and after, and their shares.

    Attributes:
        share_weighted: of the weights after.
    """

    column: str
    name: str
    before: int
    after: int
    share_before: float
    share_after: float
    share_weighted: float


@dataclass(frozen=True)
class PairChange:
    """Two columns that were balanced: before, after, and after with the weights."""

    before: Association
    after: Association
    weighted: Association


@dataclass(frozen=True)
class Summary:
    """Of a whole curation.

    Attributes:
        reasons: images that were kept, and dropped for each reason.
        crossings: duplicates that lay in another split or under another patient than their copy.
        labels_differ: duplicates whose findings aren't those of their copy.
        levels: of the images in the splits that are pruned and balanced; the splits themselves, of all images.
        pairs: of the images in those splits, too.
        effective: images of those splits that would say as much without weights (Kish 1965: (sum w)^2 / sum w^2).
    """

    before: int
    after: int
    reasons: tuple[Count, ...]
    crossings: tuple[Count, ...]
    labels_differ: int
    levels: tuple[Level, ...]
    pairs: tuple[PairChange, ...]
    effective: float


def summarise(records: Sequence[Record], decisions: Sequence[Decision], config: CurateConfig) -> Summary:
    """Count what was decided."""
    reasons = Counter(decision.reason for decision in decisions)
    crossings = Counter(decision.duplicate_crosses for decision in decisions if decision.duplicate_crosses)
    weights = np.array([decision.weight for decision in decisions], dtype=np.float64)
    inside = np.array([record.split in config.splits for record in records], dtype=bool)
    chosen = [record for record, within in zip(records, inside, strict=True) if within]
    squares = np.square(weights[inside]).sum()
    return Summary(
        before=len(records),
        after=reasons["kept"],
        reasons=tuple(Count(reason, reasons[reason]) for reason in get_args(Reason) if reasons[reason]),
        crossings=tuple(Count(what, crossings[what]) for what in sorted(crossings)),
        labels_differ=sum(bool(decision.duplicate_labels_differ) for decision in decisions),
        levels=tuple([*_levels(records, weights, ["split"]), *_levels(chosen, weights[inside], ["finding", *COLUMNS])]),
        pairs=tuple(_pairs(chosen, weights[inside], config)),
        effective=float(weights[inside].sum() ** 2 / squares) if squares else 0.0,
    )


def one_line(summary: Summary) -> str:
    """For the command line."""
    reasons = ", ".join(f"{count.name} {count.images:,}" for count in summary.reasons if count.name != "kept")
    return f"{summary.after:,} of {summary.before:,} images kept ({reasons or 'nothing dropped'})"


def markdown(summary: Summary) -> str:
    """The whole summary as text."""
    lines = ["# What curation did", "", one_line(summary), ""]
    if summary.crossings:
        what = ", ".join(f"{count.images} of another {count.name}" for count in summary.crossings)
        lines += [f"Duplicates of an image {what}: the one to train on was dropped, or else the smaller one.", ""]
    if summary.labels_differ:
        lines += [f"{summary.labels_differ} duplicates have other findings than the copy that was kept.", ""]
    lines += ["| reason | images |", "|---|---:|", *(f"| {c.name} | {c.images:,} |" for c in summary.reasons), ""]
    lines += ["| | | before | after | share before | share after | share by weight |", "|---|---|" + "---:|" * 5]
    lines += [
        f"| {level.column} | {level.name} | {level.before:,} | {level.after:,} | {level.share_before:.1%}"
        f" | {level.share_after:.1%} | {level.share_weighted:.1%} |"
        for level in summary.levels
    ]
    lines += ["", f"Effective size of the weighted images that were pruned or balanced: {summary.effective:,.0f}."]
    if summary.pairs:
        lines += [
            "",
            "| made independent | images | odds ratio before | after | weighted | bits before | after | weighted |",
        ]
        lines += ["|---|" + "---:|" * 7]
        lines += [_pair_line(pair) for pair in summary.pairs]
    return "\n".join([*lines, ""])


def odds(association: Association) -> str:
    """An odds ratio as text; a dash for a table that has none."""
    return "-" if association.odds_ratio is None else f"{association.odds_ratio:.3g}"


def _levels(records: Sequence[Record], weights: np.ndarray, names: Sequence[str]) -> list[Level]:
    """Of columns with more than one value, and of findings."""
    kept = weights > 0
    totals = [max(total, 1e-12) for total in (len(records), kept.sum(), weights.sum())]

    def level(name: str, value: str, has: np.ndarray) -> Level:
        sums = [has.sum(), (has & kept).sum(), weights[has].sum()]
        shares = [float(part / total) for part, total in zip(sums, totals, strict=True)]
        return Level(name, value, int(sums[0]), int(sums[1]), *shares)

    levels = []
    for name in names:
        if name == "finding":
            shown = [record.present for record in records]
            values = [(f.value, np.array([f in found for found in shown], dtype=bool)) for f in Finding]
        else:
            told = column(records, name)
            values = [(value, told.codes == place) for place, value in enumerate(told.levels)]
            values.append(("unknown", told.codes == UNKNOWN))
        found = [level(name, value, has) for value, has in values if has.any()]
        levels += found if len(found) > 1 or name == "finding" else []
    return levels


def _pairs(records: Sequence[Record], weights: np.ndarray, config: CurateConfig) -> list[PairChange]:
    changes = []
    for names in config.balance.pairs if config.balance else ():
        one, other = (column(records, name) for name in names)
        counted = (np.ones(len(records)), (weights > 0).astype(float), weights)
        changes.append(PairChange(*(associate(one, other, count) for count in counted)))
    return changes


def _pair_line(pair: PairChange) -> str:
    three = (pair.before, pair.after, pair.weighted)
    ratios = " | ".join(odds(association) for association in three)
    bits = " | ".join(f"{association.mutual_information:.4f}" for association in three)
    return f"| {pair.before.one}, {pair.before.other} | {pair.after.images:,} | {ratios} | {bits} |"
