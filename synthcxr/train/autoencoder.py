"""Stage 1: the autoencoder's model of detail, on crops; its encoder is known in closed form."""

import numpy as np
import torch
from torch import nn
from torch.nn.functional import avg_pool2d

from synthcxr.data.corpus import Corpus
from synthcxr.diffusion import noised, stratified, v_target
from synthcxr.images import contact_sheet, from_float, to_float
from synthcxr.model.autoencoder import (
    BLOCK,
    ChestAutoencoder,
    block_pca,
    detail_noise,
    edge_energy,
    pca_reconstruction,
    psnr,
    start_from_pca,
)
from synthcxr.model.embedded import build_autoencoder
from synthcxr.runs import derive_seed
from synthcxr.train.batches import batch_items, share, step_rng
from synthcxr.train.config import TrainConfig

PCA_IMAGES = 1000
SCALE_IMAGES = 256


class AutoencoderModule(nn.Module):
    """The whole loss in one module, so that a wrapper for several processes sees it."""

    def __init__(self, autoencoder: ChestAutoencoder):
        super().__init__()
        self.autoencoder = autoencoder

    def forward(self, images: torch.Tensor, noise: torch.Tensor, place: torch.Tensor) -> torch.Tensor:
        """Mean squared error of v of the detail of each image, (b,).

        Args:
            images: (b, 1, h, w) in [-1, 1].
            noise: of the same shape, standard normal.
            place: (b,) in [0, 1), how much of it, see `detail_noise`.
        """
        alpha, sigma = detail_noise(place)
        with torch.autocast(images.device.type, enabled=False):
            coarse = self.autoencoder.coarse(self.autoencoder.encode(images).latent_dist.mean)
            detail, noise = (images - coarse) / self.autoencoder.config.detail_scale, self.autoencoder.free(noise)
        told = self.autoencoder.detail_v(noised(detail, noise, alpha, sigma), coarse, place)
        return (told - v_target(detail, noise, alpha, sigma)).square().mean(dim=(1, 2, 3))


class AutoencoderStage:
    """What the loop asks of a stage; see loop.Stage."""

    name = "autoencoder"

    def __init__(self, config: TrainConfig, train: Corpus, validation: Corpus, start: ChestAutoencoder | None = None):
        self.config, self.settings = config, config.autoencoder
        self.train, self.validation = train, validation
        self.items = train.sharp if len(train.sharp) else np.arange(len(train.records))
        images = some_images(train, self.items, config.seed, PCA_IMAGES)
        autoencoder = start or self._fresh(images)
        if self.settings.steps:
            self._prepare_detail(autoencoder, some_images(train, self.items, config.seed, SCALE_IMAGES))
        # What latents mean never changes; and Adam's steps, as large for all weights, would only shake the linear maps.
        autoencoder.linear_encoder.requires_grad_(False)
        autoencoder.linear_decoder.requires_grad_(False)
        self.module = AutoencoderModule(autoencoder.to(memory_format=torch.channels_last))
        self.reconstruction = Reconstruction(validation, self.settings.validation_images, images, autoencoder)

    def _fresh(self, images: torch.Tensor) -> ChestAutoencoder:
        torch.manual_seed(derive_seed(self.config.seed, "autoencoder weights"))
        autoencoder = build_autoencoder(self.settings.shape, self.config.resolution)
        start_from_pca(autoencoder, images, self.settings.whitening)
        return autoencoder

    @torch.no_grad()
    def _prepare_detail(self, autoencoder: ChestAutoencoder, images: torch.Tensor) -> None:
        if not autoencoder.config.detail_steps:  # what has learned detail at one scale goes on at that
            parts = [part.to(autoencoder.device) for part in images.split(16)]
            detail = [part - autoencoder.coarse(autoencoder.encode(part).latent_dist.mean) for part in parts]
            autoencoder.register_to_config(detail_scale=round(torch.cat(detail).std().item(), 5))
        autoencoder.register_to_config(detail_steps=self.settings.detail_steps, detail_order=2, detail_gain=1.0)

    def sample_ids(self, step: int) -> list[str]:
        """Ids of the images of a step, for error messages."""
        indices = batch_items(self.items, self.config.seed, step, self.settings.batch_size)
        return [self.train.records[index].id for index in indices]

    def loss(self, module: nn.Module, step: int, rank: int, processes: int, device: torch.device) -> torch.Tensor:
        """Mean error of v over this process's part of the batch of one step."""
        indices = batch_items(self.items, self.config.seed, step, self.settings.batch_size)
        rng = step_rng(self.config.seed, "autoencoder", step)
        shown, noise = crops(self.train.pixels, indices, self.settings.crop, rng)
        places = rng.permutation(stratified(torch.from_numpy(rng.random(len(indices)))).numpy())
        images = to_images(share(shown, rank, processes)).to(device)
        parts = (share(part, rank, processes) for part in (noise, places.astype(np.float32)))
        return module(images, *(torch.from_numpy(part).to(device) for part in parts)).mean()

    def validate(self, module: nn.Module, device: torch.device) -> dict[str, float]:
        """See `Reconstruction.measured`."""
        return self.reconstruction.measured(module.autoencoder, device)

    def sheet(self, module: nn.Module, device: torch.device) -> np.ndarray:
        """See `Reconstruction.sheet`."""
        return self.reconstruction.sheet(module.autoencoder, device)

    @torch.no_grad()
    def finish(self, device: torch.device) -> ChestAutoencoder:
        """The trained autoencoder, with the scaling factor of its latents and the gain of its detail."""
        autoencoder = self.module.autoencoder
        images = some_images(self.train, self.items, self.config.seed, SCALE_IMAGES)
        if not self.config.start:
            latents = [autoencoder.encode(part.to(device)).latent_dist.mean for part in images.split(16)]
            autoencoder.register_to_config(scaling_factor=round(1 / torch.cat(latents).std().item(), 5))
        if self.settings.steps:
            set_gain(autoencoder, images, device)
        return autoencoder


@torch.no_grad()
def set_gain(autoencoder: ChestAutoencoder, images_b1hw: torch.Tensor, device: torch.device) -> None:
    """Make detail as loud as that of these images: by the upper quartile of its energy in blocks, where some shows."""
    real, drawn = [], []
    for part in images_b1hw.to(device).split(16):
        latents = autoencoder.encode(part).latent_dist.mean
        coarse = autoencoder.coarse(latents)
        for energies, detail in ((real, part - coarse), (drawn, autoencoder.drawn(latents, coarse).float())):
            energies.append(avg_pool2d(detail.square(), BLOCK))
    gain = (torch.cat(real).quantile(0.75) / torch.cat(drawn).quantile(0.75)).sqrt().item()
    autoencoder.register_to_config(detail_gain=round(gain * autoencoder.config.detail_gain, 3))


class Reconstruction:
    """How well held-out images are told from their latents, beside the block PCA of training images."""

    def __init__(self, validation: Corpus, count: int, images_b1hw: torch.Tensor, autoencoder: ChestAutoencoder):
        sharp = validation.sharp if len(validation.sharp) else np.arange(len(validation.records))
        self.validation, self.checked = validation, sharp[:count]
        self.pca = block_pca(images_b1hw, autoencoder.config.latent_channels)

    @torch.no_grad()
    def measured(self, autoencoder: ChestAutoencoder, device: torch.device) -> dict[str, float]:
        """PSNR (dB), that of the block PCA with as many numbers; edges' energy, of the real."""
        values, floor, edges = [], [], []
        for start in range(0, len(self.checked), 16):
            images = to_images(self.validation.pixels[self.checked[start : start + 16]])
            told = _told(autoencoder, images, device)
            values += psnr(images, told).tolist()
            floor += psnr(images, pca_reconstruction(images, self.pca)).tolist()
            edges += (edge_energy(told) / edge_energy(images)).tolist()
        means = {"psnr": values, "psnr_pca": floor, "edges": edges}
        return {name: float(np.mean(part)) for name, part in means.items()} | {"images": float(len(values))}

    @torch.no_grad()
    def sheet(self, autoencoder: ChestAutoencoder, device: torch.device) -> np.ndarray:
        """Held-out images above what the autoencoder tells of them."""
        pixels = self.validation.pixels[self.checked[:8]]
        told = _told(autoencoder, to_images(pixels), device)
        return contact_sheet([*pixels, *to_pixels(told)], columns=len(pixels))


def _told(autoencoder: ChestAutoencoder, images: torch.Tensor, device: torch.device) -> torch.Tensor:
    return autoencoder.decode(autoencoder.encode(images.to(device)).latent_dist.mean).sample.float().cpu()


def some_images(train: Corpus, items: np.ndarray, seed: int, count: int) -> torch.Tensor:
    """At most so many of these items, at random, as `to_images`."""
    sample = np.random.default_rng(seed).permutation(items)[:count]
    return to_images(train.pixels[np.sort(sample)])


def crops(
    pixels: np.ndarray, indices: np.ndarray, crop: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """A square of each of these images, uint8 (b, crop, crop), and noise for it, float32 (b, 1, crop, crop).

    Of images that are smaller, all. Squares are drawn as if they might lie beyond the picture, by up to their side, and
    are moved into it: of those drawn inside, hardly one in a hundred would show the letters in a corner.
    """
    size = pixels.shape[-1]
    crop = min(crop, size)
    corners = rng.integers(-crop, size + 1, (len(indices), 2)).clip(0, size - crop)
    squares = [pixels[i, y : y + crop, x : x + crop] for i, (y, x) in zip(indices, corners, strict=True)]
    return np.stack(squares), rng.standard_normal((len(indices), 1, crop, crop), dtype=np.float32)


def to_images(pixels: np.ndarray) -> torch.Tensor:
    """uint8 (b, h, w) to float (b, 1, h, w) in [-1, 1]."""
    return torch.from_numpy(to_float(np.asarray(pixels))).unsqueeze(1)


def to_pixels(images: torch.Tensor) -> np.ndarray:
    """Float (b, 1, h, w) in [-1, 1] to uint8 (b, h, w), clipped."""
    return from_float(images.squeeze(1).float().cpu().numpy())
