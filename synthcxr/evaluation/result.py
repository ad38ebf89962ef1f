"""What an evaluation found, as it stands in result.json: each number with its interval, count, and what to compare."""

from collections.abc import Sequence
from typing import Any, Literal

from synthcxr.config import Config
from synthcxr.evaluation.scores import Direction, Score

Section = Literal["fidelity", "appearance", "diversity", "alignment", "control", "fairness"]
Role = Literal["real", "synthetic", "train", "held_out"]
Against = Literal[
    "real against real", "judge on real images", "pairs of real images", "real images with their own words"
]


class Number(Config):
    """A score, or what it's compared with."""

    value: float
    low: float
    high: float
    n: int

    def __str__(self) -> str:
        return f"{self.value:.3g} [{self.low:.3g}, {self.high:.3g}] n={self.n:,}"


class Line(Config):
    """One number of a result.

    `group` is "all" or a cell such as "sex: female". `reference` is the same quantity of real images alone, at the same
    n where it's a distance; `against` says which.
    """

    section: Section
    name: str
    group: str = "all"
    direction: Direction
    extractor: str
    measured: Number
    reference: Number | None = None
    against: Against | None = None

    def __str__(self) -> str:
        told = f"{self.name} {self.measured}"
        return f"{told}; {self.against} {self.reference}" if self.reference else told


class Input(Config):
    """A dataset that was read: its manifest's hash, how many images of it were taken, and which models made them."""

    role: Role
    name: str
    manifest_sha256: str
    images: int
    patients: int
    models: tuple[str, ...] = ()


class Matrix(Config):
    """The entanglement matrix: rows are what was changed, columns what was measured; see `control.Entanglement`."""

    changed: tuple[str, ...]
    measured: tuple[str, ...]
    effect: tuple[tuple[float, ...], ...]
    pairs: tuple[int, ...]


class Judged(Config):
    """What was found of one synthetic dataset; `left_out` says what couldn't be measured, and why."""

    dataset: Input
    lines: tuple[Line, ...]
    entanglement: Matrix | None
    left_out: tuple[str, ...]


class Result(Config):
    """The content of result.json."""

    schema_version: Literal[1] = 1
    real: Input
    train: Input | None
    judged: tuple[Judged, ...]
    extractor: str
    judge: str | None
    image_text: str | None = None
    size: int
    environment: dict[str, Any]


def number(score: Score) -> Number:
    return Number(value=score.value, low=score.low, high=score.high, n=score.n)


def line(
    section: Section, score: Score, extractor: str, group: str = "all", reference: Score | None = None,
    against: Against | None = None,
) -> Line:  # fmt: skip
    """A line of a score, beside a reference where there is one."""
    return Line(
        section=section, name=score.name, group=group, direction=score.direction, extractor=extractor,
        measured=number(score), reference=number(reference) if reference else None,
        against=against if reference else None,
    )  # fmt: skip


def find(lines: Sequence[Line], name: str, group: str = "all") -> Line | None:
    """The line of a name and group, if there is one."""
    return next((line for line in lines if (line.name, line.group) == (name, group)), None)
