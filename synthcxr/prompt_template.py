"""Prompt templates: sentences with fields, in which what is unknown leaves no trace."""

import re
from collections.abc import Mapping

from synthcxr.errors import ConditionError, did_you_mean


def _fill_sentence(sentence: str, values: Mapping[str, str]) -> str:
    """One sentence of a template. Words after a field belong to it, and are left out with it."""
    lead, *rest = re.split(r"\{(\w+)\}", sentence)
    known = [(name, words) for name, words in zip(rest[::2], rest[1::2], strict=True) if values[name]]
    if rest and not known:
        return ""
    filled = lead + "".join(values[name] + words for name, words in known)
    if not known:
        return filled
    if not lead and known[0][0] != "impression":
        filled = filled[:1].upper() + filled[1:]
    if known[-1][0] != "impression":
        filled = filled.rstrip(" ,")
    return filled + "." if sentence.endswith(".") and not filled.endswith(".") else filled


def fill_template(template: str, values: Mapping[str, str]) -> str:
    """The template with each {field} replaced by its value, which is "" where unknown.

    A sentence begins with a capital letter where it begins with a field; `impression` goes in as it is.

    Raises:
        ConditionError: the template has a field that isn't in `values`.
    """
    for name in re.findall(r"\{(.*?)\}", template):
        if name not in values:
            raise ConditionError(
                f"template field {name!r} must be one of {', '.join(values)}{did_you_mean(name, values)}"
            )
    sentences = (_fill_sentence(sentence, values) for sentence in re.split(r"(?<=\.)\s+", template.strip()))
    return " ".join(sentence for sentence in sentences if sentence)
