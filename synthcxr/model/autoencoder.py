"""The embedded autoencoder: a lapped orthogonal transform, networks beside it, and a model of what these leave out.

Latents are nearly linear in the pixels, and that part is orthonormal: an error in them is as large in the picture, and
as it spreads over overlapping blocks it leaves no seams. So noise on latents is noise on pixels, which a denoiser
clears from coarse to fine. An analysis transform adds a little to them, most to the finest, which lets its counterpart,
the synthesis transform, tell letters, devices and borders, as no linear map of as many numbers can (Balle et al. 2021,
"Nonlinear transform coding").

Pictures are `coarse(z) + detail`. Detail can't be told from latents, only be made up. So it's drawn by denoising,
beside the coarse part that it has to fit (as in Shi et al. 2022, "DiVAE", and Zhao et al. 2024, "Denoising as visual
decoding"), in the space that the linear map leaves free. It may be trained at any time, before the denoiser or after.
"""

from collections.abc import Iterator
from functools import lru_cache

import torch
from diffusers import AutoencoderKL, ModelMixin, UNet2DModel
from diffusers.configuration_utils import register_to_config
from diffusers.models.autoencoders.vae import DecoderOutput
from torch import nn
from torch.nn.functional import conv2d, conv_transpose2d, normalize, pad, pixel_shuffle, pixel_unshuffle

from synthcxr.diffusion import AlphaSigma
from synthcxr.model.lapped import BLOCK, block_pca, lap, unlap
from synthcxr.model.transform import PATCH, analysis, synthesis

# A stock pipeline finds out how to load a component of another library by asking its module for this name.
__all__ = [
    "ChestAutoencoder", "ModelMixin", "detail_noise", "detail_places", "edge_energy", "own_noise", "psnr", "sharpened",
    "start_from_pca",
]  # fmt: skip

NOISE_OVER_DETAIL = (0.05, 30.0)  # least and most sigma / alpha: where flat parts, and the brightest edges, drown
NOISES = 64  # that the noise of a picture is mixed from
LOGVAR = -16.0  # of the posterior: latents are a function of the image
# What the networks' answers are multiplied by, so that they begin at the size of what they are to tell: latents have a
# mean square of 1, and pixels are missed by a tenth at most.
ADDED, MISSED = 0.3, 0.1


class ChestAutoencoder(AutoencoderKL):
    """Images (b, 1, h, w) in [-1, 1] to latents (b, latent_channels, h / 16, w / 16) and back; h and w in 16s.

    `encoder` and `decoder` are the transforms, analysis and synthesis; `detail` is what tells v of noisy detail.

    Args:
        latent_channels: numbers a 16x16 block is described by.
        block_out_channels: the transforms' channels at 1, 1/2, 1/4, 1/8 and 1/16 of the resolution. The first two are
            those of the pixel patches, always (4, 16); they stand here so that the length says the downsampling, as
            stock pipelines expect.
        layers_per_block: residual blocks at each of the last three.
        detail_channels: of `detail`, at the last three.
        scaling_factor: what latents are multiplied by for the denoiser, 1 / (their standard deviation).
        detail_steps: in how many evaluations detail is drawn; 0 leaves it out.
        detail_order: of the solver; 1 for a network that learned whole steps, in this number alone (train.few_detail).
        detail_scale: standard deviation of detail, in units of pixels.
        detail_gain: what drawn detail is multiplied by besides: a network's answers lean to the mean, so that detail
            comes out too faint (Karras et al. 2022, section 4, on S_noise); beside sharpening less of it is needed.
        sharpening: of pictures, see `sharpened`.
    """

    @register_to_config
    def __init__(
        self,
        latent_channels: int = 16,
        block_out_channels: tuple[int, ...] = (4, 16, 64, 64, 64),
        layers_per_block: int = 2,
        detail_channels: tuple[int, ...] = (48, 32, 24),
        norm_num_groups: int = 8,
        sample_size: int = 256,
        scaling_factor: float = 1.0,
        force_upcast: bool = False,
        detail_steps: int = 0,
        detail_order: int = 2,
        detail_scale: float = 1.0,
        detail_gain: float = 1.0,
        sharpening: float = 0.0,
    ):
        # Past the parent's decorator, which would write the parent's arguments over ours in the config.
        AutoencoderKL.__init__.__wrapped__(
            self,
            block_out_channels=(norm_num_groups,),  # of networks that ours take the place of
            latent_channels=latent_channels,
            norm_num_groups=norm_num_groups,
            sample_size=sample_size,
            scaling_factor=scaling_factor,
            force_upcast=force_upcast,
            use_quant_conv=False,
            use_post_quant_conv=False,
            mid_block_add_attention=False,
        )
        self.linear_encoder = nn.Conv2d(1, latent_channels, BLOCK, stride=BLOCK)
        self.linear_decoder = nn.ConvTranspose2d(latent_channels, 1, BLOCK, stride=BLOCK)
        self.encoder = analysis(block_out_channels[2:], layers_per_block, latent_channels)
        self.decoder = synthesis(block_out_channels[2:], layers_per_block, latent_channels)
        self.detail = UNet2DModel(
            in_channels=2 * PATCH**2,
            out_channels=PATCH**2,
            down_block_types=("DownBlock2D",) * len(detail_channels),
            up_block_types=("UpBlock2D",) * len(detail_channels),
            block_out_channels=tuple(detail_channels),
            layers_per_block=1,
            norm_num_groups=norm_num_groups,
            add_attention=False,
        )

    def _encode(self, x: torch.Tensor) -> torch.Tensor:
        mean = self._linear_latents(x) + ADDED * self.encoder(x)
        return torch.cat([mean, torch.full_like(mean, LOGVAR)], dim=1)

    def _decode(self, z: torch.Tensor, return_dict: bool = True) -> DecoderOutput | tuple[torch.Tensor]:
        coarse = self.coarse(z)
        sample = coarse + self.drawn(z, coarse) if self.config.detail_steps else coarse
        sample = sharpened(sample, self.config.sharpening)
        return DecoderOutput(sample=sample) if return_dict else (sample,)

    def linear(self, images_b1hw: torch.Tensor) -> torch.Tensor:
        """Images as the linear maps alone tell them, (b, 1, h, w): without any training."""
        return self._linear_picture(self._linear_latents(images_b1hw))

    # Never in less than the weights' precision: errors of bfloat16 are as large as what the networks are to tell.
    def _linear_latents(self, images: torch.Tensor) -> torch.Tensor:
        with torch.autocast(images.device.type, enabled=False):
            return self.linear_encoder(lap(images.to(self.linear_encoder.weight.dtype)))

    def _linear_picture(self, z: torch.Tensor) -> torch.Tensor:
        with torch.autocast(z.device.type, enabled=False):
            return unlap(self.linear_decoder(z.to(self.linear_decoder.weight.dtype)))

    def coarse(self, z: torch.Tensor) -> torch.Tensor:
        """What latents tell of a picture, (b, 1, h, w)."""
        return self._linear_picture(z) + MISSED * self.decoder(z)

    def free(self, images_b1hw: torch.Tensor) -> torch.Tensor:
        """The part of these that the linear map tells nothing of, orthogonal to all that it tells."""
        with torch.autocast(images_b1hw.device.type, enabled=False):
            images = images_b1hw.to(self.linear_encoder.weight.dtype)
            told = conv2d(lap(images), self.linear_encoder.weight, stride=BLOCK)
            return images - unlap(conv_transpose2d(told, self.linear_decoder.weight, stride=BLOCK))

    def detail_v(self, noisy: torch.Tensor, coarse: torch.Tensor, place: torch.Tensor) -> torch.Tensor:
        """v of noisy detail, (b, 1, h, w), beside its coarse part; `place` (b,) as in `detail_noise`."""
        patches = torch.cat([pixel_unshuffle(noisy, PATCH), pixel_unshuffle(coarse, PATCH)], dim=1)
        told = self.detail(patches, 1000 * place, return_dict=False)[0]
        return self.free(pixel_shuffle(told, PATCH))

    def drawn(self, z: torch.Tensor, coarse: torch.Tensor) -> torch.Tensor:
        """Detail for these latents and their coarse part, (b, 1, h, w), the same each time: from `own_noise`."""
        *_, (_, clean) = self.detail_way(self.free(own_noise(z)), coarse, self.config.detail_steps)
        return self.config.detail_gain * self.config.detail_scale * clean

    def detail_way(
        self, noise: torch.Tensor, coarse: torch.Tensor, steps: int
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """From free noise to detail: noisy detail as each evaluation sees it, and what it takes for clean.

        By DPM-Solver++ (2M; Lu et al. 2022, algorithm 2), or of order 1 DDIM. The last answer, at a noise that hides
        hardly anything any more, is taken as it is.
        """
        levels = list(zip(*(part.flatten().tolist() for part in detail_noise(detail_places(steps))), strict=True))
        seen, before = noise, None
        for place, (alpha, sigma), then in zip(detail_places(steps), levels, [*levels[1:], None], strict=True):
            told = self.detail_v(seen, coarse, place.expand(len(seen)).to(seen.device))
            clean = alpha * seen - sigma * told
            yield seen, clean
            if then:
                # Places are equal steps of log noise over detail: the line through two answers is met half a step on.
                ahead = clean if before is None or self.config.detail_order == 1 else 1.5 * clean - 0.5 * before
                kept = then[1] / sigma
                seen, before = kept * seen + (then[0] - alpha * kept) * ahead, clean


def detail_places(steps: int) -> torch.Tensor:
    """Where on the schedule of `detail_noise` this many evaluations are made, (steps,), from noise on."""
    return torch.linspace(1, 0, steps + 1)[:-1]


def detail_noise(place_b: torch.Tensor) -> AlphaSigma:
    """alpha and sigma, each (b, 1, 1, 1), at these places of the schedule: 0 hardly any noise, 1 noise alone."""
    low, high = NOISE_OVER_DETAIL
    ratio = (low * (high / low) ** place_b).view(-1, 1, 1, 1)
    alpha = (1 + ratio.square()).rsqrt()
    return alpha, ratio * alpha


def own_noise(z: torch.Tensor) -> torch.Tensor:
    """Standard normal noise for each picture, (b, 1, 16 h, 16 w), that follows from its latents (b, channels, h, w).

    So the same latents always give the same picture, in any batch; others give noise of their own (one for all would be
    a watermark of grain), and nearly the same latents nearly the same noise: rounding turns no picture into another.
    It's a mixture of noises that are fixed, by weights that finer latents, projected at random, decide.
    """
    fine = z[:, z.shape[1] // 2 :].float().flatten(1)
    projections, noises = _fixed(fine.shape[1], *z.shape[-2:], z.device)
    with torch.autocast(z.device.type, enabled=False):
        return (normalize(fine @ projections) @ noises).view(len(z), 1, BLOCK * z.shape[2], BLOCK * z.shape[3])


@lru_cache(maxsize=4)
@torch.inference_mode(False)
def _fixed(numbers: int, height: int, width: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Directions to project latents on, (numbers, NOISES), and noises of their pictures' size, (NOISES, pixels)."""
    rng = torch.Generator().manual_seed(0)  # on the CPU: the same on every device
    shapes = ((numbers, NOISES), (NOISES, BLOCK**2 * height * width))
    return tuple(torch.randn(shape, generator=rng).to(device) for shape in shapes)


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


def sharpened(images_b1hw: torch.Tensor, amount: float) -> torch.Tensor:
    """Images less `amount` times their Laplacian: unsharp masking.

    The guess of least error is the mean of all that may be, so its edges are faint. To bring them back this way costs
    less error than to draw as much detail: it strengthens what is known.
    """
    if not amount:
        return images_b1hw
    padded = pad(images_b1hw, (1, 1, 1, 1), mode="replicate")
    down, across = (padded[..., 1:-1].diff(n=2, dim=2), padded[..., 1:-1, :].diff(n=2, dim=3))
    return images_b1hw - amount * (down + across)


def edge_energy(images_bchw: torch.Tensor) -> torch.Tensor:
    """Mean square of horizontal and vertical differences of neighbours, (b,)."""
    return sum(images_bchw.diff(dim=dim).square().mean(dim=(1, 2, 3)) for dim in (2, 3))


def psnr(images_bchw: torch.Tensor, told_bchw: torch.Tensor) -> torch.Tensor:
    """Peak signal-to-noise ratio of each image in dB, (b,); both in [-1, 1] (a peak-to-peak of 2), clipped."""
    error = (told_bchw.clamp(-1, 1) - images_bchw).square().mean(dim=(1, 2, 3))
    return 10 * torch.log10(4 / error.clamp_min(1e-12))
