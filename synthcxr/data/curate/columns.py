"""Columns of a manifest as levels: what is counted, compared and balanced."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from synthcxr.data.record import Record
from synthcxr.errors import UserError, did_you_mean
from synthcxr.vocabulary import Finding, finding_names, parse_finding

COLUMNS = ("source", "sex", "race", "view", "age")
UNKNOWN = -1
_AGES = ((0, 19), (20, 39), (40, 59), (60, 79), (80, None))


@dataclass(frozen=True)
class Column:
    """One column of n images.

    Attributes:
        levels: the values it has, in a fixed order.
        codes: (n,) the place of each image's value in `levels`; UNKNOWN where it isn't known.
    """

    name: str
    levels: tuple[str, ...]
    codes: np.ndarray


def known_column(name: str) -> str:
    """The name of a column, or of a finding as the vocabulary spells it.

    Raises:
        ValueError: it's neither (with the nearest name).
    """
    if name.lower() in COLUMNS:
        return name.lower()
    try:
        return parse_finding(name).value
    except UserError:
        options = [*COLUMNS, *finding_names()]
        raise ValueError(
            f"must pair findings or columns ({', '.join(COLUMNS)}); {name!r} is neither{did_you_mean(name, options)}"
        ) from None


def column(records: Sequence[Record], name: str) -> Column:
    """A column by a name that `known_column` gave, or "split".

    A finding is present or absent. As the published tables mean it, one that isn't listed is absent where others are
    listed; it's unknown where it is uncertain or the image has no label at all. Ages are in steps of 20 years.
    """
    if name in (*COLUMNS, "split"):
        values = [_value(record, name) for record in records]
        levels = tuple(sorted({value for value in values if value is not None}))
    else:
        finding = Finding(name)
        values = [_state(record, finding) for record in records]
        levels = ("present", "absent")
    places = {level: place for place, level in enumerate(levels)}
    return Column(name, levels, np.array([places.get(value, UNKNOWN) for value in values], dtype=np.int64))


def _state(record: Record, finding: Finding) -> str | None:
    stated = record.condition.findings
    if not stated:
        return None
    state = stated[finding].state if finding in stated else "absent"
    return None if state == "uncertain" else state


def _value(record: Record, name: str) -> str | None:
    if name in ("split", "source"):
        return getattr(record, name)
    if name != "age":
        return getattr(record.condition, name)
    age = record.condition.age
    for low, high in _AGES:
        if age is not None and age >= low and (high is None or age <= high):
            return f"{low}+" if high is None else f"{low}-{high}"
    return None
