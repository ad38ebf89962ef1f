"""What a source yields, one item an image, and how the header of a DICOM file fills what a table left open."""

import hmac
from pathlib import Path
from typing import Literal, Protocol

from synthcxr.conditions import Condition
from synthcxr.config import Config
from synthcxr.reports import OLDEST
from synthcxr.vocabulary import Sex, View

SplitHint = Literal["train", "validate", "test", "development"]
# Sources of one's own: what they call images, patients and studies may say who somebody is. Published collections name
# them by pseudonyms, which stay, so that a dataset can be held against what others say of the same collection.
OWN = ("dicom", "folder")


class SourceRow(Config):
    """One image of a source: where it lies, whose it is, what is known of it.

    Of the sources in OWN, `id` is the path of the file, and `patient` and `study` are the user's own names for them, or
    None; `completed` makes pseudonyms of all three. `report` and `prompt` are without identifiers; `prompt` is what a
    report concludes, or what the user wrote.
    """

    path: Path
    id: str
    patient: str | None
    study: str | None
    condition: Condition
    report: str | None = None
    prompt: str | None = None
    source: str
    licence: str


class PublishedRow(SourceRow):
    """A row whose publisher divides patients into splits.

    `split` is the publisher's, where it gives one: "development" is a part that its users divide further, into training
    and validation.
    """

    split: SplitHint | None = None


class Rejected(Config):
    """An image that the source can't use, and why.

    `by_rule`: it's sound, but the publisher's or the user's own rule leaves it out, so that it says nothing of damage.
    """

    path: Path
    reason: str
    by_rule: bool = False


class Header(Protocol):
    """What a row may need of a DICOM header; None where the header doesn't tell."""

    @property
    def patient_id(self) -> str | None: ...
    @property
    def study_uid(self) -> str | None: ...
    @property
    def sop_uid(self) -> str | None: ...
    @property
    def age(self) -> int | None: ...
    @property
    def sex(self) -> Sex | None: ...
    @property
    def view(self) -> View | None: ...


def completed(row: SourceRow, header: Header, key: str) -> SourceRow:
    """The row as it may enter a dataset: what its table left open taken from the header of its file, without what says
    who somebody is.

    In the sources in OWN, patient, study and the path of a file become pseudonyms, whether a table or a header names
    them: the patient that a plain hash stands for could be guessed. An image of no patient stands for a patient of its
    own study, one without study for itself: emptied headers must not make one patient of many.

    In every source, ages of OLDEST years and more become OLDEST (45 CFR 164.514(b)(2)(i)(C)), published ones too: age
    means the same in all datasets, so that they can be put together, and given away.

    Args:
        key: what pseudonyms are made with. The same key gives the same patient the same name in every dataset; whoever
            knows it can test whether somebody is among the patients, so that it's no part of a dataset.
    """
    known = row.condition
    told = {"age": header.age, "sex": header.sex, "view": header.view}
    fields = {name: value for name, value in told.items() if getattr(known, name) is None and value is not None}
    condition = known.model_copy(update=fields)
    if condition.age is not None:
        condition = condition.model_copy(update={"age": min(condition.age, OLDEST)})
    if row.source not in OWN:
        return row.model_copy(update={"condition": condition})
    study = row.study or header.study_uid or header.sop_uid or row.id
    return row.model_copy(
        update={
            "id": own_id(row, key),
            "patient": f"own-{pseudonym(key, row.patient or header.patient_id or study)}",
            "study": pseudonym(key, study),
            "condition": condition,
        }
    )


def own_id(row: SourceRow, key: str) -> str:
    """The id that an image of a source in OWN gets."""
    return f"{row.source}-{pseudonym(key, row.id)}"


def pseudonym(key: str, identifier: str) -> str:
    """16 hexadecimal digits that stand for an identifier (HMAC-SHA-256, RFC 2104)."""
    return hmac.new(key.encode(), identifier.strip().encode("utf-8", "surrogateescape"), "sha256").hexdigest()[:16]
