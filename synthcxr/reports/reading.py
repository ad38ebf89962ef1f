"""From the text of a report to the findings of the vocabulary."""

import re

from synthcxr.conditions import STATE_ORDER, Condition, FindingState
from synthcxr.reports.identifiers import scrub
from synthcxr.reports.layout import sections
from synthcxr.reports.scope import Mention, read_sentence
from synthcxr.vocabulary import FINDING_ORDER, SEVERITIES, Finding

_BREAK = re.compile(
    r"(?<=[.?!;])\s+|(?<=[a-z)][.?!])(?=[A-Z0-9])|\n[ \t]*\n|\n[ \t]*(?=[-*\u2022]|\d{1,2}[.)])"
    r"|(?:^|\s)\d{1,2}[.)]\s+(?=[A-Z])"
)
_SHORT = re.compile(r"\b(?:vs|dr|mr|mrs|ms|approx|st|e\.g|i\.e)\.$")
_BULLET = re.compile(r"^[\s\-*\u2022]*(?:\d{1,2}[.)]\s*)?(?=\D|$)")
_LONGEST = 2000  # characters in a sentence
_SIDELESS = frozenset({Finding.CARDIOMEGALY, Finding.ENLARGED_CARDIOMEDIASTINUM, Finding.ENDOTRACHEAL_TUBE})


def sentences(text: str) -> list[str]:
    """Sentences in lower case with single spaces, without their full stop; lines that are merely wrapped are joined."""
    found: list[str] = []
    for part in _BREAK.split(text):
        part = " ".join(_BULLET.sub("", part).lower().split())
        if found and len(found[-1]) < _LONGEST and _SHORT.search(found[-1]):
            part = f"{found.pop()} {part}"
        # Nobody dictates longer ones; whatever else comes here mustn't take time with the square of its length.
        found += [part[place : place + _LONGEST] for place in range(0, len(part), _LONGEST)]
    return [part.rstrip(".?! ") for part in found]


def _mentions(text: str | None) -> list[Mention]:
    return [mention for sentence in sentences(text or "") for mention in read_sentence(sentence)]


def _merged(mentions: list[Mention]) -> FindingState:
    """Mentions of one finding as one: presence before doubt before absence, all sides, the gravest severity."""
    state = min((mention.state for mention in mentions), key=STATE_ORDER.__getitem__)
    same = [mention for mention in mentions if mention.state == state]
    sides = {mention.side for mention in same}
    severities = {mention.severity for mention in same}
    if state == "absent":  # only as far as every denial reaches
        return FindingState(
            state=state,
            side=sides.pop() if len(sides) == 1 else None,
            severity=severities.pop() if len(severities) == 1 else None,
        )
    sides -= {None}
    return FindingState(
        state=state,
        side="bilateral" if len(sides) > 1 else next(iter(sides), None),
        severity=max((severity for severity in severities if severity), key=SEVERITIES.index, default=None),
    )


def _settled(finding: Finding, findings: list[Mention], impression: list[Mention]) -> FindingState:
    """The impression's word goes, unless it only denies a kind of what the findings describe ("no acute fracture")."""
    above, below = ([each for each in part if finding in each.concept.findings] for part in (findings, impression))
    denied = below and all(mention.state == "absent" and mention.qualified for mention in below)
    if not above or not below or denied:
        state = _merged(above + below)
    else:
        first, state = _merged(above), _merged(below)
        if first.state == state.state != "absent":
            state = FindingState(
                state=state.state, side=state.side or first.side, severity=state.severity or first.severity
            )
    return FindingState(state=state.state, severity=state.severity) if finding in _SIDELESS else state


def findings_in(text: str) -> dict[Finding, FindingState]:
    """The findings that a report, or any of its sentences, speaks of.

    Of a report with headings the findings and the impression are read, and nothing else; the impression wins where
    they contradict each other, and within each presence wins over doubt and doubt over absence. `NO_FINDING` is present
    where something is said to be normal and nothing abnormal is said, in the vocabulary or outside ("scoliosis").

    Returns:
        in the order of `Finding`; a device comes with `SUPPORT_DEVICES`.
    """
    parts = sections(text)
    above, below = _mentions(parts.findings or parts.body), _mentions(parts.impression)
    both = above + below
    said = {finding for mention in both for finding in mention.concept.findings}
    found = {finding: _settled(finding, above, below) for finding in sorted(said, key=FINDING_ORDER.__getitem__)}
    normal = any(mention.concept.general and mention.state == "absent" for mention in both)
    other = any(each.concept.abnormal and not each.concept.findings and each.state != "absent" for each in both)
    if normal and not other and all(state.state == "absent" for state in found.values()):
        found = {Finding.NO_FINDING: FindingState()} | found
    return found


def report_condition(text: str) -> Condition:
    """The findings of a report as a condition; who the patient is and which view it was isn't read from reports."""
    return Condition(findings=findings_in(text))


def impression(text: str) -> str | None:
    """The report's conclusion without identifiers, as prompts use it: impression, else findings, else last paragraph.

    Returns:
        one line, or None where nothing is left.
    """
    parts = sections(text)
    paragraphs = re.split(r"\n[ \t]*\n", parts.body or "")
    for part in (parts.impression, parts.findings, *reversed(paragraphs)):
        clean = " ".join(scrub(part or "").split())
        if re.search(r"[^\W\d_]{2}", clean):
            return clean
    return None
