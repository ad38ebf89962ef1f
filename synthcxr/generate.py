"""Generator: requests in, pictures out. A picture depends on model, condition, seed and settings alone."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import numpy as np
import torch
from diffusers import DiffusionPipeline
from pydantic import Field
from tqdm import tqdm

from synthcxr.conditions import Condition, to_prompt
from synthcxr.config import Config
from synthcxr.diffusion import image_noise, step_generators
from synthcxr.errors import ModelError
from synthcxr.images import from_float
from synthcxr.model.bases import base_of
from synthcxr.model.folder import Model
from synthcxr.model.guidance import steered
from synthcxr.model.prompts import PromptEmbeddings, embed, rare, understood
from synthcxr.model.sampler import SamplerSettings, build_sampler
from synthcxr.vocabulary import Finding

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
        info = model.info
        self.settings = (settings or SamplerSettings()).settled(info.sampler, info.few_steps, info.quick)
        for name in ("finding_guidance", "keep_level"):
            if getattr(self.settings, name) and not base_of(model.pipeline).guided:
                raise ModelError(f"settings.{name} isn't there in models of this layout; leave it out")
        self._pipeline = model.few_step if self.settings.sampler == "few-step" else model.pipeline
        self._embedded: dict[str, PromptEmbeddings] = {}

    def prompt(self, condition: Condition) -> tuple[str, list[str]]:
        """The canonical prompt the model is told, and the words of the condition that it never saw."""
        kept, missing = self._understood(condition)
        return to_prompt(kept, self.model.info.template), missing

    def _understood(self, condition: Condition) -> tuple[Condition, list[str]]:
        return understood(condition, self.model.info.template, self.model.info.words)

    def rare(self, condition: Condition) -> dict[Finding, int]:
        """Findings of the condition that few training images showed, and how many: the model hardly knows them."""
        return rare(condition, self.model.info.findings)

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
        conditions = [self._understood(request.condition)[0] for request in batch]
        prompts = [to_prompt(condition, self.model.info.template) for condition in conditions]
        pipeline.scheduler = build_sampler(settings.sampler, pipeline.scheduler)
        side = size // pipeline.vae_scale_factor
        seeds = [request.seed for request in batch]
        noise = image_noise(seeds, (base.denoiser_of(pipeline).config.in_channels, side, side))

        guided_steps = settings.guided_steps
        arguments = {**base.arguments, **({"guidance_rescale": settings.rescale} if base.guided else {})}

        def watch(pipeline: DiffusionPipeline, step: int, _timestep: int, tensors: dict) -> dict:
            if stop():
                raise Stopped
            observe(step + 1, tensors["latents"])
            if base.guided and step + 1 == guided_steps < settings.steps:  # from here on without the empty prompt
                pipeline._guidance_scale = 1.0
                tensors |= {name: tensors[name].chunk(2)[1] for name in base.guided}
            return tensors

        with self._steered(conditions):
            images = pipeline(
                **self._embeddings(prompts), latents=noise.to(pipeline._execution_device), height=size, width=size,
                num_inference_steps=settings.steps, guidance_scale=settings.guidance if guided_steps else 1.0,
                output_type="pt", generator=step_generators(seeds), callback_on_step_end=watch,
                callback_on_step_end_tensor_inputs=["latents", *base.guided], **arguments,
            ).images  # fmt: skip
        pixels = from_float(images.float().mean(dim=1).cpu().numpy() * 2 - 1)
        return [
            Generated(image, request, prompt) for image, request, prompt in zip(pixels, batch, prompts, strict=True)
        ]

    def _steered(self, conditions: list[Condition]) -> AbstractContextManager[None]:
        settings = self.settings
        led = [row for row, condition in enumerate(conditions) if condition.present and settings.finding_guidance]
        if not (led or settings.keep_level):
            return nullcontext()
        without = [conditions[row].model_copy(update={"findings": {}}) for row in led]
        unsaid = self._told([to_prompt(condition, self.model.info.template) for condition in without]) if led else None
        return steered(self._pipeline, settings, len(conditions), led, unsaid)

    def _embeddings(self, prompts: list[str]) -> dict[str, torch.Tensor]:
        """The pipeline's arguments for these prompts and the empty one."""
        asked, empty = self._told(prompts), self._told([""] * len(prompts))
        arguments = {"prompt_embeds": asked.tokens, "negative_prompt_embeds": empty.tokens}
        if asked.mask is not None:
            arguments |= {"prompt_attention_mask": asked.mask, "negative_prompt_attention_mask": empty.mask}
        if asked.pooled is not None:
            arguments |= {"pooled_prompt_embeds": asked.pooled, "negative_pooled_prompt_embeds": empty.pooled}
        return arguments

    def _told(self, prompts: list[str]) -> PromptEmbeddings:
        """Each prompt is encoded alone: among others it would come out another by rounding, and with it the picture."""
        alone = [self._embedding(prompt).fields() for prompt in prompts]
        return PromptEmbeddings(**{name: torch.cat([one[name] for one in alone]) for name in alone[0]})

    def _embedding(self, prompt: str) -> PromptEmbeddings:
        found = self._embedded.pop(prompt, None) or embed(self.model.pipeline, [prompt])
        self._embedded[prompt] = found  # the latest stands last
        if len(self._embedded) > REMEMBERED:
            del self._embedded[next(iter(self._embedded))]
        return found
