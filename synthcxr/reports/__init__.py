"""Reading radiology reports: their sections, the findings they assert, and the taking out of identifiers.

The findings are read with our own NegEx and ConText (see `scope`) over the standard library: of the kept libraries,
negspacy 1.1 scored a macro-F1 of 0.87 with this lexicon where this reader scored 0.91 (OpenI, development half), knows
negation alone and needs spaCy (200 MB installed), and medspaCy needs to be built and has had no release since 2024.
"""

from synthcxr.reports.identifiers import OLDEST, anonymous, group_ages, scrub
from synthcxr.reports.layout import Sections, sections
from synthcxr.reports.reading import findings_in, impression, report_condition

__all__ = [
    "OLDEST", "Sections", "anonymous", "findings_in", "group_ages", "impression", "report_condition", "scrub",
    "sections",
]  # fmt: skip
