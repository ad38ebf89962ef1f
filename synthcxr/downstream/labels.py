"""What a classifier is to tell, as numbers: findings, sex (male) and view (AP)."""

from collections.abc import Sequence

import numpy as np

from synthcxr.data.curate.columns import column
from synthcxr.data.record import Record
from synthcxr.errors import ConfigError, UserError, did_you_mean
from synthcxr.model.classifier import AP, FINDINGS, MALE
from synthcxr.vocabulary import Finding, finding_names, parse_finding

PEOPLE = (MALE, AP)  # told of as well, but never part of a mean over findings
_LEVELS = {MALE: ("sex", "male"), AP: ("view", "AP")}


def known_label(name: str) -> str:
    """A label as it's spelt here: "male", "AP", or a finding's name in the vocabulary.

    Raises:
        ConfigError: it's none (with the nearest name).
    """
    for label in PEOPLE:
        if str(name).lower() == label.lower():
            return label
    try:
        return parse_finding(name).value
    except UserError:
        hint = did_you_mean(str(name), [*PEOPLE, *finding_names()])
        raise ConfigError(f"label {name!r} must be a finding, male or AP{hint}") from None


def values_of(records: Sequence[Record], labels: Sequence[str]) -> np.ndarray:
    """float32 (n, labels): 1 there, 0 not there, NaN where it isn't known.

    As the published tables mean it, a finding that isn't listed is absent where others are listed.
    """
    columns = [_values(records, label) for label in labels]
    return np.column_stack(columns).astype(np.float32) if columns else np.empty((len(records), 0), np.float32)


def _values(records: Sequence[Record], label: str) -> np.ndarray:
    if label not in _LEVELS:
        codes = column(records, Finding(label).value).codes
        return np.select([codes == 0, codes == 1], [1.0, 0.0], np.nan)
    name, level = _LEVELS[label]
    found = column(records, name)
    known = found.codes >= 0
    if label == AP:  # a lateral view is neither
        known &= np.isin(np.array([*found.levels, ""])[found.codes], ("AP", "PA"))
    there = np.array([*found.levels, ""])[found.codes] == level
    return np.where(known, there.astype(float), np.nan)


def testable(records: Sequence[Record], least: int, asked: Sequence[str] = ()) -> tuple[str, ...]:
    """Labels (those asked for, else all) that `least` of the records have, and `least` don't.

    Labels are counted, nothing else, before anything is trained.
    """
    options = tuple(asked) or (*(finding.value for finding in FINDINGS), *PEOPLE)
    values = values_of(records, options)
    enough = np.minimum((values == 1).sum(0), (values == 0).sum(0)) >= least
    return tuple(label for label, there in zip(options, enough, strict=True) if there)


def is_finding(label: str) -> bool:
    """Whether it counts in a mean over findings."""
    return label not in PEOPLE
