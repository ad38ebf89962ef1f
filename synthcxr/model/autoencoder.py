"""The embedded autoencoder: diffusers' AutoencoderKL on 4x4 pixel patches, beside a linear block transform.

A 16x16-block principal component analysis alone reconstructs a radiograph at over 30 dB, so the network only learns
what the linear map misses: latents are `linear(x) + encoder(x)` and pictures `linear(z) + decoder(z)`, and both
networks start at zero.
"""

import torch
from diffusers import AutoencoderKL, ModelMixin
from diffusers.configuration_utils import register_to_config
from diffusers.models.autoencoders.vae import DecoderOutput
from torch import nn
from torch.nn.functional import pixel_shuffle, pixel_unshuffle

# A stock pipeline finds out how to load a component of another library by asking its module for this name.
__all__ = ["ChestAutoencoder", "ModelMixin", "block_pca", "pca_reconstruction", "psnr", "start_from_pca"]

PATCH = 4  # pixel_unshuffle before the first convolution: full-resolution convolutions are what two cores can't afford
BLOCK = 16  # pixels a latent position covers, each way
INITIAL_LOGVAR = -7.0


class ChestAutoencoder(AutoencoderKL):
    """Images (b, 1, h, w) in [-1, 1] to latents (b, latent_channels, h / 16, w / 16) and back; h and w in 16s.

    Args:
        latent_channels: numbers a 16x16 block is described by.
        block_out_channels: channels at 1, 1/2, 1/4, 1/8 and 1/16 of the resolution. The first two are those of the
            pixel patches, always (4, 16); they stand here so that the length says the downsampling, as stock
            pipelines expect.
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
            mid_block_add_attention=False,
        )
        self.linear_encoder = nn.Conv2d(1, latent_channels, BLOCK, stride=BLOCK)
        self.linear_decoder = nn.ConvTranspose2d(latent_channels, 1, BLOCK, stride=BLOCK)
        nn.init.zeros_(self.quant_conv.weight)
        nn.init.zeros_(self.quant_conv.bias)
        nn.init.constant_(self.quant_conv.bias[latent_channels:], INITIAL_LOGVAR)
        nn.init.zeros_(self.decoder.conv_out.weight)
        nn.init.zeros_(self.decoder.conv_out.bias)

    def _encode(self, x: torch.Tensor) -> torch.Tensor:
        mean, logvar = super()._encode(pixel_unshuffle(x, PATCH)).chunk(2, dim=1)
        return torch.cat([mean + self.linear_encoder(x), logvar], dim=1)

    def _decode(self, z: torch.Tensor, return_dict: bool = True) -> DecoderOutput | tuple[torch.Tensor]:
        patches = super()._decode(z).sample
        sample = pixel_shuffle(patches, PATCH) + self.linear_decoder(z)
        return DecoderOutput(sample=sample) if return_dict else (sample,)


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
def start_from_pca(autoencoder: ChestAutoencoder, images_bchw: torch.Tensor) -> None:
    """Set the linear maps to the block PCA of these images, half whitened to a mean square of 1.

    Half whitened: each component is divided by the square root of its standard deviation, so that coarse components
    stay louder than fine ones and a denoiser learns the outline of a chest before its texture.
    """
    channels = autoencoder.config.latent_channels
    mean, directions, deviations = block_pca(images_bchw, channels)
    gain = deviations.rsqrt()
    gain = gain / (deviations * gain).square().mean().sqrt()
    encoder, decoder = autoencoder.linear_encoder, autoencoder.linear_decoder
    encoder.weight.copy_((directions * gain[:, None]).view(channels, 1, BLOCK, BLOCK))
    encoder.bias.copy_(-(directions @ mean) * gain)
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
