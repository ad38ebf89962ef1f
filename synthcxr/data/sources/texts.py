"""Reports of a source: what may be kept of their text, and how it adds to labels."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

from synthcxr.conditions import FindingState
from synthcxr.reports import findings_in, group_ages, impression, scrub
from synthcxr.vocabulary import CHEXPERT_LABELS, Finding

DEVICES = frozenset({Finding.CHEST_TUBE, Finding.ENDOTRACHEAL_TUBE, Finding.CENTRAL_LINE, Finding.PACEMAKER})
_LABELLED = frozenset(CHEXPERT_LABELS.values())


@dataclass(frozen=True)
class Told:
    """What a report tells: its text and its conclusion, both without identifiers, and its findings."""

    report: str | None = None
    prompt: str | None = None
    findings: Mapping[Finding, FindingState] | None = None


# The images of a study follow each other and share a report.
@lru_cache(maxsize=16)
def told(text: str | None) -> Told:
    """A report as it came from a source; nothing of it for None or blank."""
    if not text or not text.strip():
        return Told()
    concluded = impression(text)
    return Told(clean(text), concluded and group_ages(concluded), findings_in(text))


def clean(text: str | None) -> str | None:
    """Free text without identifiers; None where nothing is left."""
    if not text or not text.strip():
        return None
    return group_ages(scrub(text)).strip() or None


def sections_text(findings: str, impression: str) -> str | None:
    """Sections that a table holds apart, as one report; None where both are blank."""
    parts = [f"{name}: {text.strip()}" for name, text in (("FINDINGS", findings), ("IMPRESSION", impression))]
    return "\n\n".join(part for part in parts if not part.endswith(": ")) or None


def refined(labels: Mapping[Finding, FindingState], told: Told) -> Mapping[Finding, FindingState]:
    """CheXpert labels, with what the report adds to them; without labels, what the report tells.

    A label keeps its state, and takes side and severity where the report agrees with the state. Findings that the
    CheXpert 14 have no label for come from the report, unless the labels rule them out: a sick lung beside "No
    Finding", a device without "Support Devices".
    """
    if not labels or not told.findings:
        return labels or told.findings or {}
    states = {finding: labels[finding].state for finding in labels}
    merged = dict(labels)
    for finding, said in told.findings.items():
        if finding in _LABELLED:
            if states.get(finding) == said.state:
                merged[finding] = said
            continue
        if finding in DEVICES:
            ruled_out = states.get(Finding.SUPPORT_DEVICES) == "absent"
        else:
            ruled_out = states.get(Finding.NO_FINDING) == "present"
        if said.state == "absent" or not ruled_out:
            merged[finding] = said
    return merged
