"""The embedded autoencoder: a lapped orthogonal transform, and diffusers' decoder for what it leaves out.

Latents are linear in the pixels and orthonormal: an error in them is as large in the picture, and as it spreads over
overlapping blocks it leaves no seams. So noise on latents is noise on pixels, which a denoiser clears from coarse to
fine. Pictures are `linear(z) + decoder(z)`; the decoder starts at zero and may be trained at any time, before the
denoiser or after it, since the latents stay what they are.
"""

import math
from functools import lru_cache

import torch
from diffusers import AutoencoderKL, ModelMixin
from diffusers.configuration_utils import register_to_config
from diffusers.models.autoencoders.vae import DecoderOutput
from torch import nn
from torch.nn.functional import pixel_shuffle, pixel_unshuffle

# A stock pipeline finds out how to load a component of another library by asking its module for this name.
__all__ = [
    "ChestAutoencoder", "ModelMixin", "block_pca", "lap", "lapping", "pca_reconstruction", "psnr", "start_from_pca",
    "unlap",
]  # fmt: skip

PATCH = 4  # pixels a decoder output position covers: full-resolution convolutions are what two cores can't afford
BLOCK = 16  # pixels a latent position covers, each way
LOGVAR = -16.0  # of the posterior: latents are a function of the image


class ChestAutoencoder(AutoencoderKL):
    """Images (b, 1, h, w) in [-1, 1] to latents (b, latent_channels, h / 16, w / 16) and back; h and w in 16s.

    Args:
        latent_channels: numbers a 16x16 block is described by.
        block_out_channels: the decoder's channels at 1, 1/2, 1/4, 1/8 and 1/16 of the resolution. The first two are
            those of the pixel patches, always (4, 16); they stand here so that the length says the downsampling, as
            stock pipelines expect.
        scaling_factor: what latents are multiplied by for the denoiser, 1 / (their standard deviation).
    """

    @register_to_config
    def __init__(
        self,
        latent_channels: int = 16,
        block_out_channels: tuple[int, ...] = (4, 16, 64, 96, 128),
        layers_per_block: int = 1,
        norm_num_groups: int = 16,
        sample_size: int = 256,
        scaling_factor: float = 1.0,
        force_upcast: bool = False,
    ):
        levels = len(block_out_channels) - 2
        # Past the parent's decorator, which would write the parent's arguments over ours in the config.
        AutoencoderKL.__init__.__wrapped__(
            self,
            in_channels=PATCH**2,
            out_channels=PATCH**2,
            down_block_types=("DownEncoderBlock2D",) * levels,
            up_block_types=("UpDecoderBlock2D",) * levels,
            block_out_channels=tuple(block_out_channels[2:]),
            layers_per_block=layers_per_block,
            latent_channels=latent_channels,
            norm_num_groups=norm_num_groups,
            sample_size=sample_size,
            scaling_factor=scaling_factor,
            force_upcast=force_upcast,
            use_quant_conv=False,
            mid_block_add_attention=False,
        )
        del self.encoder  # the linear map is all there is
        self.linear_encoder = nn.Conv2d(1, latent_channels, BLOCK, stride=BLOCK)
        self.linear_decoder = nn.ConvTranspose2d(latent_channels, 1, BLOCK, stride=BLOCK)
        nn.init.zeros_(self.decoder.conv_out.weight)
        nn.init.zeros_(self.decoder.conv_out.bias)

    def _encode(self, x: torch.Tensor) -> torch.Tensor:
        mean = self.linear_encoder(lap(x))
        return torch.cat([mean, torch.full_like(mean, LOGVAR)], dim=1)

    def _decode(self, z: torch.Tensor, return_dict: bool = True) -> DecoderOutput | tuple[torch.Tensor]:
        patches = super()._decode(z).sample
        sample = pixel_shuffle(patches, PATCH) + unlap(self.linear_decoder(z))
        return DecoderOutput(sample=sample) if return_dict else (sample,)


@lru_cache(maxsize=8)
@torch.inference_mode(False)  # what is kept must serve training too
def lapping(size: int) -> torch.Tensor:
    """The orthogonal filter across block seams that makes a block transform a lapped one, (size, size), float32.

    Eight pixels either side of each seam are mixed, their sums left alone and their differences turned (Tran, Liang
    and Tu 2003, "Lapped transform via time-domain pre- and post-filtering", eq. 9 and 13: the filter of Malvar's lapped
    orthogonal transform). Constants pass unchanged, and so do the eight pixels at the picture's edge.
    """
    half = BLOCK // 2
    even, odd = cosines(half), cosines(half, 0.5)
    flip = torch.eye(half, dtype=torch.float64).flip(0)
    turn = flip @ even.T @ odd @ flip
    eye = torch.eye(half, dtype=torch.float64)
    butterfly = torch.cat([torch.cat([eye, flip], 1), torch.cat([flip, -eye], 1)]) / math.sqrt(2)
    across = butterfly @ torch.block_diag(eye, turn) @ butterfly
    matrix = torch.eye(size, dtype=torch.float64)
    for seam in range(BLOCK, size, BLOCK):
        matrix[seam - half : seam + half, seam - half : seam + half] = across
    return matrix.float()


@lru_cache(maxsize=8)
@torch.inference_mode(False)
def cosines(size: int, shift: float = 0.0) -> torch.Tensor:
    """The orthonormal cosine transform of type II (shift 0) or IV (shift 1/2), (size, size), float64."""
    rows, columns = torch.arange(size, dtype=torch.float64)[:, None] + shift, torch.arange(size) + 0.5
    matrix = torch.cos(math.pi * rows * columns / size) * math.sqrt(2 / size)
    if not shift:
        matrix[0] /= math.sqrt(2)
    return matrix


def lap(images_bchw: torch.Tensor) -> torch.Tensor:
    """Images filtered across the seams of their blocks, both ways; `unlap` is the inverse."""
    down, across = (lapping(side).to(images_bchw) for side in images_bchw.shape[-2:])
    return down @ images_bchw @ across.T


def unlap(images_bchw: torch.Tensor) -> torch.Tensor:
    """The inverse of `lap`."""
    down, across = (lapping(side).to(images_bchw) for side in images_bchw.shape[-2:])
    return down.T @ images_bchw @ across


def block_pca(images_bchw: torch.Tensor, components: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Principal components of non-overlapping 16x16 blocks.

    Args:
        images_bchw: (b, 1, h, w).
        components: how many to keep, at most 256.
    Returns:
        (256,) mean block, (components, 256) orthonormal directions, (components,) standard deviations, falling.
    """
    blocks = pixel_unshuffle(images_bchw.double(), BLOCK).permute(0, 2, 3, 1).reshape(-1, BLOCK**2)
    mean = blocks.mean(0)
    variances, vectors = torch.linalg.eigh((blocks - mean).T @ (blocks - mean) / len(blocks))
    order = variances.argsort(descending=True)[:components]
    return mean.float(), vectors[:, order].T.float().contiguous(), variances[order].clamp_min(1e-12).sqrt().float()


@torch.no_grad()
def start_from_pca(autoencoder: ChestAutoencoder, images_bchw: torch.Tensor, whitening: float = 0.0) -> None:
    """Set the linear maps to the block PCA of these images, lapped, with latents of a mean square of 1.

    Args:
        whitening: each component is divided by its standard deviation to this power. At 0 latents are orthonormal; at
            1 all components are as loud, and errors in the coarse ones show as large patches.
    """
    channels = autoencoder.config.latent_channels
    mean, directions, deviations = block_pca(lap(images_bchw), channels)
    gain = deviations.pow(-whitening)
    gain = gain / (deviations * gain).square().mean().sqrt()
    encoder, decoder = autoencoder.linear_encoder, autoencoder.linear_decoder
    encoder.weight.copy_((directions * gain[:, None]).view(channels, 1, BLOCK, BLOCK))
    decoder.weight.copy_((directions / gain[:, None]).view(channels, 1, BLOCK, BLOCK))
    # One grey level stands for the mean block, which is nearly flat: a transposed convolution has one bias for all.
    grey = mean.mean()
    encoder.bias.copy_(-directions.sum(1) * grey * gain)
    decoder.bias.fill_(grey)


def pca_reconstruction(
    images_bchw: torch.Tensor, fitted: tuple[torch.Tensor, torch.Tensor, torch.Tensor]
) -> torch.Tensor:
    """Images as the block PCA of `block_pca` tells them with its components: the floor for an autoencoder."""
    mean, directions, _ = fitted
    blocks = pixel_unshuffle(images_bchw, BLOCK).movedim(1, -1) - mean
    told = blocks @ directions.T @ directions + mean
    return pixel_shuffle(told.movedim(-1, 1), BLOCK)


def psnr(images_bchw: torch.Tensor, told_bchw: torch.Tensor) -> torch.Tensor:
    """Peak signal-to-noise ratio of each image in dB, (b,); both in [-1, 1] (a peak-to-peak of 2), clipped."""
    error = (told_bchw.clamp(-1, 1) - images_bchw).square().mean(dim=(1, 2, 3))
    return 10 * torch.log10(4 / error.clamp_min(1e-12))
