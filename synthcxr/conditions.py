"""Conditions of a radiograph (who, which view, which findings) and the prompts that say them.

`to_prompt` and `parse_prompt` are inverses on the canonical grammar. What the canonical prompts look like is
part of every trained model: changing a word here makes a word that the embedded model never saw.
"""

import re
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from pydantic import field_validator, model_validator

from synthcxr.config import Config
from synthcxr.errors import ConditionError, did_you_mean
from synthcxr.prompt_reader import Mention, read_prompt
from synthcxr.prompt_template import fill_template
from synthcxr.vocabulary import (
    CHEXPERT_LABELS,
    FINDING_ORDER,
    NIH_LABELS,
    NO_FINDING_PHRASES,
    PHRASES,
    RACE_WORDS,
    RACES,
    SEVERITIES,
    SEX_WORDS,
    SEXES,
    SIDES,
    SIZED,
    SIZES,
    STATES,
    SYNONYMS,
    VIEWS,
    Finding,
    Race,
    Severity,
    Sex,
    Side,
    State,
    View,
    parse_finding,
)

__all__ = [
    "CHEXPERT_LABELS",
    "DEFAULT_TEMPLATE",
    "MAX_AGE",
    "NIH_LABELS",
    "SYNONYMS",
    "Condition",
    "Finding",
    "FindingState",
    "canonical_words",
    "describe",
    "finding_phrase",
    "parse_finding",
    "parse_prompt",
    "to_prompt",
    "unseen_words",
]

DEFAULT_TEMPLATE = "{age} year old {race} {sex}. {view} view. {impression}"
MAX_AGE = 120

_STATE_WORDS = {"present": "", "uncertain": "possible", "absent": "no"}
STATE_ORDER = {state: place for place, state in enumerate(_STATE_WORDS)}  # a cut prompt loses absences first
_SPELLINGS = {"sex": SEX_WORDS, "race": RACE_WORDS, "view": {"L": "LATERAL", "LL": "LATERAL", "LAT": "LATERAL"}}


def _choice(field: str, value: Any, options: tuple[str, ...]) -> str | None:
    """One of the options, whatever the case of `value`; None stays None."""
    if value is None:
        return None
    text = str(value).strip()
    text = text.upper() if field == "view" else text.lower()
    text = _SPELLINGS.get(field, {}).get(text, text)
    if text not in options:
        rule = f"must be one of {', '.join(options)}{did_you_mean(text, options)}"
        raise ConditionError(f"{field} = {str(value)!r} {rule}")
    return text


class FindingState(Config):
    """What is known of one finding. A plain string is a state: `"absent"`."""

    state: State = "present"
    side: Side | None = None
    severity: Severity | None = None

    @model_validator(mode="before")
    @classmethod
    def _from_name(cls, value: Any) -> Any:
        return {"state": value} if isinstance(value, str) else value

    @field_validator("state", "side", "severity", mode="before")
    @classmethod
    def _known(cls, value: Any, info: Any) -> Any:
        options = {"state": STATES, "side": SIDES, "severity": SEVERITIES}
        return _choice(info.field_name, value, options[info.field_name])


class Condition(Config):
    """What one radiograph shows; everything unknown is None or left out.

    `findings` takes any spelling `parse_finding` knows, and also a plain list of findings that are present. It's kept
    in the order of `Finding`. `age` is in whole years, 0 to 120. `text` is free text, kept but for space around it.

    Raises:
        ConditionError: a finding, state, side, severity, sex, race, view or age that isn't one (with the nearest name).
    """

    findings: dict[Finding, FindingState] = {}
    age: int | None = None
    sex: Sex | None = None
    race: Race | None = None
    view: View | None = None
    text: str | None = None

    @property
    def present(self) -> set[Finding]:
        """Findings that are there, "No Finding" left out."""
        return {finding for finding, state in self.findings.items() if state.state == "present"} - {Finding.NO_FINDING}

    @field_validator("findings", mode="before")
    @classmethod
    def _named(cls, value: Any) -> Any:
        if isinstance(value, list | tuple | set | frozenset):
            value = {name: "present" for name in value}
        if not isinstance(value, Mapping):
            raise ConditionError(f"findings = {value!r} must be a mapping of findings to states, or a list of findings")
        named: dict[Finding, Any] = {}
        for name, state in value.items():
            finding = parse_finding(name)
            if finding in named:
                raise ConditionError(f"finding {finding.value!r} is given twice (again as {str(name)!r}); give it once")
            named[finding] = state
        return {finding: named[finding] for finding in sorted(named, key=FINDING_ORDER.__getitem__)}

    @field_validator("findings")
    @classmethod
    def _no_finding_is_bare(cls, findings: dict[Finding, FindingState]) -> dict[Finding, FindingState]:
        state = findings.get(Finding.NO_FINDING)
        if state and (state.side or state.severity):
            raise ConditionError("finding 'No Finding' takes no side and no severity; give its state alone")
        return findings

    @field_validator("age", mode="before")
    @classmethod
    def _plausible_age(cls, value: Any) -> Any:
        if value is None:
            return None
        try:
            age = int(value)
        except (TypeError, ValueError, OverflowError):
            age = -1
        if isinstance(value, bool) or not 0 <= age <= MAX_AGE or (isinstance(value, float) and value != age):
            raise ConditionError(f"age = {value} must be a whole number of years, 0 to {MAX_AGE}")
        return age

    @field_validator("sex", "race", "view", mode="before")
    @classmethod
    def _known(cls, value: Any, info: Any) -> Any:
        return _choice(info.field_name, value, {"sex": SEXES, "race": RACES, "view": VIEWS}[info.field_name])

    @field_validator("text")
    @classmethod
    def _stripped(cls, value: str | None) -> str | None:
        return (value or "").strip() or None


def finding_phrase(finding: Finding, state: FindingState) -> str:
    """Lower-case words of one finding: "possible small left pleural effusion"."""
    if finding is Finding.NO_FINDING:
        return NO_FINDING_PHRASES[state.state]
    severity = SIZES[state.severity] if state.severity and finding in SIZED else state.severity
    words = (_STATE_WORDS[state.state], severity, state.side, PHRASES[finding])
    return " ".join(word for word in words if word)


def _ordered(condition: Condition) -> list[tuple[Finding, FindingState]]:
    return sorted(condition.findings.items(), key=lambda item: (STATE_ORDER[item[1].state], FINDING_ORDER[item[0]]))


def _impression(condition: Condition) -> str:
    sentences = [finding_phrase(finding, state).capitalize() + "." for finding, state in _ordered(condition)]
    return " ".join([*sentences, condition.text] if condition.text else sentences)


def _view_word(view: View) -> str:
    return "lateral" if view == "LATERAL" else view


def to_prompt(condition: Condition, template: str = DEFAULT_TEMPLATE) -> str:
    """The canonical prompt, such as "72 year old female. PA view. Large right pleural effusion. No pneumothorax."

    Args:
        template: sentences with the fields {age}, {race} or {RACE} (upper case), {sex}, {view} and {impression}: the
            present, possible, then absent findings, each in the order of `Finding`, then the free text as it is.
            What is unknown is left out.

    Raises:
        ConditionError: the template has another field.
    """
    race = condition.race or ""
    values = {
        "age": "" if condition.age is None else str(condition.age),
        "race": race,
        "RACE": race.upper(),
        "sex": condition.sex or "",
        "view": _view_word(condition.view) if condition.view else "",
        "impression": _impression(condition),
    }
    return fill_template(template, values)


def _merged(one: FindingState, two: FindingState) -> FindingState | None:
    """Two mentions of a finding as one; None where they contradict each other.

    What is there grows (left, then right: bilateral); what is absent is absent only as far as both denials reach.
    """
    if one.state != two.state:
        return None
    if one.state == "absent":
        return FindingState.model_validate({field: value for field, value in one if value == getattr(two, field)})
    if one.severity and two.severity and one.severity != two.severity:
        return None
    sides = {one.side, two.side} - {None}
    side = "bilateral" if len(sides) > 1 else next(iter(sides), None)
    return FindingState(state=one.state, side=side, severity=one.severity or two.severity)


class _Understood:
    """The fields of a condition, gathered one mention at a time."""

    def __init__(self, mentions: Iterable[Mention]) -> None:
        self.fields: dict[str, Any] = {}
        self.findings: dict[Finding, FindingState] = {}
        self.surplus: dict[int, str] = {}  # mentions that contradict what is already known, by their identity
        # What is present is kept before what is possible, and that before what is absent.
        for mention in sorted(mentions, key=lambda mention: STATE_ORDER[mention.state]):
            if mention.kind == "finding":
                self._add_finding(mention)
            elif self.fields.setdefault(mention.kind, mention.value) != mention.value:
                self.surplus[id(mention)] = mention.words

    def _add_finding(self, mention: Mention) -> None:
        state = FindingState(state=mention.state, side=mention.side, severity=mention.severity)
        known = self.findings.get(mention.value)
        merged = _merged(known, state) if known else state
        if merged:
            self.findings[mention.value] = merged
        else:
            self.surplus[id(mention)] = finding_phrase(mention.value, state)


def parse_prompt(text: str) -> Condition:
    """What a prompt says: the inverse of `to_prompt` with the default template, and tolerant of other wordings.

    Understands synonyms, "no", "without" and "possible", sides, sizes, "72-year-old woman", "72 yo", "portable".
    Whatever isn't understood, or contradicts what is, stays in `text`; a sentence that says nothing known stays as is.

    Raises:
        ConditionError: an age above 120 years.
    """
    sentences = read_prompt(text)
    understood = _Understood(item for sentence in sentences for item in sentence.items if isinstance(item, Mention))
    kept = ""
    gap = ""
    for sentence in sentences:
        if not sentence.untouched:
            gap = ""
        for item in sentence.items:
            words = understood.surplus.get(id(item)) if isinstance(item, Mention) else item
            if words:
                joint = gap or (" " if kept.endswith((".", ";", "!", "?")) else ". ")
                kept += (joint if kept else "") + words
        gap = sentence.gap if sentence.untouched else ""
    return Condition(findings=understood.findings, text=kept, **understood.fields)


def describe(condition: Condition) -> str:
    """One line for people: what was understood of a prompt."""
    parts = [
        " ".join(word for word in (condition.race, condition.sex) if word),
        "" if condition.age is None else f"{condition.age} years",
        f"{_view_word(condition.view)} view" if condition.view else "",
    ]
    parts += [finding_phrase(finding, state) for finding, state in _ordered(condition)]
    known = ", ".join(part for part in parts if part) or "nothing known"
    return f"{known}; free text: {' '.join(condition.text.split())!r}" if condition.text else known


def canonical_words() -> list[str]:
    """Each lower-case word `to_prompt` can emit with the default template, sorted; without numbers and free text."""
    words = {"year", "old", "view", *(view.lower() for view in VIEWS), *SEXES, *SIDES, *SEVERITIES, *SIZES.values()}
    phrases = (*RACES, *PHRASES.values(), *NO_FINDING_PHRASES.values(), *_STATE_WORDS.values())
    words |= {word for phrase in phrases for word in phrase.split()}
    return sorted(words)


def unseen_words(prompt: str, seen: Collection[str]) -> list[str]:
    """Lower-cased words and numbers of a prompt that aren't in `seen`, each once, in the order of the prompt."""
    known = {word.lower() for word in seen}
    words = re.findall(r"[^\W_]+(?:'[^\W_]+)?", prompt.lower())
    return [word for word in dict.fromkeys(words) if word not in known]
