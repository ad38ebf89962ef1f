"""What else moves when one attribute of a prompt is changed at a fixed seed: the entanglement matrix."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from synthcxr.conditions import Condition
from synthcxr.data.record import Record
from synthcxr.evaluation.resampling import bootstrap_score, cluster_weights, weighted_mean
from synthcxr.evaluation.scores import Score
from synthcxr.model.classifier import AGE_SCALE, FINDINGS, LABELS, Readings
from synthcxr.vocabulary import Finding

LEAST = 10  # pairs that differ in an attribute


@dataclass(frozen=True)
class Pair:
    """Two rows that are alike but for one attribute, of which `low` has less: absent and present, say.

    `step` is how much was asked: 1, and of an age the difference over 15 years.
    """

    low: int
    high: int
    attribute: str
    step: float


@dataclass(frozen=True, eq=False)
class Entanglement:
    """How readings answer to changes.

    Attributes:
        changed: what was changed, at least LEAST times each; rows. One of LABELS each.
        measured: LABELS; columns.
        effect: (rows, columns) mean change of the judge's reading (a probability, or an age over 15 years) a step.
        scores: of each row, how far its own reading follows ("control of sex") and the largest change of another
            reading, signed, which was named beforehand by nobody ("leakage of sex", with its interval).
        pairs: (rows,) how many pairs each rests on.
    """

    changed: tuple[str, ...]
    measured: tuple[str, ...]
    effect: np.ndarray
    scores: tuple[Score, ...]
    pairs: tuple[int, ...]


def counterfactual_pairs(records: Sequence[Record]) -> list[Pair]:
    """Pairs of rows of one patient (in a synthetic dataset: one group) and one seed that differ in one attribute."""
    groups: dict[tuple[str, int | None], list[int]] = defaultdict(list)
    for row, record in enumerate(records):
        if record.seed is not None:
            groups[record.patient, record.seed].append(row)
    pairs = []
    for rows in groups.values():
        for one, other in combinations(rows, 2):
            differs = _differences(records[one].condition, records[other].condition)
            if len(differs) == 1 and differs[0] is not None:
                attribute, step = differs[0]
                low, high = (one, other) if step > 0 else (other, one)
                pairs.append(Pair(low, high, attribute, abs(step)))
    return pairs


def entanglement(readings: Readings, pairs: Sequence[Pair], units: np.ndarray, seed: int = 0) -> Entanglement | None:
    """The matrix over all pairs; None where no attribute was changed often enough.

    Args:
        units: (n,) the group of each row, by which intervals are drawn.
    """
    told = np.column_stack([readings.findings, readings.male, readings.ap, readings.age / AGE_SCALE])
    rows, scores, changed, counts = [], [], [], []
    for attribute in LABELS:
        own = [pair for pair in pairs if pair.attribute == attribute]
        if len(own) < LEAST:
            continue
        moved = np.array([(told[pair.high] - told[pair.low]) / pair.step for pair in own])
        effect, column = moved.mean(0), LABELS.index(attribute)
        weights = cluster_weights(units[[pair.low for pair in own]], seed=seed)
        others = np.abs(effect)
        others[column] = -1
        leak = int(others.argmax())
        for name, place, direction in (
            (f"control of {attribute}", column, "higher"),
            (f"leakage of {attribute} into {LABELS[leak]}", leak, "zero"),
        ):
            draws = weighted_mean(moved[:, place], weights)
            scores.append(bootstrap_score(name, effect[place], draws, len(own), direction))
        rows.append(effect)
        changed.append(attribute)
        counts.append(len(own))
    if not rows:
        return None
    return Entanglement(tuple(changed), LABELS, np.array(rows), tuple(scores), tuple(counts))


def _differences(one: Condition, other: Condition) -> list[tuple[str, float] | None]:
    """Attributes in which two conditions differ, with the step from one to other; None for one nobody can judge."""
    found: list[tuple[str, float] | None] = []
    for finding in Finding:
        if finding is Finding.NO_FINDING:
            continue  # it goes when a finding comes
        levels = [_level(condition, finding) for condition in (one, other)]
        if levels[0] != levels[1]:
            judged = finding in FINDINGS and None not in levels
            found.append((finding.value, levels[1] - levels[0]) if judged else None)
        elif one.findings.get(finding) != other.findings.get(finding):
            found.append(None)  # a side or a severity
    for name, values in (("male", ("female", "male")), ("AP", ("PA", "AP"))):
        field = "sex" if name == "male" else "view"
        now = (getattr(one, field), getattr(other, field))
        if now[0] != now[1]:
            found.append(
                (name, float(values.index(now[1]) - values.index(now[0]))) if set(now) <= set(values) else None
            )
    if one.age != other.age:
        known = one.age is not None and other.age is not None
        found.append(("age", (other.age - one.age) / AGE_SCALE) if known else None)
    if (one.race, one.text) != (other.race, other.text):
        found.append(None)
    return found


def _level(condition: Condition, finding: Finding) -> float | None:
    """1 where it's present, 0 where it isn't, listed or not; None where it's uncertain."""
    stated = condition.findings.get(finding)
    return {"present": 1.0, "absent": 0.0, "uncertain": None}[stated.state] if stated else 0.0
