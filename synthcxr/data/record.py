"""One image of a dataset: the row of its manifest, typed."""

import json
from collections.abc import Iterator
from functools import lru_cache
from typing import Any, Literal, get_args

import pyarrow as pa
from pydantic import Field

from synthcxr.conditions import Condition, FindingState
from synthcxr.config import Config
from synthcxr.errors import DatasetError
from synthcxr.vocabulary import Finding

Split = Literal["train", "validate", "test"]
Origin = Literal["real", "synthetic"]
SPLITS: tuple[str, ...] = get_args(Split)
ID_PATTERN = r"^[A-Za-z0-9_-]{1,90}$"
SHARD_PATTERN = r"^[0-9]{5,}\.tar$"

_CONDITION_FIELDS = ("age", "sex", "race", "view", "text")


class Record(Config):
    """What the manifest says of one image.

    `offset` and `size` are bytes in the shard, so that the PNG is `shard[offset:offset + size]`. `width` and `height`
    are pixels as stored, `native_width` and `native_height` those of the file that was read, the bound on real detail.
    `sampler` and `screen` are JSON; they are set for synthetic images alone, as `seed` and `model` are. `weight` says
    how many images of an uncurated collection this one counts for.
    """

    id: str = Field(pattern=ID_PATTERN)
    shard: str = Field(pattern=SHARD_PATTERN)
    offset: int = Field(ge=0)
    size: int = Field(gt=0)
    sha256: str
    width: int = Field(gt=0)
    height: int = Field(gt=0)
    bits: Literal[8, 16]
    native_width: int = Field(gt=0)
    native_height: int = Field(gt=0)
    patient: str
    study: str
    split: Split
    origin: Origin
    source: str
    licence: str
    condition: Condition = Condition()
    report: str | None = None
    prompt: str | None = None
    seed: int | None = None
    model: str | None = None
    sampler: str | None = None
    screen: str | None = None
    weight: float = Field(1.0, gt=0, allow_inf_nan=False)

    @property
    def present(self) -> set[Finding]:
        """Findings that are there, "No Finding" left out."""
        return self.condition.present

    def sidecar(self) -> str:
        """JSON that lies beside the image in the shard: all but where that is."""
        return self.model_dump_json(exclude={"shard", "offset", "size"}, exclude_none=True)

    def to_row(self) -> dict[str, Any]:
        """The flat row of the manifest (see SCHEMA); the findings are one column of compact JSON."""
        row = {name: getattr(self, name) for name in type(self).model_fields if name != "condition"}
        row |= {name: getattr(self.condition, name) for name in _CONDITION_FIELDS}
        return row | {"findings": findings_to_json(self.condition.findings)}


SCHEMA = pa.schema(
    [pa.field(name, pa.string(), nullable=False) for name in ("id", "shard")]
    + [pa.field(name, pa.int64(), nullable=False) for name in ("offset", "size")]
    + [pa.field("sha256", pa.string(), nullable=False)]
    + [
        pa.field(name, pa.int32(), nullable=False)
        for name in ("width", "height", "bits", "native_width", "native_height")
    ]
    + [
        pa.field(name, pa.string(), nullable=False)
        for name in ("patient", "study", "split", "origin", "source", "licence")
    ]
    + [pa.field("age", pa.int32())]
    + [pa.field(name, pa.string()) for name in ("sex", "race", "view", "text", "findings", "report", "prompt")]
    + [pa.field("seed", pa.int64())]
    + [pa.field(name, pa.string()) for name in ("model", "sampler", "screen")]
    + [pa.field("weight", pa.float64(), nullable=False)]
)


def records_of(table: pa.Table) -> Iterator[Record]:
    """The records of a manifest whose schema was checked.

    Built without validation, which would take longer than reading the manifest; only findings are parsed.

    Raises:
        DatasetError: a findings column that isn't what `Record.to_row` writes.
    """
    plain = [name for name in Record.model_fields if name != "condition"]
    columns = {name: table.column(name).to_pylist() for name in (*plain, *_CONDITION_FIELDS, "findings")}
    for values in zip(*columns.values(), strict=True):
        row = dict(zip(columns, values, strict=True))
        # A copy, since the parsed findings of equal rows are shared by the cache.
        findings = dict(_findings_from_json(row.pop("findings")))
        fields = {name: row.pop(name) for name in _CONDITION_FIELDS}
        yield Record.model_construct(**row, condition=Condition.model_construct(findings=findings, **fields))


def findings_to_json(findings: dict[Finding, FindingState]) -> str | None:
    """`{"Pleural Effusion": {"side": "right", "state": "present"}}`, keys unknown left out; None for no findings."""
    if not findings:
        return None
    plain = {finding.value: state.model_dump(exclude_none=True) for finding, state in findings.items()}
    return json.dumps(plain, separators=(",", ":"))


@lru_cache(maxsize=4096)
def _findings_from_json(text: str | None) -> dict[Finding, FindingState]:
    if text is None:
        return {}
    try:
        return Condition(findings=json.loads(text)).findings
    except ValueError as error:
        raise DatasetError(f"findings {text[:80]!r} must be JSON of findings to states ({error})") from error
