"""What an experiment found, as it stands in result.json."""

from typing import Any, Literal

from synthcxr.config import Config
from synthcxr.evaluation.result import Input, Number
from synthcxr.evaluation.scores import Direction

Family = Literal["macro AUROC", "AUROC by label", "underdiagnosis gap", "uncorrelated AUROC"]


class Label(Config):
    """A label and how many images of each split have it, of how many where it's known."""

    name: str
    there: dict[str, int]
    known: dict[str, int]


class Point(Config):
    """One number of one arm at one fraction and multiple: mean over seeds with interval, and each seed's."""

    arm: str
    fraction: float
    multiple: float
    metric: str
    label: str = "macro"
    direction: Direction
    measured: Number
    seeds: tuple[float, ...]


class Comparison(Config):
    """An arm less real data alone, at the same fraction and seeds; `p_holm` is adjusted in its family."""

    family: Family
    arm: str
    fraction: float
    multiple: float
    metric: str
    label: str = "macro"
    direction: Direction
    difference: Number
    p: float
    p_holm: float

    @property
    def shown(self) -> bool:
        """Whether the difference is more than chance, in the family as a whole."""
        return self.p_holm < 0.05

    @property
    def better(self) -> bool:
        """Whether the arm does better than real data alone, as far as the mean says."""
        return self.difference.value > 0 if self.direction == "higher" else self.difference.value < 0


class Save(Config):
    """How many times as many real patients real data alone would need; see inference.label_saving."""

    arm: str
    fraction: float
    multiple: float
    factor: float
    low: float
    high: float
    bound: Literal["at least", "at most"] | None


class FourCell(Config):
    """Of one cell of finding x confounder: the share of its test images that is called rightly, mean over seeds."""

    arm: str
    fraction: float
    multiple: float
    finding: bool
    confounder: bool
    right: Number


class Planted(Config):
    """The shortcut that was planted, and what came of it."""

    finding: str
    confounder: str
    correlation: float
    counts: dict[str, tuple[int, int, int, int]]
    cells: tuple[FourCell, ...]


class Protocol(Config):
    """What all classifiers have in common, asserted when the result was made."""

    network: str
    parameters: int
    size: int
    steps: int
    batch_size: int
    augmentation: str
    schedule: str
    selection: str
    synthetic_share: float
    initial_weights: dict[int, str]
    augmentation_draws: dict[int, str]
    classifiers: int


class DownstreamResult(Config):
    """The content of result.json. `worst` names the group with most underdiagnosis, by arm, fraction and multiple."""

    schema_version: Literal[1] = 1
    inputs: tuple[Input, ...]
    labels: tuple[Label, ...]
    patients: dict[str, int]
    arms: tuple[str, ...]
    fractions: tuple[float, ...]
    multiples: tuple[float, ...]
    seeds: int
    protocol: Protocol
    points: tuple[Point, ...]
    comparisons: tuple[Comparison, ...]
    savings: tuple[Save, ...]
    worst: dict[str, str]
    shortcut: Planted | None
    verdict: tuple[str, ...]
    left_out: tuple[str, ...]
    environment: dict[str, Any]
