"""Stage 1: the autoencoder's decoder, on crops; its encoder is known in closed form."""

import numpy as np
import torch
from torch import nn
from torch.nn.functional import l1_loss

from synthcxr.data.corpus import Corpus
from synthcxr.images import contact_sheet, from_float, to_float
from synthcxr.model.autoencoder import ChestAutoencoder, block_pca, pca_reconstruction, psnr, start_from_pca
from synthcxr.model.embedded import build_autoencoder
from synthcxr.runs import derive_seed
from synthcxr.train.batches import batch_items, share, step_rng
from synthcxr.train.config import TrainConfig

PCA_IMAGES = 1000
SCALE_IMAGES = 256


class AutoencoderModule(nn.Module):
    """The whole forward pass in one module, so that a wrapper for several processes sees it."""

    def __init__(self, autoencoder: ChestAutoencoder):
        super().__init__()
        self.autoencoder = autoencoder

    def forward(self, images: torch.Tensor, noise: torch.Tensor, extra: torch.Tensor) -> torch.Tensor:
        """Images told by the autoencoder.

        Args:
            images: (b, 1, h, w) in [-1, 1].
            noise: (b, latent_channels, h / 16, w / 16), standard normal.
            extra: (b, 1, 1, 1) deviation of the noise on the latents.
        """
        return self.autoencoder.decode(self.autoencoder.encode(images).latent_dist.mean + extra * noise).sample


class AutoencoderStage:
    """What the loop asks of a stage; see loop.Stage."""

    name = "autoencoder"

    def __init__(self, config: TrainConfig, train: Corpus, validation: Corpus, start: ChestAutoencoder | None = None):
        self.config, self.settings = config, config.autoencoder
        self.train, self.validation = train, validation
        self.items = train.sharp if len(train.sharp) else np.arange(len(train.records))
        sample = np.random.default_rng(config.seed).permutation(self.items)[:PCA_IMAGES]
        images = to_images(train.pixels[np.sort(sample)])
        self.pca = block_pca(images, self.settings.shape.latent_channels)
        autoencoder = start or self._fresh(images)
        # What latents mean never changes; and Adam's steps, as large for all weights, would only shake the linear maps.
        autoencoder.linear_encoder.requires_grad_(False)
        autoencoder.linear_decoder.requires_grad_(False)
        self.module = AutoencoderModule(autoencoder.to(memory_format=torch.channels_last))
        sharp = validation.sharp if len(validation.sharp) else np.arange(len(validation.records))
        self.checked = sharp[: self.settings.validation_images]

    def _fresh(self, images: torch.Tensor) -> ChestAutoencoder:
        torch.manual_seed(derive_seed(self.config.seed, "autoencoder weights"))
        autoencoder = build_autoencoder(self.settings.shape, self.config.resolution)
        start_from_pca(autoencoder, images, self.settings.whitening)
        return autoencoder

    def sample_ids(self, step: int) -> list[str]:
        """Ids of the images of a step, for error messages."""
        indices = batch_items(self.items, self.config.seed, step, self.settings.batch_size)
        return [self.train.records[index].id for index in indices]

    def loss(self, module: nn.Module, step: int, rank: int, processes: int, device: torch.device) -> torch.Tensor:
        """Mean loss over this process's part of the batch of one step."""
        size, crop = self.config.resolution, min(self.settings.crop, self.config.resolution)
        indices = batch_items(self.items, self.config.seed, step, self.settings.batch_size)
        rng = step_rng(self.config.seed, "autoencoder", step)
        corners = rng.integers(0, size - crop + 1, (len(indices), 2))
        crops = np.stack(
            [
                self.train.pixels[index, y : y + crop, x : x + crop]
                for index, (y, x) in zip(indices, corners, strict=True)
            ]
        )
        channels = self.settings.shape.latent_channels
        noise = rng.standard_normal((len(indices), channels, crop // 16, crop // 16), dtype=np.float32)
        # What a denoiser makes is never quite clean: a decoder that saw only clean latents draws its errors as grain.
        scaling = self.module.autoencoder.config.scaling_factor
        extra = rng.random((len(indices), 1, 1, 1), dtype=np.float32) * self.settings.latent_noise / scaling
        images = to_images(share(crops, rank, processes)).to(device)
        told = module(images, *(torch.from_numpy(share(part, rank, processes)).to(device) for part in (noise, extra)))
        told = told.float()
        return l1_loss(told, images) + self.settings.edge_weight * edge_loss(told, images)

    @torch.no_grad()
    def validate(self, module: nn.Module, device: torch.device) -> dict[str, float]:
        """Mean PSNR (dB) on held-out images, beside the block PCA with as many numbers."""
        values, floor = [], []
        for start in range(0, len(self.checked), 16):
            images = to_images(self.validation.pixels[self.checked[start : start + 16]])
            values += psnr(images, self._tell(module, images, device)).tolist()
            floor += psnr(images, pca_reconstruction(images, self.pca)).tolist()
        return {"psnr": float(np.mean(values)), "psnr_pca": float(np.mean(floor)), "images": float(len(values))}

    @torch.no_grad()
    def sheet(self, module: nn.Module, device: torch.device) -> np.ndarray:
        """Held-out images above what the autoencoder tells of them."""
        pixels = self.validation.pixels[self.checked[:8]]
        told = self._tell(module, to_images(pixels), device)
        return contact_sheet([*pixels, *to_pixels(told)], columns=len(pixels))

    def _tell(self, module: nn.Module, images: torch.Tensor, device: torch.device) -> torch.Tensor:
        autoencoder = module.autoencoder
        return autoencoder.decode(autoencoder.encode(images.to(device)).latent_dist.mean).sample.float().cpu()

    @torch.no_grad()
    def finish(self, device: torch.device) -> ChestAutoencoder:
        """The trained autoencoder, with the scaling factor of its latents."""
        autoencoder = self.module.autoencoder
        if self.config.start:
            return autoencoder
        images = to_images(self.train.pixels[np.sort(self.items[:SCALE_IMAGES])])
        deviation = torch.cat([autoencoder.encode(part.to(device)).latent_dist.mean for part in images.split(16)]).std()
        autoencoder.register_to_config(scaling_factor=round(1 / deviation.item(), 5))
        return autoencoder


def to_images(pixels: np.ndarray) -> torch.Tensor:
    """uint8 (b, h, w) to float (b, 1, h, w) in [-1, 1]."""
    return torch.from_numpy(to_float(np.asarray(pixels))).unsqueeze(1)


def to_pixels(images: torch.Tensor) -> np.ndarray:
    """Float (b, 1, h, w) in [-1, 1] to uint8 (b, h, w), clipped."""
    return from_float(images.squeeze(1).float().cpu().numpy())


def edge_loss(a_bchw: torch.Tensor, b_bchw: torch.Tensor) -> torch.Tensor:
    """Mean absolute difference of horizontal and vertical gradients: blur costs where plain error hardly does."""
    difference = a_bchw - b_bchw
    return difference.diff(dim=2).abs().mean() + difference.diff(dim=3).abs().mean()
