"""The embedded denoiser: diffusers' UNet, for what the best linear denoiser leaves over.

Radiographs of a chest are much alike. If their latents were Gaussian, v would be a linear function of what is seen,
known in closed form from mean and covariance (Wang and Vastola 2024, "The unreasonable effectiveness of Gaussian score
approximation", eq. 4); it's added outside of the network, which is given its answer and learns the rest, at unit scale
(Karras et al. 2022, table 1, for each channel and for v). So no training is spent on what statistics tell.
"""

import functools
import math
from typing import Any

import torch
from diffusers import DDPMScheduler, ModelMixin, UNet2DConditionModel
from diffusers.models.unets.unet_2d_condition import UNet2DConditionOutput
from torch import nn

from synthcxr.diffusion import alpha_sigma
from synthcxr.model.autoencoder import cosines

# A stock pipeline finds out how to load a component of another library by asking its module for this name.
__all__ = ["ChestUNet", "Gaussian", "ModelMixin", "build_scheduler"]

DIRECTIONS = 128  # of the covariance that are kept as they are, at most half of all


def build_scheduler() -> DDPMScheduler:
    """The training schedule: linear, zero terminal signal-to-noise ratio, v-prediction (Lin et al. 2024).

    Linear (Ho et al. 2020), not cosine: neighbouring latents of a chest tell the same thing, and their coarse
    components are loud, so its layout is still readable at noise under which single numbers have drowned. A schedule
    has to spend its steps there (Chen 2023, "On the importance of noise scheduling", section 2): with cosine betas
    19 of 20 timesteps already show the layout, and the first sampling step settles it.
    """
    return DDPMScheduler(
        num_train_timesteps=1000,
        beta_schedule="linear",
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
        clip_sample=False,
    )


@functools.cache
def _alphas_cumprod() -> torch.Tensor:
    with torch.inference_mode(False):  # what is kept must serve training too
        return build_scheduler().alphas_cumprod


class Gaussian(nn.Module):
    """Latents (channels, side, side) as a Gaussian: a mean, leading directions, and a spectrum for all else.

    All else is taken for stationary: each channel's cosine transform has independent coefficients.

    Attributes:
        mean: (channels, side, side).
        directions, loudness: (k, channels * side * side) orthonormal, and their standard deviations (k,).
        spectrum: (channels, side, side) standard deviation of each coefficient of what the directions leave.
    """

    def __init__(self, channels: int, side: int):
        super().__init__()
        kept, shape = min(DIRECTIONS, channels * side**2 // 2), (channels, side, side)
        self.register_buffer("mean", torch.zeros(shape))
        self.register_buffer("directions", torch.zeros(kept, math.prod(shape)))
        self.register_buffer("loudness", torch.ones(kept))
        self.register_buffer("spectrum", torch.ones(shape))

    @torch.no_grad()
    def fit(self, latents_bchw: torch.Tensor) -> None:
        """Set everything to what these latents show, at least as many as there are directions to keep."""
        self.mean.copy_(latents_bchw.mean(0))
        rows = (latents_bchw - self.mean).flatten(1)
        values, vectors = torch.linalg.eigh((rows @ rows.T / len(rows)).double())
        values, vectors = (part.flip(-1)[..., : len(self.loudness)].float() for part in (values, vectors))
        self.directions.copy_(nn.functional.normalize(vectors.T @ rows))
        self.loudness.copy_(values.clamp_min(0).sqrt())
        left = rows - rows @ self.directions.T @ self.directions
        self.spectrum.copy_(self._cosines(left.view_as(latents_bchw)).square().mean(0).sqrt())

    def v(self, seen: torch.Tensor, alpha: torch.Tensor, sigma: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The best guess of v, and the standard deviation of its error in each channel, (b, channels, 1, 1).

        In a direction of deviation s, v of x_t = alpha x + sigma eps is expected at alpha sigma (1 - s^2) / (alpha^2
        s^2 + sigma^2) x_t, and s^2 / (alpha^2 s^2 + sigma^2) of its variance is left.

        Args:
            seen: (b, channels, side, side) noisy latents, float32.
            alpha, sigma: (b or 1, 1, 1, 1).
        """
        centred = seen - alpha * self.mean
        flat, along = centred.flatten(1), centred.flatten(1) @ self.directions.T
        rest = self._cosines((flat - along @ self.directions).view_as(seen))
        loud, wide = self.loudness.square(), self.spectrum.square()
        total_along = (alpha.square() * loud + sigma.square()).flatten(1)
        total = alpha.square() * wide + sigma.square()
        gain_along = (alpha * sigma).flatten(1) * (1 - loud) / total_along
        told = self._cosines(alpha * sigma * (1 - wide) / total * rest, back=True)
        told = told + ((gain_along * along) @ self.directions).view_as(seen) - sigma * self.mean
        left = (wide / total).mean(dim=(2, 3)) + (loud / total_along) @ self._shares
        return told, left.sqrt()[:, :, None, None]

    @property
    def power(self) -> torch.Tensor:
        """Variance of each channel, (channels,)."""
        return self.spectrum.square().mean(dim=(1, 2)) + self.loudness.square() @ self._shares

    @property
    def _shares(self) -> torch.Tensor:
        """How much of each direction lies in each channel, a position's part of it, (k, channels)."""
        return self.directions.view(-1, *self.mean.shape).square().mean(dim=(2, 3))

    def _cosines(self, latents_bchw: torch.Tensor, back: bool = False) -> torch.Tensor:
        """The orthonormal cosine transform of type II over both sides, or its inverse."""
        matrix = cosines(latents_bchw.shape[-1]).to(latents_bchw)
        matrix = matrix.T if back else matrix
        return matrix @ latents_bchw @ matrix.T


class ChestUNet(UNet2DConditionModel):
    """v of noisy latents (b, channels, side, side), on the schedule of `build_scheduler`.

    Attributes:
        gaussian: what is known of clean latents; to be fitted before training.
    """

    @functools.wraps(UNet2DConditionModel.__init__)  # the parent's signature too, which its config is made from
    def __init__(self, *args: Any, **settings: Any):
        super().__init__(*args, **settings)
        channels, width = self.config.in_channels, self.config.block_out_channels[0]
        self.gaussian = Gaussian(channels, self.config.sample_size)
        self.conv_in = nn.Conv2d(2 * channels, width, 3, padding=1)  # what is seen, and what the Gaussian makes of it
        # Not begun at zero, as is usual: what is left is uncorrelated with all that is linear in what the network is
        # given, so that the last layer alone would find nothing to learn, and hand no gradient on.

    @functools.wraps(UNet2DConditionModel.forward)
    def forward(
        self, sample: torch.Tensor, timestep: torch.Tensor | float | int, *args: Any, return_dict: bool = True,
        **conditions: Any,
    ) -> UNet2DConditionOutput | tuple[torch.Tensor]:  # fmt: skip
        side = self.config.sample_size
        if sample.shape[-2:] != (side, side):
            raise ValueError(f"latents of {tuple(sample.shape[-2:])}; this model knows {side} x {side} alone")
        t_b = torch.as_tensor(timestep, device="cpu").reshape(-1).long()
        alpha, sigma = (part.to(sample.device) for part in alpha_sigma(_alphas_cumprod(), t_b))
        with torch.autocast(sample.device.type, enabled=False):
            seen = sample.float()
            linear, left = self.gaussian.v(seen, alpha, sigma)
            power = self.gaussian.power.view(1, -1, 1, 1)
            scaled = seen / (alpha.square() * power + sigma.square()).sqrt()
            clean = (alpha * seen - sigma * linear) / power.sqrt()
            given = torch.cat([scaled, clean], dim=1).to(sample.dtype)
        told = super().forward(given, timestep, *args, return_dict=False, **conditions)
        v = (linear + left * told[0]).to(sample.dtype)
        return UNet2DConditionOutput(sample=v) if return_dict else (v,)
