"""A base's decoder on radiographs: one channel's worth of detail out of latents that stay what they are."""

import json
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from diffusers import DiffusionPipeline
from torch import nn
from torch.nn.functional import conv2d, l1_loss

from synthcxr.data.corpus import Corpus
from synthcxr.files import atomic_path, write_json
from synthcxr.images import contact_sheet
from synthcxr.model.autoencoder import psnr
from synthcxr.model.latents import posterior
from synthcxr.runs import Run
from synthcxr.train.autoencoder import edge_loss, to_images, to_pixels
from synthcxr.train.batches import batch_items, share, step_rng
from synthcxr.train.config import TrainConfig
from synthcxr.train.loop import Trainer

MIN_IMAGES = 3  # of a finding, to be reported


class DecoderModule(nn.Module):
    """The autoencoder of which the decoder alone is trained."""

    def __init__(self, vae: nn.Module):
        super().__init__()
        self.vae = vae.requires_grad_(False)
        self.vae.decoder.requires_grad_(True)

    def forward(self, images_b1hw: torch.Tensor) -> torch.Tensor:
        """Images in [-1, 1] as the autoencoder tells them, (b, 1, h, w): the mean of its channels, as `generate` does.

        From the mean of the posterior: its deviation is far below what a denoiser leaves.
        """
        with torch.no_grad():
            latents, _ = posterior(self.vae, images_b1hw)
        return self.vae.decode(latents).sample.mean(dim=1, keepdim=True)


class DecoderStage:
    """What the loop asks of a stage; see loop.Stage."""

    name = "decoder"

    def __init__(self, config: TrainConfig, train: Corpus, validation: Corpus, pipeline: DiffusionPipeline):
        self.config, self.settings = config, config.base.decoder
        self.train, self.validation = train, validation
        self.items = train.sharp if len(train.sharp) else np.arange(len(train.records))
        sharp = validation.sharp if len(validation.sharp) else np.arange(len(validation.records))
        self.checked = sharp[: self.settings.validation_images]
        self.module = DecoderModule(pipeline.vae)

    def sample_ids(self, step: int) -> list[str]:
        """Ids of the images of a step, for error messages."""
        indices = batch_items(self.items, self.config.seed, step, self.settings.batch_size)
        return [self.train.records[index].id for index in indices]

    def loss(self, module: nn.Module, step: int, rank: int, processes: int, device: torch.device) -> torch.Tensor:
        """Mean loss over this process's part of the batch of one step: absolute errors of pixels and of gradients."""
        indices = batch_items(self.items, self.config.seed, step, self.settings.batch_size)
        size, crop = self.config.resolution, min(self.settings.crop, self.config.resolution)
        corners = step_rng(self.config.seed, "decoder", step).integers(0, size - crop + 1, (len(indices), 2))
        own = zip(share(indices, rank, processes), share(corners, rank, processes), strict=True)
        crops = [self.train.pixels[index, y : y + crop, x : x + crop] for index, (y, x) in own]
        images = to_images(np.stack(crops)).to(device)
        told = module(images).float()
        return l1_loss(told, images) + self.settings.edge_weight * edge_loss(told, images)

    def validate(self, module: nn.Module, device: torch.device) -> dict[str, float]:
        """Mean PSNR (dB) and SSIM on held-out images that are native at the resolution."""
        values, alike = self._scores(module, device)
        return {"psnr": float(values.mean()), "ssim": float(alike.mean()), "images": float(len(values))}

    def by_finding(self, module: nn.Module, device: torch.device) -> dict[str, dict[str, float]]:
        """The same for the images with each finding, where there are a few."""
        values, alike = self._scores(module, device)
        records = [self.validation.records[i] for i in self.checked]
        told = {}
        for finding in sorted({finding for record in records for finding in record.present}):
            own = np.array([finding in record.present for record in records])
            if own.sum() >= MIN_IMAGES:
                told[finding.value] = {"psnr": values[own].mean(), "ssim": alike[own].mean(), "images": int(own.sum())}
        return told

    @torch.no_grad()
    def _scores(self, module: nn.Module, device: torch.device) -> tuple[np.ndarray, np.ndarray]:
        values, alike = [], []
        for start in range(0, len(self.checked), 4):
            images = to_images(self.validation.pixels[self.checked[start : start + 4]])
            told = module(images.to(device)).float().cpu()
            values += psnr(images, told).tolist()
            alike += ssim(images, told).tolist()
        return np.array(values), np.array(alike)

    @torch.no_grad()
    def sheet(self, module: nn.Module, device: torch.device) -> np.ndarray:
        """Held-out images above what the autoencoder tells of them."""
        pixels = self.validation.pixels[self.checked[:4]]
        told = to_pixels(module(to_images(pixels).to(device)))
        return contact_sheet([*pixels, *told], columns=len(pixels))


def trained_decoder(
    config: TrainConfig, train: Corpus, validation: Corpus, accelerator: Accelerator, run: Run,
    pipeline: DiffusionPipeline,
) -> dict[str, float]:  # fmt: skip
    """Put the trained decoder into the pipeline, of an earlier run of the stage or one now; gives what was measured.

    `decoder/result.json` has it by finding as well, before and after.
    """
    path, result = run.folder / "decoder" / "model", run.folder / "decoder" / "result.json"
    if not path.exists():
        stage = DecoderStage(config, train, validation, pipeline)
        stage.module.to(accelerator.device)
        before = _measured(stage, accelerator, result.with_name("before.json"))
        Trainer(stage, accelerator, run).fit()
        if accelerator.is_main_process:
            after = _measured(stage, accelerator, None)
            write_json(result, {"before": before, "after": after})
            with atomic_path(path) as temporary:
                pipeline.vae.save_pretrained(temporary)
        accelerator.wait_for_everyone()
        accelerator.free_memory()
    pipeline.vae = type(pipeline.vae).from_pretrained(path, use_safetensors=True)
    told = json.loads(result.read_text(encoding="utf-8"))
    before, after = told["before"]["all"], told["after"]["all"]
    return {**after, "psnr_before": before["psnr"], "ssim_before": before["ssim"]}


def _measured(stage: DecoderStage, accelerator: Accelerator, file: Path | None) -> dict[str, dict[str, float]]:
    """Scores of all and by finding; from `file` where an interrupted run measured them, before any training."""
    if file and file.exists():
        return json.loads(file.read_text(encoding="utf-8"))
    if not accelerator.is_main_process:
        return {}
    module = stage.module.eval()
    told = {"all": stage.validate(module, accelerator.device), **stage.by_finding(module, accelerator.device)}
    module.train()
    if file:
        write_json(file, told)
    return told


def ssim(a_b1hw: torch.Tensor, b_b1hw: torch.Tensor) -> torch.Tensor:
    """Structural similarity (b,) of images in [-1, 1] (Wang et al. 2004, eq. 13; Gaussian window of 11, sigma 1.5)."""
    line = torch.exp(-(torch.arange(-5.0, 6.0) ** 2) / (2 * 1.5**2))
    window = (line[:, None] * line[None, :] / line.sum() ** 2)[None, None]
    a, b = a_b1hw.clamp(-1, 1), b_b1hw.clamp(-1, 1)
    mean_a, mean_b, aa, bb, ab = (conv2d(part, window) for part in (a, b, a * a, b * b, a * b))
    variances, covariance = (aa - mean_a**2) + (bb - mean_b**2), ab - mean_a * mean_b
    c1, c2 = (0.01 * 2) ** 2, (0.03 * 2) ** 2
    told = (2 * mean_a * mean_b + c1) * (2 * covariance + c2)
    return (told / ((mean_a**2 + mean_b**2 + c1) * (variances + c2))).mean(dim=(1, 2, 3))
