"""Every decision of a curation, a row an image: curation.parquet."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import pyarrow as pa

Reason = Literal["kept", "exact duplicate", "near duplicate", "redundant", "patient cap", "balance"]

SCHEMA = pa.schema(
    [pa.field(name, pa.string(), nullable=False) for name in ("id", "split", "patient", "source", "reason")]
    + [pa.field("kept", pa.bool_(), nullable=False), pa.field("weight", pa.float64(), nullable=False)]
    + [pa.field(name, pa.string()) for name in ("pixels_sha256", "perceptual_hash", "duplicate_of")]
    + [pa.field("duplicate_bits", pa.int32()), pa.field("duplicate_similarity", pa.float64())]
    + [pa.field("duplicate_crosses", pa.string()), pa.field("duplicate_labels_differ", pa.bool_())]
    + [pa.field("cluster", pa.int32()), pa.field("spacing", pa.float64())]
    + [pa.field(name, pa.string()) for name in ("rare", "stand_in")]
    + [pa.field("balance_factor", pa.float64())]
)


@dataclass(slots=True)
class Decision:
    """What becomes of one image, filled in step by step; what a step didn't look at stays None.

    Attributes:
        weight: how many images it counts for; 0 where it's dropped.
        pixels_sha256: of size, depth and decoded pixels.
        perceptual_hash: 16 hex digits.
        duplicate_of: id of the copy that is kept.
        duplicate_bits: of 64, in which their perceptual hashes differ.
        duplicate_similarity: correlation of their fine detail.
        duplicate_crosses: "split", "patient" or "split and patient", where the copies differ in that.
        duplicate_labels_differ: whether they have other findings.
        cluster: number of the cluster it was compared in.
        spacing: cosine distance to the nearest image that came before it there; infinite for the first.
        rare: the finding for which it was kept first.
        stand_in: id of the nearest kept image that stands for it; its own where it's kept.
        balance_factor: what balancing multiplied its weight by.
    """

    id: str
    split: str
    patient: str
    source: str
    reason: Reason = "kept"
    weight: float = 1.0
    pixels_sha256: str | None = None
    perceptual_hash: str | None = None
    duplicate_of: str | None = None
    duplicate_bits: int | None = None
    duplicate_similarity: float | None = None
    duplicate_crosses: str | None = None
    duplicate_labels_differ: bool | None = None
    cluster: int | None = None
    spacing: float | None = None
    rare: str | None = None
    stand_in: str | None = None
    balance_factor: float | None = None

    @property
    def kept(self) -> bool:
        return self.reason == "kept"

    def drop(self, reason: Reason) -> None:
        self.reason, self.weight = reason, 0.0

    def why(self) -> str:
        """The reason in a line, with the image it's about."""
        if self.duplicate_of is not None:
            crosses = f", of another {self.duplicate_crosses}" if self.duplicate_crosses else ""
            return f"{self.reason} of {self.duplicate_of} ({self.duplicate_similarity:.3f}{crosses})"
        stands = self.reason in ("redundant", "patient cap") and self.stand_in is not None
        return f"{self.reason}: {self.stand_in} stands for it" if stands else self.reason


def to_table(decisions: Sequence[Decision]) -> pa.Table:
    """One row an image, in the order given."""
    columns = {name: [getattr(decision, name) for decision in decisions] for name in SCHEMA.names}
    return pa.table(columns, schema=SCHEMA)
