"""Not as asked: the classifier's readings against the findings, sex, view and age that a condition states.

Only what was asked counts, and only what the classifier can tell. Each limit is one that a real radiograph with that
label passes at the stated rate, whatever the classifier: a weak one lets more of the wrong pictures pass, and `caught`
says how many of them it stops.
"""

from collections.abc import Iterable, Sequence

import numpy as np

from synthcxr.conditions import Condition
from synthcxr.config import Config
from synthcxr.evaluation.scores import Z95, auc, auc_interval
from synthcxr.model.classifier import AGE, AP, FINDINGS, MALE, Readings
from synthcxr.synthesis.screen.distribution import lowest_passing
from synthcxr.vocabulary import Finding

NONE = Finding.NO_FINDING.value
LABELS = (*(finding.value for finding in FINDINGS), MALE, AP)
FEWEST = 20  # patients with and without a label, or with a known age, that anything is concluded from


class Limit(Config):
    """Between what probabilities a label may be told, where it was asked present or absent.

    `judged` is false where the classifier is no better than chance (its AUC's 95% interval, with patients for n, holds
    0.5) or there are too few patients. `caught` is the share of real held-out images without (with) the label that
    fail where it's asked present (absent).
    """

    judged: bool
    auc: float | None
    patients: tuple[int, int]
    least: float | None = None
    most: float | None = None
    caught: tuple[float, float] | None = None


class AgeLimit(Config):
    """How far the age that's told may lie from `slope * asked + intercept`, what's told of that age on average."""

    judged: bool
    correlation: float | None
    patients: int
    slope: float = 1.0
    intercept: float = 0.0
    most: float | None = None


class ConditionLimits(Config):
    """The limits of everything that can be asked; `rate` is the share of real images that passes each of them."""

    rate: float
    labels: dict[str, Limit]
    age: AgeLimit

    def none(self, findings: np.ndarray) -> np.ndarray:
        """(n, 14) probabilities -> (n,) that none of the judged findings is there, were they independent."""
        judged = [self.labels[finding.value].judged for finding in FINDINGS]
        return np.prod(1 - findings[:, judged], axis=1)

    def check(self, readings: Readings, condition: Condition) -> tuple[bool, dict[str, float]]:
        """Whether the one image that was read is as asked, and what was told of everything that was judged."""
        told = dict(zip(LABELS, _told(readings)[0], strict=True)) | {NONE: self.none(readings.findings)[0]}
        passed, values = True, {}
        for label, present in asked(condition):
            limit = self.labels.get(label)
            if limit and limit.judged:
                values[label] = float(told[label])
                passed &= told[label] >= limit.least if present else told[label] <= limit.most
        if condition.age is not None and self.age.judged:
            values[AGE] = float(readings.age[0])
            passed &= abs(values[AGE] - self.age.slope * condition.age - self.age.intercept) <= self.age.most
        return bool(passed), values


def asked(condition: Condition) -> list[tuple[str, bool]]:
    """The labels that a condition states to be present (true) or absent; what's uncertain is no demand."""
    states = [(finding.value, state.state) for finding, state in condition.findings.items()]
    stated = [(label, state == "present") for label, state in states if state != "uncertain"]
    if condition.sex is not None:
        stated.append((MALE, condition.sex == "male"))
    return stated + ([(AP, condition.view == "AP")] if condition.view in ("AP", "PA") else [])


def fit_limits(
    readings: Readings, conditions: Sequence[Condition], patients: np.ndarray, rate: float
) -> ConditionLimits:
    """Limits from readings of n real held-out images, what they show, and whose they are."""
    truth, told = _truth(conditions), _told(readings)
    limits = {name: _limit(told[:, i], truth[:, i], patients, rate) for i, name in enumerate(LABELS)}
    age = _age_limit(readings.age, conditions, patients, rate)
    without_none = ConditionLimits(rate=rate, labels=limits, age=age)
    limits[NONE] = _limit(without_none.none(readings.findings), truth[:, -1], patients, rate)
    return ConditionLimits(rate=rate, labels=limits, age=age)


def _told(readings: Readings) -> np.ndarray:
    return np.column_stack([readings.findings, readings.male, readings.ap])


def _truth(conditions: Iterable[Condition]) -> np.ndarray:
    """(n, 17): 1 present, 0 absent, NaN unknown, in the order of LABELS and last NONE.

    As in training (model.classifier.targets), a finding that a labelled image doesn't list is absent.
    """
    rows = []
    for condition in conditions:
        row = dict.fromkeys((*LABELS, NONE), 0.0 if condition.findings else np.nan) | {MALE: np.nan, AP: np.nan}
        row |= {finding.value: np.nan for finding, state in condition.findings.items() if state.state == "uncertain"}
        row |= {label: float(present) for label, present in asked(condition)}
        rows.append([row[label] for label in (*LABELS, NONE)])
    return np.array(rows)


def _limit(told: np.ndarray, truth: np.ndarray, patients: np.ndarray, rate: float) -> Limit:
    present, absent = truth == 1, truth == 0
    counts = tuple(len(np.unique(patients[rows])) for rows in (present, absent))
    if min(counts) < FEWEST:
        return Limit(judged=False, auc=None, patients=counts)
    value = auc(told[present], told[absent])
    low, _ = auc_interval(value, *counts)
    least, most = lowest_passing(told[present], rate), -lowest_passing(-told[absent], rate)
    if low <= 0.5 or not np.isfinite([least, most]).all():
        return Limit(judged=False, auc=value, patients=counts)
    caught = (float((told[absent] < least).mean()), float((told[present] > most).mean()))
    return Limit(judged=True, auc=value, patients=counts, least=least, most=most, caught=caught)


def _age_limit(told: np.ndarray, conditions: Sequence[Condition], patients: np.ndarray, rate: float) -> AgeLimit:
    """By the line that best tells `told` from the true age: a weak reader's ages gather about the mean."""
    known = np.array([condition.age is not None for condition in conditions])
    ages = np.array([condition.age for condition in conditions if condition.age is not None], dtype=float)
    count = len(np.unique(patients[known]))
    if count < FEWEST or ages.std() == 0:
        return AgeLimit(judged=False, correlation=None, patients=count)
    slope, intercept = np.polyfit(ages, told[known], 1)
    correlation = float(np.corrcoef(ages, told[known])[0, 1])
    most = -lowest_passing(-np.abs(told[known] - slope * ages - intercept), rate)
    # Fisher's z: the lower end of the correlation's 95% interval.
    judged = bool(np.arctanh(min(correlation, 1 - 1e-12)) - Z95 / np.sqrt(count - 3) > 0 and np.isfinite(most))
    return AgeLimit(
        judged=judged, correlation=correlation, patients=count, slope=slope, intercept=intercept,
        most=most if judged else None,
    )  # fmt: skip
