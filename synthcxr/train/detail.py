"""Stage 1b: the autoencoder's model of detail, on crops."""

import math

import numpy as np
import torch
from torch import nn

from synthcxr.data.corpus import Corpus
from synthcxr.diffusion import noised, stratified, v_target
from synthcxr.model.autoencoder import ChestAutoencoder, detail_noise, edge_energy, sharpened
from synthcxr.train.autoencoder import (
    PCA_IMAGES,
    SCALE_IMAGES,
    ReconstructingStage,
    Reconstruction,
    sharp_items,
    some_images,
    to_images,
)
from synthcxr.train.batches import share, step_rng
from synthcxr.train.config import AutoencoderConfig, TrainConfig


class DetailModule(nn.Module):
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
        with torch.no_grad():
            coarse = self.autoencoder.coarse(self.autoencoder.encode(images).latent_dist.mean)
            detail = self.autoencoder.free(images - coarse) / self.autoencoder.config.detail_scale
            noise = self.autoencoder.free(noise)
        told = self.autoencoder.detail_v(noised(detail, noise, alpha, sigma), coarse, place)
        return (told - v_target(detail, noise, alpha, sigma)).square().mean(dim=(1, 2, 3))


class DetailStage(ReconstructingStage):
    """What the loop asks of a stage; see loop.Stage."""

    name = "detail"

    def __init__(self, config: TrainConfig, train: Corpus, validation: Corpus, autoencoder: ChestAutoencoder):
        self.config, self.settings, self.train = config, config.detail, train
        self.items = sharp_items(train)
        if not autoencoder.config.detail_steps:  # what has learned detail at one scale goes on at that
            self._set_scale(autoencoder)
        autoencoder.register_to_config(detail_steps=self.settings.evaluations, detail_order=2, detail_gain=1.0)
        autoencoder.requires_grad_(False).detail.requires_grad_(True)
        self.module = DetailModule(autoencoder.to(memory_format=torch.channels_last))
        images = some_images(train, self.items, config.seed, PCA_IMAGES)
        self.reconstruction = Reconstruction(validation, self.settings.validation_images, images, autoencoder)

    @torch.no_grad()
    def _set_scale(self, autoencoder: ChestAutoencoder) -> None:
        images, detail = some_images(self.train, self.items, self.config.seed, SCALE_IMAGES), []
        for part in images.to(autoencoder.device).split(16):
            detail.append(autoencoder.free(part - autoencoder.coarse(autoencoder.encode(part).latent_dist.mean)))
        autoencoder.register_to_config(detail_scale=round(torch.cat(detail).std().item(), 5))

    def loss(self, module: nn.Module, step: int, rank: int, processes: int, device: torch.device) -> torch.Tensor:
        """Mean error of v over this process's part of the batch of one step."""
        indices = self._indices(step)
        rng = step_rng(self.config.seed, "detail", step)
        shown, noise = crops(self.train.pixels, indices, self.settings.crop, rng)
        places = rng.permutation(stratified(torch.from_numpy(rng.random(len(indices)))).numpy())
        images = to_images(share(shown, rank, processes)).to(device)
        parts = (share(part, rank, processes) for part in (noise, places.astype(np.float32)))
        return module(images, *(torch.from_numpy(part).to(device) for part in parts)).mean()

    def finish(self, device: torch.device) -> ChestAutoencoder:
        """The autoencoder, with the gain of its detail."""
        images = some_images(self.train, self.items, self.config.seed, SCALE_IMAGES)
        set_gain(self.module.autoencoder, images, self.config.autoencoder)
        return self.module.autoencoder


@torch.no_grad()
def set_gain(autoencoder: ChestAutoencoder, images_b1hw: torch.Tensor, settings: AutoencoderConfig) -> None:
    """Have pictures sharpened, and detail as loud as it takes for edges to have their share of the real ones' energy.

    Energy is a quadratic form: with c the edges of what is told, d those of detail and r those of real images, the gain
    g solves mean(c.c / r.r) + 2 g mean(c.d / r.r) + g^2 mean(d.d / r.r) = settings.edges; 0 where that is met already.
    """
    autoencoder.register_to_config(detail_gain=1.0)
    parts = []
    for real in images_b1hw.to(autoencoder.device).split(16):
        latents = autoencoder.encode(real).latent_dist.mean
        coarse = autoencoder.coarse(latents)
        drawn = autoencoder.drawn(latents, coarse).float()
        told, both, detail = (
            edge_energy(sharpened(one, settings.sharpening)) for one in (coarse, coarse + drawn, drawn)
        )
        parts.append(torch.stack([told, (both - told - detail) / 2, detail]) / edge_energy(real))
    told, mixed, detail = torch.cat(parts, dim=1).double().mean(dim=1).tolist()
    gain = (math.sqrt(max(mixed**2 + detail * (settings.edges - told), 0)) - mixed) / detail
    autoencoder.register_to_config(detail_gain=round(max(gain, 0), 3), sharpening=settings.sharpening)


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
