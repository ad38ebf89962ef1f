"""Stage 2: the denoiser with its text encoder, on cached latents."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import nn
from transformers import CLIPTextModelWithProjection

from synthcxr.conditions import Condition, FindingState, canonical_words, to_prompt
from synthcxr.data.corpus import Corpus
from synthcxr.diffusion import alpha_sigma, min_snr_weight, noised, stratified_timesteps, v_target
from synthcxr.generate import Generator, Request
from synthcxr.images import contact_sheet
from synthcxr.model.autoencoder import ChestAutoencoder
from synthcxr.model.denoiser import ChestUNet, build_scheduler
from synthcxr.model.embedded import build_pipeline, build_text_encoder, build_tokenizer, build_unet
from synthcxr.model.folder import Model, ModelInfo
from synthcxr.model.hashes import module_hash
from synthcxr.model.latents import posterior
from synthcxr.model.prompts import words_of
from synthcxr.model.sampler import USUAL, SamplerSettings
from synthcxr.runs import derive_seed
from synthcxr.train.augment import augmented
from synthcxr.train.autoencoder import to_images
from synthcxr.train.batches import NEGATABLE, batch_items, share, step_rng, training_prompt
from synthcxr.train.cache import Rows, cached_rows
from synthcxr.train.config import TrainConfig
from synthcxr.vocabulary import Finding

GAUSSIAN_IMAGES = 4000
CHUNK = 16  # images encoded at once; it decides how they are augmented
SHEET_CONDITIONS = (
    {"findings": ["No Finding"], "age": 30, "sex": "female", "view": "PA"},
    {"findings": ["No Finding"], "age": 70, "sex": "male", "view": "PA"},
    {"findings": ["Cardiomegaly"], "age": 60, "sex": "female", "view": "PA"},
    {"findings": ["Pleural Effusion"], "age": 65, "sex": "male", "view": "PA"},
    {"findings": ["Pneumothorax"], "age": 45, "sex": "male", "view": "AP"},
    {"findings": ["Edema", "Infiltration"], "age": 55, "sex": "female", "view": "AP"},
    {"findings": ["Atelectasis"], "view": "AP"},
    {},
)


class DenoiserModule(nn.Module):
    """UNet and text encoder as one module, so that a wrapper for several processes sees one forward pass."""

    def __init__(self, unet: ChestUNet, text_encoder: CLIPTextModelWithProjection):
        super().__init__()
        self.unet, self.text_encoder = unet, text_encoder

    def forward(
        self, latents_bchw: torch.Tensor, t_b: torch.Tensor, tokens: torch.Tensor, time_ids: torch.Tensor
    ) -> torch.Tensor:
        """v for noisy latents."""
        return self.unet(latents_bchw, t_b, **self.conditions(tokens, time_ids)).sample

    def conditions(self, tokens: torch.Tensor, time_ids: torch.Tensor) -> dict[str, Any]:
        """The UNet's arguments for a prompt and a size, exactly as the stock SDXL pipeline hands them over."""
        text = self.text_encoder(tokens, output_hidden_states=True)
        added = {"text_embeds": text.text_embeds, "time_ids": time_ids}
        return {"encoder_hidden_states": text.hidden_states[-2], "added_cond_kwargs": added}


class DenoiserStage:
    """What the loop asks of a stage; see loop.Stage."""

    name = "denoiser"

    def __init__(
        self, config: TrainConfig, train: Corpus, validation: Corpus, autoencoder: ChestAutoencoder, cache: Path,
        accelerator: Accelerator, start: Model | None = None,
    ):  # fmt: skip
        self.config, self.settings = config, config.denoiser
        self.train, self.validation, self.autoencoder = train, validation, autoencoder
        told = self.settings
        drawn = SamplerSettings(
            steps=told.sample_steps, guidance=told.sample_guidance, guided=told.sample_guided,
            finding_guidance=told.sample_finding_guidance, keep_level=told.sample_keep_level,
        ).over(USUAL)  # fmt: skip
        # Weights that stay as they are stay drawn from as they were tuned.
        self.sampler = start.info.sampler if start and not self.settings.steps else drawn
        repeats = [np.repeat(train.sharp, config.sharp_repeats - 1), np.repeat(train.ill, config.finding_repeats - 1)]
        self.items = np.concatenate([np.arange(len(train.records)), *repeats])
        self.scheduler = build_scheduler()
        if start:
            self.tokenizer, text_encoder = start.pipeline.tokenizer_2, start.pipeline.text_encoder_2
            unet = start.pipeline.unet
        else:
            self.tokenizer = build_tokenizer(canonical_words(), self.settings.shape.tokens)
            torch.manual_seed(derive_seed(config.seed, "denoiser weights"))
            unet = build_unet(self.settings.shape, autoencoder.config.latent_channels, config.resolution)
            text_encoder = build_text_encoder(self.settings.shape, self.tokenizer)
        self.module = DenoiserModule(unet.to(memory_format=torch.channels_last), text_encoder)
        rng = np.random.default_rng(config.seed)
        self.checked = rng.permutation(len(validation.records))[: self.settings.validation_images]
        # What decides the latents: these two, not how they are told.
        tag = module_hash(nn.ModuleList([autoencoder.linear_encoder, autoencoder.encoder]))
        self.latents, self.checked_latents = (
            _cached_latents(cache, tag, corpus, variants, config.seed, autoencoder, accelerator)
            for corpus, variants in ((train, self.settings.variants), (validation, 1))
        )
        if config.new_latents:
            unet.gaussian.fit(self._clean_latents().to(unet.device))
        self.weights = channel_weights(unet.gaussian.power.cpu(), self.scheduler.alphas_cumprod, self.settings.balance)

    def _clean_latents(self) -> torch.Tensor:
        """Scaled latents of some training images as they are, at random."""
        rows = np.sort(np.random.default_rng(self.config.seed).permutation(self.latents.count)[:GAUSSIAN_IMAGES])
        channels = self.autoencoder.config.latent_channels
        latents = np.stack([self.latents.fetch([row])["moments"][0, 0, :channels] for row in rows])
        return torch.from_numpy(latents.astype(np.float32)) * self.autoencoder.config.scaling_factor

    def sample_ids(self, step: int) -> list[str]:
        """Ids of the images of a step, for error messages."""
        indices = batch_items(self.items, self.config.seed, step, self.settings.batch_size)
        return [self.train.records[index].id for index in indices]

    def loss(self, module: nn.Module, step: int, rank: int, processes: int, device: torch.device) -> torch.Tensor:
        """Mean weighted error of v over this process's part of the batch of one step."""
        settings = self.settings
        indices = batch_items(self.items, self.config.seed, step, settings.batch_size)
        rng = step_rng(self.config.seed, "denoiser", step)
        variants = rng.integers(0, settings.variants, len(indices))
        moments = self.latents.fetch(indices)["moments"][np.arange(len(indices)), variants]
        prompts = [
            training_prompt(
                self.train.records[index].condition, settings.template, rng,
                settings.caption_dropout, settings.part_dropout, settings.negatives,
            )
            for index in indices
        ]  # fmt: skip
        weighted, _ = self._errors(
            module, share(moments, rank, processes), share(prompts, rank, processes),
            share(self.train.native[indices], rank, processes), rng, rank, processes, device,
        )  # fmt: skip
        return weighted.mean()

    def _errors(
        self, module: nn.Module, moments: np.ndarray, prompts: list[str], native: np.ndarray,
        rng: np.random.Generator, rank: int, processes: int, device: torch.device,
    ) -> tuple[torch.Tensor, torch.Tensor]:  # fmt: skip
        """Weighted and plain mean squared error of v for each image, (b,). Noise is drawn for all processes alike."""
        total, shape = len(prompts) * processes, moments.shape[2:]
        mean, logvar = torch.from_numpy(moments.astype(np.float32)).chunk(2, dim=1)
        draws = torch.from_numpy(rng.standard_normal((2, total, mean.shape[1], *shape), dtype=np.float32))
        draws = draws[:, rank::processes]
        latents = (mean + (0.5 * logvar).exp() * draws[0]) * self.autoencoder.config.scaling_factor
        t_b = stratified_timesteps(torch.from_numpy(rng.random(total)), len(self.scheduler.alphas_cumprod))
        t_b = t_b[torch.from_numpy(rng.permutation(total))][rank::processes]
        alpha, sigma = (part.to(device) for part in alpha_sigma(self.scheduler.alphas_cumprod, t_b))
        latents, noise = latents.to(device), draws[1].to(device)
        tokens = self.tokenizer(prompts, padding="max_length", truncation=True, return_tensors="pt").input_ids
        noisy = noised(latents, noise, alpha, sigma).contiguous(memory_format=torch.channels_last)
        told = module(noisy, t_b.to(device), tokens.to(device), self._time_ids(native).to(device)).float()
        errors = (told - v_target(latents, noise, alpha, sigma)).square().mean(dim=(2, 3))
        weighted, gamma = (errors * self.weights.to(device)).mean(dim=1), self.settings.min_snr
        return weighted * (min_snr_weight(alpha, sigma, gamma).flatten() if gamma else 1.0), errors.mean(dim=1)

    def _time_ids(self, native: np.ndarray) -> torch.Tensor:
        """SDXL's micro-conditions (b, 6): native height and width, no crop, target height and width."""
        target = np.full_like(native, self.config.resolution)
        zeros = np.zeros_like(native)
        return torch.from_numpy(np.stack([native, native, zeros, zeros, target, target], axis=1)).float()

    @torch.no_grad()
    def validate(self, module: nn.Module, device: torch.device) -> dict[str, float]:
        """Mean errors of v on held-out patients, with the same noise, timesteps and full prompts each time."""
        weighted, plain = [], []
        for number, part in enumerate(np.array_split(self.checked, max(1, len(self.checked) // 32))):
            rng = step_rng(self.config.seed, "validation", number)
            prompts = [to_prompt(self.validation.records[i].condition, self.settings.template) for i in part]
            moments = self.checked_latents.fetch(part)["moments"][:, 0]
            errors = self._errors(module, moments, prompts, self.validation.native[part], rng, 0, 1, device)
            weighted += errors[0].tolist()
            plain += errors[1].tolist()
        return {"loss": float(np.mean(weighted)), "mse": float(np.mean(plain)), "images": float(len(plain))}

    def sheet(self, module: nn.Module, device: torch.device) -> np.ndarray:
        """Two seeds of each of the fixed conditions."""
        conditions = [Condition(**condition) for condition in SHEET_CONDITIONS]
        requests = [Request(condition=condition, seed=seed) for seed in (0, 1) for condition in conditions]
        generator = Generator(self.model(module), batch_size=len(conditions))
        return contact_sheet([image.pixels for image in generator(requests, progress=False)], columns=len(conditions))

    def model(self, module: DenoiserModule) -> Model:
        """What is trained so far, as `generate` takes it."""
        pipeline = build_pipeline(self.autoencoder, module.unet, module.text_encoder, self.tokenizer, self.scheduler)
        pipeline.set_progress_bar_config(disable=True)
        conditions = [record.condition for record in self.train.records]
        prompts = [to_prompt(condition, self.settings.template) for condition in conditions]
        if self.settings.negatives:
            absent = {finding: FindingState(state="absent") for finding in NEGATABLE}
            prompts.append(to_prompt(Condition(findings=absent), self.settings.template))
        info = ModelInfo(
            name=self.config.name,
            template=self.settings.template,
            resolution=self.config.resolution,
            words=words_of(prompts, [c.age for c in conditions if c.age is not None]),
            findings=shown_findings(conditions),
            data_hash=self.train.hash,
            licence=self.config.licence,
            data_licences=tuple(sorted({record.licence for record in self.train.records})),
            sampler=self.sampler,
        )
        return Model(pipeline=pipeline, info=info, hash="unsaved")

    def finish(self, device: torch.device) -> Model:
        """The trained model; call with the EMA weights in place."""
        return self.model(self.module)


@torch.no_grad()
def channel_weights(power: torch.Tensor, alphas_cumprod: torch.Tensor, balance: float) -> torch.Tensor:
    """What each channel's squared error of v counts, (channels,), mean 1.

    Args:
        power: variance of each channel, (channels,). Known by that alone, a channel's v has an error of power /
            (alpha^2 power + sigma^2), see `Gaussian.alone`; its mean over timesteps, to the power of -balance, is the
            weight.
    """
    alpha_squared = alphas_cumprod[:, None]
    weights = (power / (alpha_squared * power + 1 - alpha_squared)).mean(dim=0).pow(-balance)
    return weights / weights.mean()


def shown_findings(conditions: Sequence[Condition]) -> dict[Finding, int]:
    """How many images show each finding of the vocabulary."""
    present = (f for condition in conditions for f, state in condition.findings.items() if state.state == "present")
    return {finding: count for finding, count in sorted(Counter(present).items())}


def _cached_latents(
    cache: Path, tag: str, corpus: Corpus, variants: int, seed: int, autoencoder: ChestAutoencoder, acc: Accelerator
) -> Rows:
    """Row i, `moments`: float16 (variants, 2 * channels, h, w), of image i as it is, then of augmented copies."""
    key = derive_seed(seed, f"{corpus.hash}/{variants}/{tag}")

    def make(rows: range) -> dict[str, np.ndarray]:
        told = []
        for start in range(rows.start, rows.stop, CHUNK):
            images = to_images(corpus.pixels[start : min(start + CHUNK, rows.stop)])
            copies = [images]
            for variant in range(1, variants):
                draws = step_rng(seed, f"augment/{variant}", start).random((len(images), 5))
                copies.append(augmented(images, torch.from_numpy(draws).float()))
            told.append(np.stack([_moments(autoencoder, copy.to(acc.device)) for copy in copies], axis=1))
        return {"moments": np.concatenate(told)}

    return cached_rows(cache / f"latents-{key:016x}", len(corpus.records), make, acc, "latents")


@torch.no_grad()
def _moments(autoencoder: ChestAutoencoder, images: torch.Tensor) -> np.ndarray:
    return torch.cat(posterior(autoencoder, images), dim=1).half().cpu().numpy()
