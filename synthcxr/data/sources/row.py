"""What a source yields, one item an image, and how the header of a DICOM file fills what a table left open."""

import hmac
from pathlib import Path
from typing import Literal, Protocol

from synthcxr.conditions import Condition
from synthcxr.config import Config
from synthcxr.vocabulary import Sex, View

SplitHint = Literal["train", "validate", "test", "development"]


class SourceRow(Config):
    """One image of a source: where it lies, whose it is, what is known of it.

    `patient` and `study` are None only for DICOM files, whose header tells them; until then the `id` of such a file is
    its path: see `completed`. `report` and `prompt` are without identifiers; `prompt` is what a report concludes, or
    what the user wrote.
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
    """The row with what its table left open taken from the header of its file; the table's own word stays.

    Patient, study and the path of a file become pseudonyms: the patient that a plain hash stands for could be guessed.
    A header without patient stands for a patient of its own study, one without study for itself: emptied headers must
    not make one patient of many.

    Args:
        key: what pseudonyms are made with. The same key gives the same patient the same name in every dataset; whoever
            knows it can test whether somebody is among the patients, so that it's no part of a dataset.
    """
    known = row.condition
    told = {"age": header.age, "sex": header.sex, "view": header.view}
    fields = {name: value for name, value in told.items() if getattr(known, name) is None and value is not None}
    study = header.study_uid or header.sop_uid or row.id
    return row.model_copy(
        update={
            "id": f"dicom-{pseudonym(key, row.id)}" if row.source == "dicom" else row.id,
            "patient": row.patient or f"{row.source}-{pseudonym(key, header.patient_id or study)}",
            "study": row.study or pseudonym(key, study),
            "condition": known.model_copy(update=fields),
        }
    )


def pseudonym(key: str, identifier: str) -> str:
    """16 hexadecimal digits that stand for an identifier (HMAC-SHA-256, RFC 2104)."""
    return hmac.new(key.encode(), identifier.strip().encode("utf-8", "surrogateescape"), "sha256").hexdigest()[:16]
