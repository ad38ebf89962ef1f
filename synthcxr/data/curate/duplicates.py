"""Images that a dataset holds more than once, and which of them stays."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from synthcxr.data.curate.fingerprint import Fingerprints
from synthcxr.data.record import Record

# The one that stays: never the training image where a held-out one is its copy.
_PREFERENCE = {"test": 0, "validate": 1, "train": 2}


@dataclass(frozen=True)
class Pair:
    """Two images that are the same, by index, the smaller first.

    Attributes:
        distance: differing bits of the perceptual hashes, of 64.
        similarity: correlation of fine detail, in [-1, 1]; 1 for equal pixels.
    """

    one: int
    other: int
    exact: bool
    distance: int = 0
    similarity: float = 1.0


@dataclass(frozen=True)
class Duplicate:
    """An image that is dropped because a copy of it, `of`, is kept; both by index."""

    index: int
    of: int
    pair: Pair

    @property
    def reason(self) -> Literal["exact duplicate", "near duplicate"]:
        return "exact duplicate" if self.pair.exact else "near duplicate"


def exact_pairs(prints: Fingerprints) -> list[Pair]:
    """Images with equal size, depth and pixels: each of a group with each other one."""
    groups: dict[str, list[int]] = {}
    for index, digest in enumerate(prints.pixels):
        groups.setdefault(digest, []).append(index)
    return [
        Pair(a, b, exact=True) for same in groups.values() for place, a in enumerate(same) for b in same[place + 1 :]
    ]


def choose(records: Sequence[Record], pairs: Sequence[Pair]) -> list[Duplicate]:
    """Which image of each pair goes, so that no pair is left whole, and each that goes has a copy that stays.

    A held-out image is kept before one to train on, then the one with more native pixels, then the earlier one.
    """
    copies: dict[int, list[Pair]] = {}
    for pair in pairs:
        copies.setdefault(pair.one, []).append(pair)
        copies.setdefault(pair.other, []).append(pair)

    def preference(index: int) -> tuple[int, int, int]:
        record = records[index]
        return _PREFERENCE[record.split], -record.native_width * record.native_height, index

    dropped: dict[int, Duplicate] = {}
    for kept in sorted(copies, key=preference):
        if kept in dropped:
            continue
        for pair in sorted(copies[kept], key=lambda pair: (not pair.exact, pair.one, pair.other)):
            index = pair.other if pair.one == kept else pair.one
            dropped.setdefault(index, Duplicate(index, kept, pair))
    return [dropped[index] for index in sorted(dropped)]


def crossing(one: Record, other: Record) -> str | None:
    """What two copies don't have in common: "split", "patient" or "split and patient"; None where they agree."""
    return " and ".join(field for field in ("split", "patient") if getattr(one, field) != getattr(other, field)) or None
