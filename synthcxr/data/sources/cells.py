"""Cells of published tables into the fields of a condition.

Each function takes the text of a cell and raises ConditionError where it says something impossible; what a publisher
writes for "unknown" is None. Conditions are put together unvalidated from these checked parts: validating anew
each of 400,000 images would take minutes.
"""

import re
from collections.abc import Mapping
from functools import lru_cache

from synthcxr.conditions import MAX_AGE, Condition, FindingState
from synthcxr.errors import ConditionError, did_you_mean
from synthcxr.vocabulary import CHEXPERT_LABELS, FINDING_ORDER, Finding, Race, Sex, State, View

_UNKNOWN = frozenset({"", "unknown", "none", "nan", "u", "o", "other"})
_SEXES: dict[str, Sex] = {"f": "female", "female": "female", "m": "male", "male": "male"}
_VIEWS: dict[str, View] = {"PA": "PA", "AP": "AP"} | dict.fromkeys(("LATERAL", "LAT", "L", "LL", "RL"), "LATERAL")
# The bare states of a finding; they're frozen, so that all conditions share them.
STATES: dict[State, FindingState] = {
    "present": FindingState(state="present"),
    "absent": FindingState(state="absent"),
    "uncertain": FindingState(state="uncertain"),
}
_CELLS: dict[str, FindingState | None] = {
    **dict.fromkeys(("1", "1.0"), STATES["present"]),
    **dict.fromkeys(("0", "0.0"), STATES["absent"]),
    **dict.fromkeys(("-1", "-1.0"), STATES["uncertain"]),
    "": None,
}
_RACES: dict[Race, re.Pattern[str]] = {
    "pacific islander": re.compile("pacific|hawaiian"),
    "native american": re.compile("native american|american indian|alaska"),
    "asian": re.compile("asian"),
    "black": re.compile("black|african"),
    "white": re.compile("white|caucasian"),
}
_NO_HISPANIC = re.compile(r"\b(?:non|not)[- ]+(?:hispanic|latino)(?:\s*(?:/|or)\s*(?:non-?)?latino)?")


def condition(
    findings: Mapping[Finding, FindingState],
    age: int | None = None,
    sex: Sex | None = None,
    race: Race | None = None,
    view: View | None = None,
) -> Condition:
    """A condition out of parts that are already checked; the findings are put in the order of `Finding`."""
    ordered = {finding: findings[finding] for finding in sorted(findings, key=FINDING_ORDER.__getitem__)}
    return Condition.model_construct(findings=ordered, age=age, sex=sex, race=race, view=view, text=None)


@lru_cache(maxsize=1 << 15)
def chexpert_findings(cells: tuple[str, ...]) -> Mapping[Finding, FindingState]:
    """Labels of the CheXpert 14 (Irvin et al. 2019), in the order of CHEXPERT_LABELS: 1, 0, -1 or blank.

    Not to be changed: equal cells share the answer.
    """
    findings = {}
    for (name, finding), cell in zip(CHEXPERT_LABELS.items(), cells, strict=True):
        if cell not in _CELLS:
            raise ConditionError(f"{name} = {cell!r} must be 1 (present), 0 (absent), -1 (uncertain) or blank")
        if state := _CELLS[cell]:
            findings[finding] = state
    return findings


def named_findings(names: list[str], labels: Mapping[str, Finding]) -> dict[Finding, FindingState]:
    """Findings that are present, by a publisher's names for them."""
    for name in names:
        if name not in labels:
            raise ConditionError(f"unknown finding {name!r}{did_you_mean(name, labels)}")
    return {labels[name]: STATES["present"] for name in names}


def sex_of(cell: str) -> Sex | None:
    """M, F, or the whole word, in any case."""
    text = cell.strip().lower()
    if text in _UNKNOWN:
        return None
    if text not in _SEXES:
        raise ConditionError(f"sex = {cell!r} must be one of F, M, Female, Male, Unknown")
    return _SEXES[text]


def view_of(cell: str) -> View | None:
    """PA, AP or a lateral; None for any other view of the chest, such as oblique or decubitus."""
    return _VIEWS.get(cell.strip().upper())


def years_of(cell: str) -> int | None:
    """An age in whole years, 0 to 120, perhaps written 72.0."""
    text = cell.strip()
    if text.lower() in _UNKNOWN:
        return None
    digits = text.removesuffix(".0")
    if not (digits.isdecimal() and int(digits) <= MAX_AGE):
        raise ConditionError(f"age = {cell!r} must be a whole number of years, 0 to {MAX_AGE}")
    return int(digits)


@lru_cache(maxsize=4096)
def race_of(race: str, ethnicity: str = "") -> Race | None:
    """The one race that a hospital's words name, such as BLACK/CAPE VERDEAN or "White, non-Hispanic".

    Hispanic ethnicity goes before race, as in the combined question of the US standard (OMB Statistical Policy
    Directive 15, 2024 revision). Several races, another one, and words that name none are unknown.
    """
    words = _NO_HISPANIC.sub(" ", f"{race}; {ethnicity}".lower())
    if "hispanic" in words or "latino" in words:
        return "hispanic"
    named = [name for name, pattern in _RACES.items() if pattern.search(words)]
    return named[0] if len(named) == 1 else None
