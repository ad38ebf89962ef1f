"""What a generated picture must pass before it becomes a row: whole, like a radiograph, as asked, and nobody's copy."""

from collections.abc import Sequence
from typing import Literal, Protocol

import numpy as np
from pydantic import Field

from synthcxr.conditions import Condition
from synthcxr.config import Config

Check = Literal["broken", "distribution", "condition", "privacy"]


class ScreenConfig(Config):
    """Which checks a picture goes through, in this order; each may be switched off."""

    broken: bool = Field(True, description="not finite, blank or clipped")
    distribution: bool = Field(True, description="features unlike those of real radiographs")
    condition: bool = Field(True, description="the classifier doesn't see what was asked")
    privacy: bool = Field(True, description="nearer to a training image than pictures of other patients are")


class Verdict(Config):
    """What the screen says of one picture: the first check that it fails (none: it passes), and what was measured."""

    failed: Check | None = None
    values: dict[str, float] = {}


class Screen(Protocol):
    """Pictures, uint8 (h, w), and what was asked of each -> a verdict each; the same whatever the batch."""

    def __call__(self, pixels: Sequence[np.ndarray], conditions: Sequence[Condition]) -> list[Verdict]: ...


def open_screen(config: ScreenConfig, model: str | None) -> Screen:
    """The screen of a MODEL folder (None: the embedded one), with the thresholds that it carries."""
    raise NotImplementedError
