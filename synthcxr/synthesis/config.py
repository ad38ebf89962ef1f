"""What `synthcxr synthesize` needs."""

import json
import re
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from synthcxr.config import Config
from synthcxr.data.record import Split
from synthcxr.errors import ConfigError
from synthcxr.model.precision import Precision
from synthcxr.model.sampler import SamplerSettings
from synthcxr.synthesis.plan.rows import PlanConfig
from synthcxr.synthesis.screen import ScreenConfig

EMBEDDED_LICENCE = "CC BY 3.0"


class EngineConfig(Config):
    """Who does the work; nothing here changes a byte of what comes out on the same kind of processor."""

    kind: Literal["local", "ray"] = Field("local", description="processes of this machine, or actors of a Ray cluster")
    workers: int | None = Field(
        None,
        ge=1,
        description="each with a model of its own; none: one a GPU, else as many as there are processors for",
    )
    devices: tuple[str, ...] = Field((), description="local: such as cpu or cuda:1, in turn; none: all GPUs, else cpu")
    address: str | None = Field(None, description="ray: of a running cluster; none: RAY_ADDRESS, else one is started")
    gpus: float = Field(0, ge=0, description="ray: GPUs a worker")


class SynthesizeConfig(Config):
    """What `synthcxr synthesize` needs; see configs/synthesize/."""

    plan: PlanConfig
    output: Path
    model: str | None = Field(None, description="folder or hub id with a revision; none: the embedded model")
    model_hash: str | None = Field(None, description="refuse a model with another hash")
    seed: int = Field(0, ge=0, lt=2**63)
    settings: SamplerSettings = SamplerSettings()
    precision: Precision = Field(
        "float32", description="auto: bfloat16 where it's faster here; a run goes on where that is the same"
    )
    batch_size: int = Field(16, ge=1, description="pictures drawn at once; they change by rounding with it")
    threads: int = Field(1, ge=1, description="processors a worker, on the CPU; sums may round otherwise with it")
    shard_rows: int = Field(256, ge=1, description="pictures a shard: what an interruption may cost each worker")
    screen: ScreenConfig | None = Field(ScreenConfig(), description="null: pictures go unscreened")
    screen_hash: str | None = Field(None, description="refuse a screen (calibration and classifier) with another hash")
    retries: int = Field(2, ge=0, le=1000, description="other seeds for a picture that doesn't pass")
    split: Split = Field("train", description="that all rows are of")
    licence: str = Field(EMBEDDED_LICENCE, min_length=1, description="of the pictures; by default the embedded model's")
    engine: EngineConfig = EngineConfig()
    part: str | None = Field(None, description="such as 3/8: the third of eight equal ranges of shards, and no more")

    def told(self) -> dict[str, Any]:
        """All that decides the bytes of the images, and is told of them: names of folders stay out."""
        paths = {"dataset": True, "file": True}
        exclude = {"output": True, "model": True, "engine": True, "part": True, "plan": {**paths, "of": paths}}
        return self.model_dump(mode="json", exclude=exclude)

    @property
    def identity(self) -> str:
        """sha256 of `told`; it says which run it is once the hashes are filled in (run.pinned_config)."""
        return sha256(json.dumps(self.told(), sort_keys=True).encode()).hexdigest()

    @property
    def row_name(self) -> str:
        """What ids begin with: those of other configs differ, so that synthetic datasets may be put together."""
        return f"syn-{self.identity[:8]}"

    @field_validator("part")
    @classmethod
    def _is_a_share(cls, value: str | None) -> str | None:
        match = re.fullmatch(r"(\d+)/(\d+)", value or "1/1")
        if not match or not 1 <= int(match[1]) <= int(match[2]):
            raise ConfigError(f"part = {value!r} must be i/n with 1 <= i <= n")
        return value

    @model_validator(mode="after")
    def _has_a_licence(self) -> "SynthesizeConfig":
        if self.model is not None and "licence" not in self.model_fields_set:
            raise ConfigError(
                "licence is missing; a model other than the embedded one says what its pictures come under"
            )
        return self
