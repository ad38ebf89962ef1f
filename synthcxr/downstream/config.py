"""What `synthcxr downstream` needs; see configs/downstream/."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, field_validator, model_validator

from synthcxr.config import Config
from synthcxr.downstream.labels import known_label
from synthcxr.errors import ConfigError, did_you_mean
from synthcxr.synthesis.config import EngineConfig

Kind = Literal["real", "synthetic", "mixed", "pretrain"]
NAME = r"^[a-z0-9][a-z0-9_-]{0,29}$"


class Arm(Config):
    """What a classifier is trained on: real images, synthetic ones, both in each batch, or one after the other."""

    kind: Kind
    of: str | None = Field(None, description="which of `synthetic`; none: the first")

    @property
    def name(self) -> str:
        """Such as "mixed-balanced"."""
        return self.kind if self.of is None else f"{self.kind}-{self.of}"

    @property
    def real(self) -> bool:
        """Whether real images are trained on."""
        return self.kind != "synthetic"

    @property
    def synthetic(self) -> bool:
        """Whether synthetic images are trained on."""
        return self.kind != "real"


def _as_arm(value: Any) -> Any:
    """ "mixed of balanced" and "mixed" are short for what they say."""
    if not isinstance(value, str):
        return value
    kind, _, of = value.partition(" of ")
    return {"kind": kind, "of": of or None}


class SmallResNet(Config):
    """Widths of a ResNet with fresh weights; the default has 0.3 million parameters."""

    channels: tuple[int, ...] = Field((16, 32, 64, 128), min_length=1, description="at 1/4, 1/8, ... of the size")
    depths: tuple[int, ...] = (1, 1, 1, 1)


class Training(Config):
    """How every classifier is trained, whatever its arm: nothing here knows of arms but the two shares."""

    steps: int = Field(600, ge=2, description="of the optimiser (AdamW), the same for all")
    batch_size: int = Field(32, ge=2)
    learning_rate: float = Field(1e-3, gt=0, description="the highest; falls to zero as a cosine")
    warmup: int = Field(20, ge=0, description="steps")
    weight_decay: float = Field(0.05, ge=0)
    clip: float = Field(1.0, gt=0, description="norm of the gradient")
    synthetic_share: float = Field(
        0.5, gt=0, lt=1, description="of each batch where they're mixed, of the steps where they come first"
    )
    checks: int = Field(
        6, ge=1, description="of validation patients, equally spaced over the steps after synthetic_share"
    )


class Shortcut(Config):
    """A finding and what it's confounded with, so correlated in the real training and validation images."""

    finding: Annotated[str, BeforeValidator(known_label)]
    confounder: Annotated[str, BeforeValidator(known_label)] = Field("AP", description="AP, male or a finding")
    correlation: float = Field(0.95, ge=0, lt=1, description="phi, with both there in half of the images")


class DownstreamConfig(Config):
    """What `synthcxr downstream` needs."""

    real: tuple[Path, ...] = Field(min_length=1, description="DATASETs with training, validation and test patients")
    synthetic: dict[str, Path] = Field(min_length=1, description="DATASETs that a model made, each under a name")
    generator_saw: Literal["all", "none"] | None = Field(
        None, description="which real training patients the generator learned from; the verdict says what that means"
    )
    output: Path
    cache: Path = Field(Path("build/downstream-cache"), description="folder of pixels that were shrunk before")
    arms: tuple[Annotated[Arm, BeforeValidator(_as_arm)], ...] = (
        Arm(kind="real"), Arm(kind="synthetic"), Arm(kind="mixed"), Arm(kind="pretrain"),
    )  # fmt: skip
    labels: tuple[Annotated[str, BeforeValidator(known_label)], ...] = Field(
        (), description="findings, male, AP; none: all with `least` test images that have it and that don't"
    )
    least: int = Field(50, ge=2, description="test images of a label, with it and without")
    fractions: tuple[Annotated[float, Field(gt=0, le=1)], ...] = Field(
        (0.01, 0.05, 0.1, 0.25, 0.5, 1.0), min_length=1, description="of the real training patients, nested"
    )
    multiples: tuple[Annotated[float, Field(gt=0)], ...] = Field(
        (1.0,), min_length=1, description="synthetic images, in numbers of real training images at fraction 1"
    )
    seeds: int = Field(5, ge=1, description="of the weights, of which patients, and of the order of images")
    seed: int = 0
    size: int = Field(128, ge=32, description="pixels a side")
    resnet: SmallResNet = Field(SmallResNet(), description="what is trained where no backbone is given")
    backbone: str | None = Field(
        None, description="an image encoder of transformers: a folder, or a hub id with its revision"
    )
    pretrained: bool = Field(True, description="begin with the backbone's weights; false: with fresh ones")
    training: Training = Training()
    shortcut: Shortcut | None = None
    replicates: int = Field(1000, ge=100, description="of the bootstrap over test patients")
    threads: int = Field(1, ge=1, description="processors a worker, on the CPU; sums may round otherwise with it")
    engine: EngineConfig = EngineConfig()

    def set_of(self, arm: Arm) -> str | None:
        """The name of the synthetic dataset of an arm; None where it has none."""
        return (arm.of or next(iter(self.synthetic))) if arm.synthetic else None

    @field_validator("fractions", "multiples")
    @classmethod
    def _rise(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        return tuple(sorted(set(value)))

    @field_validator("synthetic")
    @classmethod
    def _named(cls, value: Mapping[str, Path]) -> Mapping[str, Path]:
        for name in value:
            if not re.match(NAME, name):
                raise ConfigError(f"synthetic: the name {name!r} must be of small letters, digits, - and _")
        return value

    @model_validator(mode="after")
    def _arms_compare(self) -> "DownstreamConfig":
        names = [arm.name for arm in self.arms]
        if len(set(names)) < len(names) or names.count("real") != 1:
            raise ConfigError(f"arms = {', '.join(names)} must hold 'real' once and none twice")
        for arm in self.arms:
            if arm.of is not None and (arm.of not in self.synthetic or not arm.synthetic):
                hint = did_you_mean(arm.of, self.synthetic)
                raise ConfigError(f"arms: {arm.name}: {arm.of!r} is none of {', '.join(self.synthetic)}{hint}")
        if self.shortcut and self.shortcut.finding == self.shortcut.confounder:
            raise ConfigError("shortcut: finding and confounder must be two different labels")
        return self
