"""The stage that retrains a base: latents and prompts from their caches, noise from each sample's own generator."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from accelerate import Accelerator
from diffusers import DiffusionPipeline
from torch import nn

from synthcxr.conditions import Condition
from synthcxr.data.corpus import Corpus
from synthcxr.diffusion import noised
from synthcxr.generate import Generator, Request, SamplerSettings
from synthcxr.images import contact_sheet
from synthcxr.model.bases import PromptEmbeddings
from synthcxr.model.folder import Model, ModelInfo
from synthcxr.model.objective import objective_of, scheduler_for
from synthcxr.train.ahead import Ahead
from synthcxr.train.base_module import build_module, trains_text
from synthcxr.train.batches import batch_items, share, step_rng
from synthcxr.train.cache import Rows
from synthcxr.train.config import TrainConfig
from synthcxr.train.denoiser import SHEET_CONDITIONS, shown_findings
from synthcxr.train.latents import cached_latents, moments, sampled
from synthcxr.train.parallel import divides
from synthcxr.train.wordings import Wordings, cached_embeddings, embeddings, wordings_of

VALIDATION_BATCH = 8
READERS = 4  # of images that aren't cached
Place = tuple[int, int, int]  # step, place among the processes and their parts of a batch, how many there are


@dataclass(frozen=True, eq=False)
class Samples:
    """What a step is computed from, drawn and read on the processor.

    Attributes:
        images: (b,) indices.
        moments: (b, 2 * channels, h, w) of latents; None where pixels are encoded in the step.
        pixels, augmentation: uint8 (b, h, w) and (b, 5), else None.
        prompts: their embeddings, or themselves.
        times: (b,), as the objective has them.
        sizes: (b, 6), see bases.Base.predict.
        draws: standard normal (b, 2, channels, h, w): for the latents, and the noise.
    """

    images: np.ndarray
    moments: torch.Tensor | None
    pixels: np.ndarray | None
    augmentation: np.ndarray | None
    prompts: PromptEmbeddings | list[str]
    times: torch.Tensor
    sizes: torch.Tensor
    draws: torch.Tensor


class BaseStage:
    """What the loop asks of a stage; see loop.Stage."""

    name = "base"

    def __init__(
        self, config: TrainConfig, train: Corpus, validation: Corpus, pipeline: DiffusionPipeline,
        accelerator: Accelerator,
    ):  # fmt: skip
        self.config, self.settings = config, config.base
        self.train, self.validation, self.pipeline, self.autocast = train, validation, pipeline, accelerator.autocast
        settings = self.settings
        repeats = [np.repeat(train.sharp, config.sharp_repeats - 1), np.repeat(train.ill, config.finding_repeats - 1)]
        self.items = np.concatenate([np.arange(len(train.records)), *repeats])
        rng = np.random.default_rng(config.seed)
        self.checked = rng.permutation(len(validation.records))[: settings.validation_images]
        pipeline.scheduler = scheduler_for(
            pipeline.scheduler, settings.prediction, settings.zero_terminal_snr, settings.flow_shift
        )
        self.objective = objective_of(pipeline.scheduler, settings.min_snr)
        self._cache(accelerator)
        half = accelerator.mixed_precision == "bf16"
        self.module = build_module(pipeline, settings, config.seed, half)
        if not divides(accelerator):  # only contiguous weights can be
            self.module.denoiser.to(memory_format=torch.channels_last)  # convolutions are faster so
        self._readers = ThreadPoolExecutor(READERS) if self.live else None
        self._ahead = Ahead(self.batch, self._following)

    def _cache(self, accelerator: Accelerator) -> None:
        """Encode what is encoded once, on the device; then only what is needed in each step stays there."""
        config, settings, cache = self.config, self.settings, self.config.output / "cache"
        self.wordings, self.checked_wordings = (
            wordings_of(corpus.records, settings, config.seed, self.pipeline, count)
            for corpus, count in ((self.train, settings.wordings), (self.validation, 1))
        )
        frozen = [part for part in self.pipeline.components.values() if isinstance(part, nn.Module)]
        for part in frozen:
            part.requires_grad_(False).eval()
        self.vae = self.pipeline.vae.to(accelerator.device)
        self.live, variants = settings.latents == "live", settings.variants
        self.latents = (
            None if self.live else cached_latents(cache, self.train, variants, config.seed, self.vae, accelerator)
        )
        self.checked_latents = cached_latents(cache, self.validation, 1, config.seed, self.vae, accelerator)
        self.latent_shape = self._latent_shape()
        if not self.live:
            self.vae.to("cpu")
        self.told = self.checked_told = None
        if not trains_text(settings):
            self.pipeline.to(accelerator.device)
            self.told, self.checked_told = (
                cached_embeddings(cache, wordings, self.pipeline, accelerator)
                for wordings in (self.wordings, self.checked_wordings)
            )
            self.pipeline.to("cpu")

    def _latent_shape(self) -> tuple[int, int, int]:
        twice, height, width = self.checked_latents.fetch([0])["moments"].shape[1:]
        return twice // 2, height, width

    def sample_ids(self, step: int) -> list[str]:
        """Ids of the images of a step, for error messages."""
        return [self.train.records[index].id for index in self._batch(step)]

    def _batch(self, step: int) -> np.ndarray:
        return batch_items(self.items, self.config.seed, step, self.settings.batch_size)

    def loss(self, module: nn.Module, step: int, rank: int, processes: int, device: torch.device) -> torch.Tensor:
        """Mean weighted error over this process's part of the batch of one step."""
        errors, _ = self._errors(module, self._ahead.take((step, rank, processes)), device)
        return errors.mean()

    def _following(self, place: Place) -> Place:
        """What this process computes next: another part of the same step, or the first one of the step after."""
        step, rank, processes = place
        parts = self.settings.accumulate
        return (step, rank + 1, processes) if (rank + 1) % parts else (step + 1, rank + 1 - parts, processes)

    def batch(self, place: Place) -> Samples:
        """One process's part of the batch of one step.

        All that's drawn for a sample depends on the seed, the step and its place in the batch alone.
        """
        step, rank, processes = place
        settings, seed = self.settings, self.config.seed
        batch = self._batch(step)
        rngs = [step_rng(seed, f"sample/{place}", step) for place in range(rank, len(batch), processes)]
        indices = share(batch, rank, processes)
        dropped = [rng.random() < settings.caption_dropout for rng in rngs]
        said = [int(rng.integers(0, settings.wordings)) for rng in rngs]
        prompts = [0 if d else int(self.wordings.rows[i, w]) for i, w, d in zip(indices, said, dropped, strict=True)]
        variants = [int(rng.integers(0, settings.variants)) for rng in rngs]
        told = pixels = augmentation = None
        if self.live:
            pixels = np.stack(list(self._readers.map(self.train.pixels.__getitem__, map(int, indices))))
            augmentation = np.stack([rng.random(5) for rng in rngs])
        else:
            rows = [int(i) * settings.variants + k for i, k in zip(indices, variants, strict=True)]
            told = torch.from_numpy(self.latents.fetch(rows)["moments"])
        times = self._times(len(batch), step_rng(seed, "times", step))[rank::processes]
        return Samples(
            indices, told, pixels, augmentation, self._told(self.wordings, self.told, prompts), times,
            self._sizes(self.train.native[indices]), self._draws(rngs),
        )  # fmt: skip

    def _times(self, count: int, rng: np.random.Generator) -> torch.Tensor:
        times = self.objective.times(torch.from_numpy(rng.random(count)))
        return times[torch.from_numpy(rng.permutation(count))]

    def _told(self, wordings: Wordings, rows: Rows | None, prompts: Sequence[int]) -> PromptEmbeddings | list[str]:
        return [wordings.prompts[i] for i in prompts] if rows is None else embeddings(rows, prompts)

    def _draws(self, rngs: Sequence[np.random.Generator]) -> torch.Tensor:
        """(b, 2, channels, h, w): for the latents, and the noise, all of a channel's shifted by the offset."""
        channels, *shape = self.latent_shape
        draws = np.stack([rng.standard_normal((2, channels, *shape), dtype=np.float32) for rng in rngs])
        shifts = np.stack([rng.standard_normal((channels, 1, 1), dtype=np.float32) for rng in rngs])
        draws[:, 1] += np.float32(self.settings.noise_offset) * shifts
        return torch.from_numpy(draws)

    def _errors(self, module: nn.Module, own: Samples, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
        """Weighted and plain mean squared error for each image, (b,)."""
        told = moments(self.vae, own.pixels, own.augmentation) if own.moments is None else own.moments
        latents, noise = (
            sampled(told.to(device).float(), own.draws[:, 0].to(device), self.vae),
            own.draws[:, 1].to(device),
        )
        alpha, sigma = (part.to(device) for part in self.objective.levels(own.times))
        noisy = noised(latents, noise, alpha, sigma).contiguous(memory_format=torch.channels_last)
        prompts = own.prompts if isinstance(own.prompts, list) else own.prompts.to(device)
        prediction = module(noisy, own.times.to(device), prompts, own.sizes.to(device)).float()
        plain = (prediction - self.objective.target(latents, noise, alpha, sigma)).square().mean(dim=(1, 2, 3))
        return plain * self.objective.weight(alpha, sigma), plain

    def _sizes(self, native: np.ndarray) -> torch.Tensor:
        """Height and width, (b, 6): native, of the crop's offset, wanted (SDXL's micro-conditions)."""
        wanted, zeros = np.full_like(native, self.config.resolution), np.zeros_like(native)
        return torch.from_numpy(np.stack([native, native, zeros, zeros, wanted, wanted], axis=1)).float()

    @torch.no_grad()
    def validate(self, module: nn.Module, device: torch.device) -> dict[str, float]:
        """Mean errors on held-out patients, with the same noise, times and full prompts each time."""
        weighted, plain = [], []
        for number, start in enumerate(range(0, len(self.checked), VALIDATION_BATCH)):
            part = self.checked[start : start + VALIDATION_BATCH]
            rngs = [step_rng(self.config.seed, f"validation/{index}", 0) for index in part]
            told = torch.from_numpy(self.checked_latents.fetch(part)["moments"])
            prompts = self._told(self.checked_wordings, self.checked_told, self.checked_wordings.rows[part, 0])
            times = self._times(len(part), step_rng(self.config.seed, "validation times", number))
            sizes = self._sizes(self.validation.native[part])
            with self.autocast():
                errors = self._errors(
                    module, Samples(part, told, None, None, prompts, times, sizes, self._draws(rngs)), device
                )
            weighted += errors[0].tolist()
            plain += errors[1].tolist()
        return {"loss": float(np.mean(weighted)), "mse": float(np.mean(plain)), "images": float(len(plain))}

    def sheet(self, module: nn.Module, device: torch.device) -> np.ndarray:
        """One picture of each of the fixed conditions."""
        requests = [Request(condition=Condition(**condition), seed=0) for condition in SHEET_CONDITIONS]
        flow = self.objective.prediction == "flow_prediction"
        settings = SamplerSettings(
            sampler="dpm++" if flow else "ddim", steps=self.settings.sample_steps,
            guidance=self.settings.sample_guidance,
        )  # fmt: skip
        model = self.model()
        scheduler = model.pipeline.scheduler
        idle = [
            part for name, part in model.pipeline.components.items()
            if isinstance(part, nn.Module) and name not in self.module.parts
        ]  # fmt: skip
        for part in idle:
            part.to(device)
        try:
            with self.autocast():
                pictures = [one.pixels for one in Generator(model, settings, 2)(requests, progress=False)]
        finally:  # the sampler isn't the schedule of training, and only what each step needs stays on the device
            model.pipeline.scheduler = scheduler
            for part in idle:
                if not (self.live and part is self.vae):
                    part.to("cpu")
        return contact_sheet(pictures, columns=4)

    def model(self) -> Model:
        """What is trained so far, as `generate` takes it."""
        pipeline = self.pipeline
        pipeline.set_progress_bar_config(disable=True)
        pipeline.register_to_config(**self.module.base.settings)
        self.module.denoiser.register_to_config(sample_size=self.config.resolution // pipeline.vae_scale_factor)
        info = ModelInfo(
            name=self.config.name, template=self.settings.template, resolution=self.config.resolution,
            findings=shown_findings([record.condition for record in self.train.records]),
            data_hash=self.train.hash, licence=self.config.licence,
            data_licences=tuple(sorted({record.licence for record in self.train.records})),
        )  # fmt: skip
        return Model(pipeline=pipeline, info=info, hash="unsaved")
