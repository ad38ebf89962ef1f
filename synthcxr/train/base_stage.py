"""The stage that retrains a base: latents and prompts from their caches, noise from each sample's own generator."""

from collections.abc import Sequence

import numpy as np
import torch
from accelerate import Accelerator
from diffusers import DiffusionPipeline
from torch import nn

from synthcxr.conditions import Condition
from synthcxr.data.corpus import Corpus
from synthcxr.generate import Generator, Request, SamplerSettings
from synthcxr.images import contact_sheet
from synthcxr.model.bases import PromptEmbeddings
from synthcxr.model.folder import Model, ModelInfo
from synthcxr.model.objective import objective_of, scheduler_for
from synthcxr.train.base_module import build_module, trains_text
from synthcxr.train.batches import batch_items, share, step_rng
from synthcxr.train.cache import Rows
from synthcxr.train.config import TrainConfig
from synthcxr.train.denoiser import SHEET_CONDITIONS
from synthcxr.train.latents import cached_latents, moments, sampled
from synthcxr.train.live import LiveImages
from synthcxr.train.wordings import Wordings, cached_embeddings, embeddings, wordings_of

VALIDATION_BATCH = 8


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
        live = settings.latents == "live"
        self.live = LiveImages(self.train) if live else None
        variants = settings.variants
        self.latents = None if live else cached_latents(cache, self.train, variants, config.seed, self.vae, accelerator)
        self.checked_latents = cached_latents(cache, self.validation, 1, config.seed, self.vae, accelerator)
        if not live:
            self.vae.to("cpu")
        self.told = self.checked_told = None
        if not trains_text(settings):
            self.pipeline.to(accelerator.device)
            self.told, self.checked_told = (
                cached_embeddings(cache, wordings, self.pipeline, accelerator)
                for wordings in (self.wordings, self.checked_wordings)
            )
            self.pipeline.to("cpu")

    def sample_ids(self, step: int) -> list[str]:
        """Ids of the images of a step, for error messages."""
        return [self.train.records[index].id for index in self._batch(step)]

    def _batch(self, step: int) -> np.ndarray:
        return batch_items(self.items, self.config.seed, step, self.settings.batch_size)

    def loss(self, module: nn.Module, step: int, rank: int, processes: int, device: torch.device) -> torch.Tensor:
        """Mean weighted error over this process's part of the batch of one step.

        All that's drawn for a sample depends on the seed, the step and its place in the batch alone.
        """
        settings, seed = self.settings, self.config.seed
        batch = self._batch(step)
        places = range(rank, len(batch), processes)
        rngs = [step_rng(seed, f"sample/{place}", step) for place in places]
        indices = share(batch, rank, processes)
        dropped = [rng.random() < settings.caption_dropout for rng in rngs]
        said = [int(rng.integers(0, settings.wordings)) for rng in rngs]
        prompts = [0 if d else int(self.wordings.rows[i, w]) for i, w, d in zip(indices, said, dropped, strict=True)]
        variants = [int(rng.integers(0, settings.variants)) for rng in rngs]
        if self.live:
            pixels = self.live.fetch(indices, share(self._batch(step + 1), rank, processes))
            told = moments(self.vae, pixels, np.stack([rng.random(5) for rng in rngs]))
        else:
            rows = [int(i) * settings.variants + k for i, k in zip(indices, variants, strict=True)]
            told = torch.from_numpy(self.latents.fetch(rows)["moments"]).float()
        times = self._times(len(batch), step_rng(seed, "times", step))[rank::processes]
        errors = self._errors(module, told, self._told(self.wordings, self.told, prompts, device), times,
                              self.train.native[indices], rngs, device)  # fmt: skip
        return errors[0].mean()

    def _times(self, count: int, rng: np.random.Generator) -> torch.Tensor:
        times = self.objective.times(torch.from_numpy(rng.random(count)))
        return times[torch.from_numpy(rng.permutation(count))]

    def _told(
        self, wordings: Wordings, rows: Rows | None, prompts: Sequence[int], device: torch.device
    ) -> PromptEmbeddings | list[str]:
        return [wordings.prompts[i] for i in prompts] if rows is None else embeddings(rows, prompts, device)

    def _errors(
        self, module: nn.Module, told_bchw: torch.Tensor, prompts: PromptEmbeddings | list[str], times: torch.Tensor,
        native: np.ndarray, rngs: Sequence[np.random.Generator], device: torch.device,
    ) -> tuple[torch.Tensor, torch.Tensor]:  # fmt: skip
        """Weighted and plain mean squared error for each image, (b,)."""
        channels, shape = told_bchw.shape[1] // 2, told_bchw.shape[2:]
        draws = np.stack([rng.standard_normal((2, channels, *shape), dtype=np.float32) for rng in rngs])
        shifts = np.stack([rng.standard_normal((channels, 1, 1), dtype=np.float32) for rng in rngs])
        draws, shifts = torch.from_numpy(draws).to(device), torch.from_numpy(shifts).to(device)
        latents = sampled(told_bchw.to(device), draws[:, 0], self.vae)
        noise = draws[:, 1] + self.settings.noise_offset * shifts
        alpha, sigma = (part.to(device) for part in self.objective.levels(times))
        noisy = alpha * latents + sigma * noise
        prediction = module(noisy, times.to(device), prompts, self._sizes(native).to(device)).float()
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
            told = torch.from_numpy(self.checked_latents.fetch(part)["moments"]).float()
            rows = self.checked_wordings.rows[part, 0]
            prompts = self._told(self.checked_wordings, self.checked_told, rows, device)
            times = self._times(len(part), step_rng(self.config.seed, "validation times", number))
            with self.autocast():
                errors = self._errors(module, told, prompts, times, self.validation.native[part], rngs, device)
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
            data_hash=self.train.hash, licence=self.config.licence,
            data_licences=tuple(sorted({record.licence for record in self.train.records})),
        )  # fmt: skip
        return Model(pipeline=pipeline, info=info, hash="unsaved")
