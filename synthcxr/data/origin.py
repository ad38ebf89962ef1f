"""What dataset.json says of how synthetic images came about: what the screen let through, and the models' audits.

    "synthesize": {..., "acceptance": [{"condition": "any", "asked": 100, "accepted": 97, "given_up": 3, "drawn": 140}]}
    "audit": {MODEL HASH: {"passed": true, ...} or null, ...}

Both are found in the datasets that a curated one was made from, too.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import BaseModel, Field, ValidationError

from synthcxr.errors import DatasetError

UNKNOWN = "unknown"  # in place of the hash of a model that a synthetic row doesn't name


class Acceptance(BaseModel):
    """Of one condition: images asked for, let through by the screen, and given up after all retries.

    `drawn` counts the pictures that were drawn for them, retries included; None: it isn't known.
    """

    condition: str
    asked: int = Field(ge=0)
    accepted: int = Field(ge=0)
    given_up: int = Field(ge=0)
    drawn: int | None = Field(None, ge=0)


class _Told(BaseModel):
    """The part of dataset.json that is read here."""

    class Synthesize(BaseModel):
        acceptance: list[Acceptance] = []

    synthesize: Synthesize = Synthesize()
    audit: dict[str, dict[str, Any] | None] | None = None
    inputs: list["_Told"] = []


def acceptance_of(info: Mapping[str, Any]) -> list[Acceptance]:
    """The acceptance table, a row a condition; empty where nothing was screened.

    Raises:
        DatasetError: dataset.json says it in another form.
    """
    return [row for told in _told(info) for row in told.synthesize.acceptance]


def audits_of(info: Mapping[str, Any], table: pa.Table) -> dict[str, dict[str, Any] | None]:
    """The privacy audit of each model that drew an image of the manifest, by hash; None where there was none.

    Raises:
        DatasetError: dataset.json says it in another form.
    """
    synthetic = table.filter(pc.equal(table.column("origin"), "synthetic"))
    models = sorted(model or UNKNOWN for model in pc.unique(synthetic.column("model")).to_pylist())
    audits = {model: audit for told in _told(info) for model, audit in (told.audit or {}).items()}
    return {model: audits.get(model) for model in models}


def passed(audit: Mapping[str, Any] | None) -> bool:
    """Whether there was an audit, and it says that it was passed."""
    return bool(audit and audit.get("passed"))


def _told(info: Mapping[str, Any]) -> Iterator[_Told]:
    try:
        queue = [_Told.model_validate(info)]
    except ValidationError as error:
        where = ".".join(map(str, error.errors()[0]["loc"]))
        raise DatasetError(f"dataset.json: {where}: {error.errors()[0]['msg']}; synthesize again") from None
    while queue:
        told = queue.pop(0)
        queue += told.inputs
        yield told
