"""The parts of a report, as MIMIC-CXR, CheXpert Plus, OpenI and plain dictation lay them out.

A heading is a known one with a colon: in any case at the start of a line or sentence, in capitals anywhere. Headings
of organs ("LUNGS:", "HEART:") are words of the section they stand in.
"""

import re
from dataclasses import dataclass

_HEADINGS = {
    "findings": "finding|findings|report|description|results|radiographic findings|chest findings",
    "impression": "impression|impressions|conclusion|conclusions|opinion|interpretation|diagnosis",
    "both": "findings and impression|impression and findings|findings/impression|findings / impression",
    "indication": "indication|indications|clinical indication|history|clinical history|clinical information|reason"
    "|reason for exam|reason for examination|reason for study|clinical data|clinical question",
    "comparison": "comparison|comparisons|comparison study|comparison studies|compared with",
    "technique": "technique|procedure|procedure comments|views|number of views|method",
    "examination": "examination|exam|exam type|study|type of study|radiographic examination",
    "other": "narrative|final report|wet read|summary|recommendation|recommendations|notification|note|addendum"
    "|patient|communication|attestation|accession number|signed by|electronically signed by|dictated by|transcribed by"
    "|attending|resident|radiologist|name|mrn|dob|date",
}
_FIELD = {name: field for field, names in _HEADINGS.items() for name in names.split("|")}
# What opens or closes a report without being a heading.
_TITLE = re.compile(r"^[ \t]*(?:FINAL|WET|PRELIMINARY)[ ]+(?:REPORT|READ)[ \t]*$", re.MULTILINE)
_CLOSING = r"END OF (?:IMPRESSION|REPORT)|I have personally (?:reviewed|viewed)|This report has been anonymized"


def _heading() -> re.Pattern[str]:
    names = "|".join(re.escape(name).replace(r"\ ", " +") for name in sorted(_FIELD, key=len, reverse=True))
    known = rf"(?:^[ \t]*|(?<=[.?!])\s+)(?P<known>(?i:{names}))(?:\([Ss]\))? *:"
    return re.compile(rf"{known}|(?<=\s)(?P<inline>{names.upper()})(?:\(S\))? *:|{_CLOSING}", re.MULTILINE)


_HEADING = _heading()
_PARAGRAPH = re.compile(r"\n[ \t]*\n")


@dataclass(frozen=True)
class Sections:
    """What a report says where; None where it doesn't have the section. Text as it stands, but for space around it.

    Attributes:
        body: what stands under no heading, of a report that has neither findings nor impression.
    """

    findings: str | None = None
    impression: str | None = None
    indication: str | None = None
    comparison: str | None = None
    technique: str | None = None
    examination: str | None = None
    body: str | None = None


def _joined(parts: list[str]) -> str | None:
    return "\n\n".join(part.strip() for part in parts if part.strip()) or None


def sections(text: str) -> Sections:
    """The sections of one report; a heading that occurs twice has its texts joined.

    Findings and impression reach to the next heading. Any other section is one paragraph: what comes after it may be
    the report itself, as in MIMIC-CXR, where it's often under no heading.
    """
    text = _TITLE.sub("", text.replace("\r\n", "\n").replace("\r", "\n"))
    headings = list(_HEADING.finditer(text))
    starts = [heading.start() for heading in headings] + [len(text)]
    parts: dict[str, list[str]] = {}
    loose = [text[: starts[0]]]
    for heading, end in zip(headings, starts[1:], strict=True):
        name = heading["known"] or heading["inline"] or ""
        field = _FIELD.get(" ".join(name.lower().split()), "other")
        content = text[heading.end() : end]
        if field in ("findings", "impression", "both"):
            for each in ("findings", "impression") if field == "both" else (field,):
                parts.setdefault(each, []).append(content)
        else:
            first, *rest = _PARAGRAPH.split(content.strip("\n"), maxsplit=1)
            parts.setdefault(field, []).append(first)
            loose += rest
    found = {field: _joined(contents) for field, contents in parts.items() if field != "other"}
    told = found.get("findings") or found.get("impression")
    return Sections(**found, body=None if told else _joined(loose))
