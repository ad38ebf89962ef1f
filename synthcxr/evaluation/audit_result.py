"""What an audit found, as it stands in result.json."""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from synthcxr.config import Config
from synthcxr.evaluation.result import Input, Number, number
from synthcxr.evaluation.scores import Direction, Score


class Named(Number):
    """A number with its name and which way is better."""

    name: str
    direction: Direction


class Suspected(Config):
    """A synthetic image on the list of suspects, and the training image that it's near to, by their ids."""

    synthetic: str
    train: str
    features: str
    p: float


class AuditResult(Config):
    """The content of an audit's result.json.

    `excess` is the excess copy rate by all feature sets together; `fresh` the range that the flagged share of as many
    fresh real images keeps to; `listable` the fewest copies that the list of suspects can name; `remarks` what feature
    sets say in words (feature_set.SetAudit.remark).
    """

    schema_version: Literal[1] = 1
    failures: tuple[str, ...]
    inputs: tuple[Input, ...]
    model: str | None
    alpha: float
    excess: Named
    fresh: tuple[float, float]
    listable: int
    held_out_patients: int
    numbers: tuple[Named, ...]
    suspects: tuple[Suspected, ...]
    extractors: tuple[str, ...]
    environment: dict[str, Any]
    remarks: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        return not self.failures


@dataclass(frozen=True, eq=False)
class Pictured:
    """A suspect with its pixels and those of the training image, uint8 (h, w)."""

    suspect: Suspected
    synthetic: np.ndarray
    train: np.ndarray


def named(score: Score) -> Named:
    return Named(name=score.name, direction=score.direction, **number(score).model_dump())
