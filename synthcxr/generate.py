"""Generator: requests in, pictures out. A picture depends on model, condition, seed and settings alone."""

import json
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from diffusers import DiffusionPipeline
from pydantic import Field, field_validator, model_validator
from tqdm import tqdm

from synthcxr.conditions import Condition, parse_prompt, to_prompt
from synthcxr.config import Config
from synthcxr.dicom.write import DicomSettings, Provenance, check_compression, write_dicom
from synthcxr.diffusion import image_noise, step_generators
from synthcxr.errors import ConfigError, RunError, shown
from synthcxr.files import write_text
from synthcxr.images import from_float, write_png
from synthcxr.model.bases import base_of
from synthcxr.model.folder import Model, load_model
from synthcxr.model.prompts import PromptEmbeddings, embed, understood
from synthcxr.model.sampler import SamplerSettings, build_sampler
from synthcxr.reports import anonymous
from synthcxr.runs import Run
from synthcxr.vocabulary import Finding

log = logging.getLogger(__name__)

RARE = 100  # training images of a finding, below which a user is told
REMEMBERED = 256  # prompts whose embeddings are kept: of one after the other that asks for the same


class Request(Config):
    """One picture that is asked for."""

    condition: Condition = Condition()
    seed: int = Field(0, ge=0, lt=2**63)


@dataclass(frozen=True)
class Generated:
    """One picture: uint8 (resolution, resolution), what was asked, and the prompt that the model was told."""

    pixels: np.ndarray
    request: Request
    prompt: str


class Stopped(Exception):
    """The caller's `stop` said so."""


class Generator:
    """Turns requests into pictures, in order, in batches of any size with the same result.

    Args:
        model: from `load_model`.
        settings: what isn't given is as the model's own say.
        batch_size: pictures drawn at once; memory grows with it, the pictures don't change.
    """

    def __init__(self, model: Model, settings: SamplerSettings | None = None, batch_size: int = 4):
        self.model, self.batch_size = model, batch_size
        self.settings = (settings or SamplerSettings()).settled(model.info.sampler, model.info.few_steps)
        self._pipeline = model.few_step if self.settings.sampler == "few-step" else model.pipeline
        self._embedded: dict[str, PromptEmbeddings] = {}

    def prompt(self, condition: Condition) -> tuple[str, list[str]]:
        """The canonical prompt the model is told, and the words of the condition that it never saw."""
        info = self.model.info
        kept, missing = understood(condition, info.template, info.words)
        return to_prompt(kept, info.template), missing

    def rare(self, condition: Condition) -> dict[Finding, int]:
        """Findings of the condition that few training images showed, and how many: the model hardly knows them."""
        counts = self.model.info.findings
        asked = [finding for finding, state in condition.findings.items() if state.state == "present"]
        return {f: counts.get(f, 0) for f in asked if counts.get(f, 0) < RARE} if counts is not None else {}

    def __call__(
        self, requests: Sequence[Request], progress: bool = True, stop: Callable[[], bool] = lambda: False,
        observe: Callable[[int, torch.Tensor], None] = lambda step, latents: None,
    ) -> Iterator[Generated]:  # fmt: skip
        """Yield one picture a request, in order.

        Args:
            stop: asked at each step; once it's true, no more is drawn.
            observe: told the latents (b, channels, side, side) of each batch after each step, counted from 1.

        Raises:
            Stopped: `stop` was true.
        """
        requests = list(requests)
        with tqdm(total=len(requests), desc="generate", unit="image", disable=not progress or not requests) as bar:
            for start in range(0, len(requests), self.batch_size):
                batch = requests[start : start + self.batch_size]
                for generated in self._draw(batch, stop, observe):
                    bar.update()
                    yield generated

    @torch.inference_mode()
    def _draw(
        self, batch: list[Request], stop: Callable[[], bool], observe: Callable[[int, torch.Tensor], None]
    ) -> list[Generated]:
        pipeline, settings, size = self._pipeline, self.settings, self.model.info.resolution
        base = base_of(pipeline)
        prompts = [self.prompt(request.condition)[0] for request in batch]
        pipeline.scheduler = build_sampler(settings.sampler, pipeline.scheduler)
        side = size // pipeline.vae_scale_factor
        seeds = [request.seed for request in batch]
        noise = image_noise(seeds, (base.denoiser_of(pipeline).config.in_channels, side, side))

        guided = settings.guided_steps
        arguments = {**base.arguments, **({"guidance_rescale": settings.rescale} if base.guided else {})}

        def watch(pipeline: DiffusionPipeline, step: int, _timestep: int, tensors: dict) -> dict:
            if stop():
                raise Stopped
            observe(step + 1, tensors["latents"])
            if base.guided and step + 1 == guided < settings.steps:  # from here on without the empty prompt
                pipeline._guidance_scale = 1.0
                tensors |= {name: tensors[name].chunk(2)[1] for name in base.guided}
            return tensors

        images = pipeline(
            **self._embeddings(prompts), latents=noise.to(pipeline._execution_device), height=size, width=size,
            num_inference_steps=settings.steps, guidance_scale=settings.guidance if guided else 1.0,
            output_type="pt", generator=step_generators(seeds), callback_on_step_end=watch,
            callback_on_step_end_tensor_inputs=["latents", *base.guided], **arguments,
        ).images  # fmt: skip
        pixels = from_float(images.float().mean(dim=1).cpu().numpy() * 2 - 1)
        return [
            Generated(image, request, prompt) for image, request, prompt in zip(pixels, batch, prompts, strict=True)
        ]

    def _embeddings(self, prompts: list[str]) -> dict[str, torch.Tensor]:
        """The pipeline's arguments for these prompts and the empty one."""
        asked, empty = ([self._embedding(prompt) for prompt in said] for said in (prompts, [""] * len(prompts)))
        arguments = {
            "prompt_embeds": torch.cat([one.tokens for one in asked]),
            "negative_prompt_embeds": torch.cat([one.tokens for one in empty]),
        }
        if asked[0].mask is not None:
            arguments["prompt_attention_mask"] = torch.cat([one.mask for one in asked])
            arguments["negative_prompt_attention_mask"] = torch.cat([one.mask for one in empty])
        if asked[0].pooled is not None:
            arguments["pooled_prompt_embeds"] = torch.cat([one.pooled for one in asked])
            arguments["negative_pooled_prompt_embeds"] = torch.cat([one.pooled for one in empty])
        return arguments

    def _embedding(self, prompt: str) -> PromptEmbeddings:
        """Each prompt is encoded alone: among others it would come out another by rounding, and with it the picture."""
        found = self._embedded.pop(prompt, None) or embed(self.model.pipeline, [prompt])
        self._embedded[prompt] = found  # the latest stands last
        if len(self._embedded) > REMEMBERED:
            del self._embedded[next(iter(self._embedded))]
        return found


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
