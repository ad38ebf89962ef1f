"""Stage 1: the autoencoder's networks, on crops; its linear maps are known in closed form."""

import numpy as np
import torch
from torch import nn
from torch.nn.functional import avg_pool2d

from synthcxr.data.corpus import Corpus
from synthcxr.images import contact_sheet, from_float, to_float
from synthcxr.model.autoencoder import ChestAutoencoder, edge_energy, psnr, start_from_pca
from synthcxr.model.embedded import build_autoencoder
from synthcxr.model.lapped import BLOCK, block_pca, pca_reconstruction
from synthcxr.runs import derive_seed
from synthcxr.train.batches import batch_items, share, step_rng
from synthcxr.train.config import StageConfig, TrainConfig

PCA_IMAGES = 1000
SCALE_IMAGES = 256
CHUNK = 32  # images told at once
LEAST = 1e-5  # a squared error that is as good as none: twice that of rounding to 256 grey levels


class AutoencoderModule(nn.Module):
    """The whole loss in one module, so that a wrapper for several processes sees it."""

    def __init__(self, autoencoder: ChestAutoencoder):
        super().__init__()
        self.autoencoder = autoencoder

    def forward(self, images_b1hw: torch.Tensor) -> torch.Tensor:
        """Squared error of each image, of that of the linear maps alone, (b,)."""
        told = self.autoencoder.coarse(self.autoencoder.encode(images_b1hw).latent_dist.mean)
        linear = self.autoencoder.linear(images_b1hw)
        error, before = ((part - images_b1hw).square().mean(dim=(1, 2, 3)) for part in (told, linear))
        return error / (before + LEAST)


class ReconstructingStage:
    """What the stages of the autoencoder share: images by index, and held-out ones that they are measured on."""

    config: TrainConfig
    settings: StageConfig
    train: Corpus
    items: np.ndarray
    reconstruction: "Reconstruction"

    def _indices(self, step: int) -> np.ndarray:
        """Of the images of a step."""
        return batch_items(self.items, self.config.seed, step, self.settings.batch_size)

    def sample_ids(self, step: int) -> list[str]:
        """Ids of the images of a step, for error messages."""
        return [self.train.records[index].id for index in self._indices(step)]

    def validate(self, module: nn.Module, device: torch.device) -> dict[str, float]:
        """See `Reconstruction.measured`."""
        return self.reconstruction.measured(module.autoencoder, device)

    def sheet(self, module: nn.Module, device: torch.device) -> np.ndarray:
        """See `Reconstruction.sheet`."""
        return self.reconstruction.sheet(module.autoencoder, device)


class AutoencoderStage(ReconstructingStage):
    """What the loop asks of a stage; see loop.Stage."""

    name = "autoencoder"

    def __init__(self, config: TrainConfig, train: Corpus, validation: Corpus, start: ChestAutoencoder | None = None):
        self.config, self.settings = config, config.autoencoder
        self.train, self.validation = train, validation
        self.items = sharp_items(train)
        images = some_images(train, self.items, config.seed, PCA_IMAGES)
        autoencoder = start or self._fresh(images)
        if self.settings.steps:
            # What is left out is another thing now.
            autoencoder.register_to_config(detail_steps=0, detail_order=2, sharpening=0.0)
        # Adam's steps, as large for all weights, would only shake the linear maps.
        autoencoder.requires_grad_(False)
        autoencoder.decoder.requires_grad_(True)
        autoencoder.encoder.requires_grad_(config.new_latents)
        self.module = AutoencoderModule(autoencoder.to(memory_format=torch.channels_last))
        self.missed = missed_shares(autoencoder, train.pixels, self.items) if self.settings.steps else None
        self.reconstruction = Reconstruction(validation, self.settings.validation_images, images, autoencoder)

    def _fresh(self, images: torch.Tensor) -> ChestAutoencoder:
        torch.manual_seed(derive_seed(self.config.seed, "autoencoder weights"))
        autoencoder = build_autoencoder(self.settings.shape, self.config.resolution)
        start_from_pca(autoencoder, images, self.settings.whitening)
        return autoencoder

    def loss(self, module: nn.Module, step: int, rank: int, processes: int, device: torch.device) -> torch.Tensor:
        """Mean loss over this process's part of the batch of one step."""
        indices = self._indices(step)
        shares = self.missed[np.searchsorted(self.items, indices)]
        rng = step_rng(self.config.seed, "autoencoder", step)
        shown = missed_crops(self.train.pixels, indices, shares, self.settings.crop, rng)
        images = to_images(share(shown, rank, processes)).to(device)
        return module(images.contiguous(memory_format=torch.channels_last)).mean()

    @torch.no_grad()
    def finish(self, device: torch.device) -> ChestAutoencoder:
        """The trained autoencoder, with the scaling factor of its latents; the denoiser of `start` knows its own."""
        autoencoder = self.module.autoencoder
        if not self.config.start:
            images = some_images(self.train, self.items, self.config.seed, SCALE_IMAGES)
            latents = [autoencoder.encode(part.to(device)).latent_dist.mean for part in images.split(16)]
            autoencoder.register_to_config(scaling_factor=round(1 / torch.cat(latents).std().item(), 5))
        return autoencoder


class Reconstruction:
    """How well held-out images are told from their latents, beside the block PCA of training images."""

    def __init__(self, validation: Corpus, count: int, images_b1hw: torch.Tensor, autoencoder: ChestAutoencoder):
        self.validation, self.checked = validation, sharp_items(validation)[:count]
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


def sharp_items(corpus: Corpus) -> np.ndarray:
    """Indices of images that are native at the resolution or above; of all, where none is."""
    return corpus.sharp if len(corpus.sharp) else np.arange(len(corpus.records))


def some_images(train: Corpus, items: np.ndarray, seed: int, count: int) -> torch.Tensor:
    """At most so many of these items, at random, as `to_images`."""
    sample = np.random.default_rng(seed).permutation(items)[:count]
    return to_images(train.pixels[np.sort(sample)])


@torch.no_grad()
def missed_shares(autoencoder: ChestAutoencoder, pixels: np.ndarray, items: np.ndarray) -> np.ndarray:
    """The share of each block in what the linear maps miss of these images, float32 (items, h / 16, w / 16)."""
    shares = []
    for start in range(0, len(items), CHUNK):
        images = to_images(pixels[items[start : start + CHUNK]]).to(autoencoder.device)
        errors = avg_pool2d((images - autoencoder.linear(images)).square() + LEAST, BLOCK)[:, 0]
        shares.append((errors / errors.sum(dim=(1, 2), keepdim=True)).cpu().numpy())
    return np.concatenate(shares)


def missed_crops(
    pixels: np.ndarray, indices: np.ndarray, shares: np.ndarray, crop: int, rng: np.random.Generator
) -> np.ndarray:
    """A square of each of these images, uint8 (b, crop, crop), drawn by what is missed in it; see `missed_shares`.

    A twentieth of the blocks, letters and borders, holds nearly half of the error: squares drawn evenly would hardly
    ever show them. As errors count by what the linear maps miss of the square, the mean over squares is again that over
    the picture (importance sampling), but that squares are moved into it: blocks at its rim count about half.
    """
    size = pixels.shape[-1]
    crop, blocks = min(crop, size), size // BLOCK
    squares = []
    for index, errors in zip(indices, shares, strict=True):
        block = min(np.searchsorted(errors.ravel().cumsum(), rng.random()), blocks**2 - 1)
        corner = np.array(divmod(block, blocks)) * BLOCK - rng.integers(0, crop - BLOCK + 1, 2)
        y, x = corner.clip(0, size - crop)
        squares.append(pixels[index, y : y + crop, x : x + crop])
    return np.stack(squares)


def to_images(pixels: np.ndarray) -> torch.Tensor:
    """uint8 (b, h, w) to float (b, 1, h, w) in [-1, 1]."""
    return torch.from_numpy(to_float(np.asarray(pixels))).unsqueeze(1)


def to_pixels(images: torch.Tensor) -> np.ndarray:
    """Float (b, 1, h, w) in [-1, 1] to uint8 (b, h, w), clipped."""
    return from_float(images.squeeze(1).float().cpu().numpy())
