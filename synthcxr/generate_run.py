"""What `synthcxr generate` does: a config, and pictures in a run folder, each marked as what it is."""

import json
import logging
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from synthcxr.conditions import Condition, parse_prompt, to_prompt
from synthcxr.config import Config
from synthcxr.dicom.write import DicomSettings, Provenance, check_compression, write_dicom
from synthcxr.errors import ConfigError, RunError, shown
from synthcxr.files import write_text
from synthcxr.generate import Generated, Generator, Request
from synthcxr.images import write_png
from synthcxr.model.folder import load_model
from synthcxr.model.prompts import understood
from synthcxr.model.sampler import SamplerSettings
from synthcxr.reports import anonymous
from synthcxr.runs import Run

log = logging.getLogger(__name__)


def without_identifiers(text: str) -> str:
    """What a user typed, as files and logs may hold it; as it is where nothing has to go, else the user is told."""
    kept = anonymous(text)
    if kept != text:
        log.warning("a name, a date or a number of a record was taken out of a prompt, which now reads %r", kept)
    return kept


class GenerateConfig(Config):
    """What `synthcxr generate` needs; see configs/generate/. Prompts and free text lose what names people and days."""

    prompts: tuple[str, ...] = ()
    conditions: tuple[Condition, ...] = Field((), description="what prompts say, in structured form; drawn after them")
    count: int = Field(1, ge=1, description="pictures a prompt or condition")
    seed: int = Field(0, ge=0, lt=2**62, description="of the first picture of each; the next ones count up")
    output: Path
    model: str | None = Field(None, description="folder or hub id with a revision; none: the embedded model")
    settings: SamplerSettings = SamplerSettings()
    format: Literal["png", "dicom"] = "png"
    dicom: DicomSettings = Field(DicomSettings(), description="of the files that format: dicom writes")
    batch_size: int = Field(4, ge=1)
    device: Literal["auto", "cpu"] = "auto"

    @field_validator("prompts")
    @classmethod
    def _anonymous(cls, prompts: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(map(without_identifiers, prompts))

    @field_validator("conditions")
    @classmethod
    def _anonymous_text(cls, conditions: tuple[Condition, ...]) -> tuple[Condition, ...]:
        return tuple(
            one.model_copy(update={"text": without_identifiers(one.text) or None}) if one.text else one
            for one in conditions
        )

    @model_validator(mode="after")
    def _asks_for_something(self) -> "GenerateConfig":
        if not self.prompts and not self.conditions:
            raise ConfigError("nothing to draw: give a prompt, or conditions in the YAML file")
        return self

    def understood(self) -> list[tuple[str, Condition]]:
        """Each prompt, as written, with what it says; a condition comes with the canonical prompt that says it."""
        said = [(prompt, parse_prompt(prompt)) for prompt in self.prompts]
        return said + [(to_prompt(condition), condition) for condition in self.conditions]

    def requests(self) -> list[tuple[str, Request]]:
        """Each picture's prompt and what is asked with it."""
        return [
            (prompt, Request(condition=condition, seed=self.seed + i))
            for prompt, condition in self.understood()
            for i in range(self.count)
        ]


def run(config: GenerateConfig, fresh: bool = False, generator: Generator | None = None) -> list[Path]:
    """Write one PNG or DICOM file a picture, marked as synthetic, and metadata.jsonl (ImageFolder convention); resumes.

    Args:
        generator: one that is loaded already; None loads `config.model`.
    Returns:
        the files, in the order of prompts and seeds.
    Raises:
        ImageError: the compression asked for isn't installed.
        RunError: the folder holds other pictures, or a run of another configuration or model.
    """
    if config.format == "dicom":
        check_compression(config.dicom)
    asked = config.requests()
    suffix = "dcm" if config.format == "dicom" else "png"
    paths = [config.output / f"{number:05d}.{suffix}" for number in range(len(asked))]
    metadata = config.output / "metadata.jsonl"
    if not (config.output / "config.yaml").exists():
        for path in (metadata, *paths):
            if path.exists():
                raise RunError(f"{shown(path)} is there already, and not of this run; give another --output")
    generator = generator or open_generator(config)
    folder = Run.open(config.output, config, "generate", fresh)
    if folder.finished and folder.result["model"] != generator.model.hash:
        raise RunError(f"{shown(config.output)} was made with another model; give another --output or --fresh")
    # Without metadata the pictures may be another model's: a run that was cut off draws its pictures again.
    if not folder.finished or not all(path.exists() for path in paths):
        rows = []
        drawn = generator([request for _, request in asked])
        for path, (prompt, _), generated in zip(paths, asked, drawn, strict=True):
            row = {"file_name": path.name, "prompt": prompt, **provenance(generated, generator)}
            if config.format == "dicom":
                row["sop_instance_uid"] = save_dicom(path, generated, prompt, generator, config.dicom)
            else:
                write_png(path, generated.pixels, row)
            rows.append(row)
        write_text(metadata, "".join(json.dumps(row) + "\n" for row in rows))
        folder.finish({"model": generator.model.hash, "images": len(paths)})
    return paths


def provenance(generated: Generated, generator: Generator) -> dict[str, Any]:
    """What a picture's marks and metadata say: the prompt the model was told, conditions, seed, model, settings."""
    asked = generated.request.condition.model_dump(mode="json")
    return {
        "model_prompt": generated.prompt,
        **{name: asked[name] for name in ("age", "sex", "race", "view", "findings", "text")},
        "seed": generated.request.seed,
        "model": generator.model.hash,
        "model_name": generator.model.info.name,
        "settings": generator.settings.model_dump(mode="json"),
        "origin": "synthetic",
    }


def save_dicom(path: Path, generated: Generated, prompt: str, generator: Generator, settings: DicomSettings) -> str:
    """One picture as a DICOM file, whole or not at all; returns its SOP Instance UID."""
    info = generator.model.info
    # A file that says LATERAL is hung as one: the header holds what the model was told, not words it never saw.
    told, _ = understood(generated.request.condition, info.template, info.words)
    origin = Provenance(
        prompt=prompt, model_prompt=generated.prompt, seed=generated.request.seed,
        model=generator.model.hash, model_name=info.name,
        sampler=json.dumps(generator.settings.model_dump(mode="json")),
    )  # fmt: skip
    return write_dicom(path, generated.pixels, told, origin, settings)


def open_generator(config: GenerateConfig) -> Generator:
    """The generator a configuration asks for, its model loaded."""
    return Generator(load_model(config.model, config.device), config.settings, config.batch_size)
