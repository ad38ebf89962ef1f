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
from synthcxr.train.autoencoder import to_images, to_pixels
from synthcxr.train.batches import batch_items, share, step_rng
from synthcxr.train.config import TrainConfig
from synthcxr.train.loop import Trainer

MIN_IMAGES = 3  # of a finding, to be reported
CROPS, MIN_CROP = 16, 16  # along a side; pixels (SSIM's window has 11)


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
        """Mean PSNR (dB) and SSIM on held-out images that are native at the resolution, and on their busiest crops."""
        return self.by_finding(module, device)["all"]

    def by_finding(self, module: nn.Module, device: torch.device) -> dict[str, dict[str, float]]:
        """The same of `all` images, and of those with each finding where there are a few; see `scores`."""
        told = self._scores(module, device)
        records = [self.validation.records[i] for i in self.checked]
        groups = {"all": np.ones(len(records), bool)}
        for finding in sorted({finding for record in records for finding in record.present}):
            own = np.array([finding in record.present for record in records])
            if own.sum() >= MIN_IMAGES:
                groups[finding.value] = own
        return {
            name: {**{key: float(values[own].mean()) for key, values in told.items()}, "images": int(own.sum())}
            for name, own in groups.items()
        }

    @torch.no_grad()
    def _scores(self, module: nn.Module, device: torch.device) -> dict[str, np.ndarray]:
        parts = []
        for start in range(0, len(self.checked), 4):
            images = to_images(self.validation.pixels[self.checked[start : start + 4]])
            parts.append(scores(images, module(images.to(device)).float().cpu()))
        return {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}

    @torch.no_grad()
    def sheet(self, module: nn.Module, device: torch.device) -> np.ndarray:
        """Held-out images above what the autoencoder tells of them."""
        pixels = self.validation.pixels[self.checked[:4]]
        told = to_pixels(module(to_images(pixels).to(device)))
        return contact_sheet([*pixels, *told], columns=len(pixels))


def trained_decoder(
    config: TrainConfig, train: Corpus, validation: Corpus, accelerator: Accelerator, run: Run,
    pipeline: DiffusionPipeline,
) -> dict[str, dict[str, float]]:  # fmt: skip
    """Put the trained decoder into the pipeline, of an earlier run of the stage or one now.

    Returns:
        what was measured after training and, as `..._before`, before: of `decoder`, and of `decoder, FINDING` each.
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
    return {
        "decoder" if name == "all" else f"decoder, {name}": after
        | {f"{key}_before": value for key, value in told["before"][name].items() if key != "images"}
        for name, after in told["after"].items()
    }


def _measured(stage: DecoderStage, accelerator: Accelerator, file: Path | None) -> dict[str, dict[str, float]]:
    """Scores of all and by finding; from `file` where an interrupted run measured them, before any training."""
    if file and file.exists():
        return json.loads(file.read_text(encoding="utf-8"))
    if not accelerator.is_main_process:
        return {}
    module = stage.module.eval()
    told = stage.by_finding(module, accelerator.device)
    module.train()
    if file:
        write_json(file, told)
    return told


def scores(images_b1hw: torch.Tensor, told_b1hw: torch.Tensor) -> dict[str, np.ndarray]:
    """PSNR (dB) and SSIM of each image, (b,), and as `crop_...` of its busiest crops together.

    Those are, of the squares that an image is cut into, sixteen along each side, the eighth with the highest variance:
    edges of lungs, heart and ribs, vessels, lines. Where a finding is, no label of these data says; small structures
    are there if anywhere, and a mean over the whole picture, most of it smooth, hides what becomes of them.
    """
    side = max(MIN_CROP, images_b1hw.shape[-1] // CROPS)
    squares, theirs = (_squares(part, side) for part in (images_b1hw, told_b1hw))
    busiest = squares.flatten(2).var(dim=2).topk(max(1, squares.shape[1] // 8), dim=1).indices[:, :, None, None]
    crops, told = (part.take_along_dim(busiest, dim=1) for part in (squares, theirs))
    each = ssim(crops.flatten(0, 1)[:, None], told.flatten(0, 1)[:, None])
    values = {
        "psnr": psnr(images_b1hw, told_b1hw), "ssim": ssim(images_b1hw, told_b1hw),
        "crop_psnr": psnr(crops, told), "crop_ssim": each.view(crops.shape[:2]).mean(1),
    }  # fmt: skip
    return {name: value.numpy() for name, value in values.items()}


def _squares(images_b1hw: torch.Tensor, side: int) -> torch.Tensor:
    """(b, n, side, side): an image cut into squares, without overlap."""
    return images_b1hw[:, 0].unfold(1, side, side).unfold(2, side, side).flatten(1, 2)


def edge_loss(a_bchw: torch.Tensor, b_bchw: torch.Tensor) -> torch.Tensor:
    """Mean absolute difference of horizontal and vertical gradients: blur costs where plain error hardly does."""
    difference = a_bchw - b_bchw
    return difference.diff(dim=2).abs().mean() + difference.diff(dim=3).abs().mean()


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
