"""What a DICOM header says, taken with care: a value that is missing, damaged or of no known form is None."""

import re
import struct
from datetime import date
from typing import cast

from pydicom.dataset import Dataset
from pydicom.errors import BytesLengthException

from synthcxr.conditions import MAX_AGE
from synthcxr.errors import ImageError
from synthcxr.vocabulary import SEX_WORDS, Sex, View

MAX_TEXT = 64  # characters: what PS3.5 table 6.2-1 allows the identifiers and codes that are read here
VIEWS: dict[str, View] = {
    "PA": "PA", "AP": "AP", **dict.fromkeys(("LL", "RL", "L", "LAT", "LATERAL"), "LATERAL"),
    # Codes of PS3.16 CID 4010: SNOMED CT, and SNOMED RT as older files have it.
    **dict.fromkeys(("272479007", "R-10214", "R-40888"), "PA"), **dict.fromkeys(("399348003", "R-10206"), "AP"),
    **dict.fromkeys(("399067008", "399173006", "399198007", "R-102CD", "R-10236", "R-10232"), "LATERAL"),
}  # fmt: skip
SYNTHESIZING = ("109100", "DCM")  # Synthesizing Equipment
# What pydicom raises on values that aren't what their type says. Its messages quote them: they must not be passed on.
BROKEN = (
    ValueError, TypeError, LookupError, AttributeError, RuntimeError, ArithmeticError, struct.error,
    BytesLengthException,
)  # fmt: skip


def whole(ds: Dataset, keyword: str, low: int, high: int) -> int:
    """A whole number that an image can't do without. Raises ImageError where it isn't one from `low` to `high`."""
    try:
        value = ds.get(keyword)
    except BROKEN:
        value = None
    if not isinstance(value, int) or not low <= value <= high:
        said = f"= {value}" if isinstance(value, int) else "is missing or damaged; it"
        raise ImageError(f"{keyword} {said} must be a whole number from {low} to {high}; replace or remove the file")
    return value


def text(ds: Dataset, keyword: str) -> str | None:
    """The first value of a text, printable characters only, without space around it; None where it's too long."""
    try:
        value = ds.get(keyword)
        first = value if isinstance(value, str) else next(iter(value or ()), None)
    except BROKEN:
        return None
    if not isinstance(first, str):
        return None
    said = "".join(letter for letter in first if letter.isprintable()).strip()
    return said if 0 < len(said) <= MAX_TEXT else None


def spacing(ds: Dataset) -> tuple[float, float] | None:
    """mm between rows and between columns: PixelSpacing (at the patient), or else ImagerPixelSpacing (detector)."""
    for keyword in ("PixelSpacing", "ImagerPixelSpacing"):
        try:
            rows, columns = (float(number) for number in ds.get(keyword) or ())
        except BROKEN:
            continue
        if 0 < rows < 100 and 0 < columns < 100:
            return rows, columns
    return None


def sex(ds: Dataset) -> Sex | None:
    return cast(Sex | None, SEX_WORDS.get((text(ds, "PatientSex") or "").lower()))


def age(ds: Dataset) -> int | None:
    """Whole years, 0 to 120: PatientAge (045Y, 018M, 006W, 003D), or else the time from birth to the study."""
    said = re.fullmatch(r"(\d{1,3})([DWMY]?)", text(ds, "PatientAge") or "", re.ASCII)
    if said:
        years = int(said[1]) // {"D": 365, "W": 52, "M": 12}.get(said[2], 1)
        return years if years <= MAX_AGE else None
    born = _date(ds, "PatientBirthDate")
    taken = next(filter(None, (_date(ds, f"{what}Date") for what in ("Study", "Acquisition", "Content"))), None)
    if born is None or taken is None:
        return None
    years = taken.year - born.year - ((taken.month, taken.day) < (born.month, born.day))
    return years if 0 <= years <= MAX_AGE else None


def view(ds: Dataset) -> View | None:
    """ViewPosition, or else ViewCodeSequence, or else a PatientOrientation whose rows run from front to back.

    Decubitus and oblique positions are none of the three views.
    """
    position = text(ds, "ViewPosition")
    if position is not None:
        return VIEWS.get(position.upper())
    try:
        items = ds.get("ViewCodeSequence") or ()
        code = next((text(item, "CodeValue") for item in items), None)
    except BROKEN:
        code = None
    return VIEWS.get(code or "") or ("LATERAL" if text(ds, "PatientOrientation") in ("A", "P") else None)


def synthetic(ds: Dataset) -> str | None:
    """The mark that says no patient was imaged: SyntheticData (0008,001C) YES (PS3.3 C.12.1), or equipment that
    contributed by synthesizing, (109100, DCM) of PS3.16 CID 7005. None where there's neither."""
    if (text(ds, "SyntheticData") or "").upper() == "YES":
        return "SyntheticData YES"
    try:
        purposes = [code for item in ds.get("ContributingEquipmentSequence") or () for code in _purposes(item)]
    except BROKEN:
        return None
    return "Synthesizing Equipment" if SYNTHESIZING in purposes else None


def _purposes(item: Dataset) -> list[tuple[str | None, str | None]]:
    codes = item.get("PurposeOfReferenceCodeSequence") or ()
    return [(text(code, "CodeValue"), text(code, "CodingSchemeDesignator")) for code in codes]


def _date(ds: Dataset, keyword: str) -> date | None:
    try:
        return date.fromisoformat(text(ds, keyword) or "")
    except ValueError:
        return None
