"""What a generated picture must pass before it becomes a row: whole, like a radiograph, as asked, and nobody's copy."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Literal, Protocol

import numpy as np
from pydantic import Field

from synthcxr.conditions import Condition
from synthcxr.config import Config
from synthcxr.errors import ModelError
from synthcxr.model.classifier import Classifier, load_classifier
from synthcxr.synthesis.screen.broken import measure_form
from synthcxr.synthesis.screen.calibration import Calibration, load_calibration
from synthcxr.synthesis.screen.privacy import CopyCheck

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


class CalibratedScreen:
    """A screen by the limits that a model carries.

    Pictures are looked at one by one, so that a verdict is the same to the last bit in any batch.

    Attributes:
        hash: of the calibration that decided; None where no check needed one.
    """

    def __init__(
        self,
        config: ScreenConfig,
        calibration: Calibration | None = None,
        classifier: Classifier | None = None,
        hash: str | None = None,
    ):
        self.config, self.hash = config, hash
        self._calibration, self._classifier = calibration, classifier
        self._copies = CopyCheck(calibration.index) if calibration and config.privacy else None

    def __call__(self, pixels: Sequence[np.ndarray], conditions: Sequence[Condition]) -> list[Verdict]:
        return [self._verdict(*one) for one in zip(pixels, conditions, strict=True)]

    def _verdict(self, pixels: np.ndarray, condition: Condition) -> Verdict:
        """All checks that are on are measured, also after one that fails."""
        failed, values = [], {}

        def note(check: Check, passed: bool, measured: dict[str, float]) -> None:
            # Four digits: further ones differ between processors.
            values.update({name: float(f"{value:.4g}") for name, value in measured.items()})
            if not passed:
                failed.append(check)

        if self.config.broken:
            form = measure_form(pixels)
            note("broken", form.whole, asdict(form))
        if self._classifier and self._calibration:
            readings = self._classifier.read([pixels], batch_size=1)
            if self.config.distribution:
                gaussian = self._calibration.gaussian
                distance = float(gaussian.distance(readings.features)[0])
                note("distribution", distance <= gaussian.limit, {"distance": distance})
            if self.config.condition:
                note("condition", *self._calibration.limits.condition.check(readings, condition))
        if self._copies:
            p = self._copies.p(pixels)
            note("privacy", p > self._copies.index.alpha, {"p_copy": p})
        return Verdict(failed=failed[0] if failed else None, values=values)


def open_screen(config: ScreenConfig, model: str | None) -> Screen:
    """The screen of a MODEL folder (None: the embedded one), with the limits that it carries.

    Raises:
        ModelError: a check that's on needs a calibration or a classifier that the model doesn't hold, or the two don't
            belong together.
    """
    if not (config.distribution or config.condition or config.privacy):
        return CalibratedScreen(config)
    calibration, digest = load_calibration(model)
    if not (config.distribution or config.condition):
        return CalibratedScreen(config, calibration, hash=digest)
    classifier = load_classifier(model)
    if classifier.hash != calibration.limits.classifier:
        raise ModelError("the screen was calibrated with another classifier than the model holds; calibrate it again")
    return CalibratedScreen(config, calibration, classifier, digest)
