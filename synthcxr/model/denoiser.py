"""The embedded denoiser: diffusers' UNet, for what the best linear denoiser leaves over.

Radiographs of a chest are much alike. If their latents were Gaussian, v would be a linear function of what is seen,
known in closed form from mean and covariance (Wang and Vastola 2024, "The unreasonable effectiveness of Gaussian score
approximation", eq. 4). A network would spend its first thousands of steps on learning that, so it's added outside of
it; the network is given its answer, and learns the rest at the scale of what a filter of each channel alone leaves over
(Karras et al. 2022, table 1, for each channel and for v).
"""

import functools
import math
from typing import Any

import numpy as np
import torch
from diffusers import DDPMScheduler, ModelMixin, UNet2DConditionModel
from diffusers.models.unets.unet_2d_condition import UNet2DConditionOutput
from torch import nn

from synthcxr.diffusion import AlphaSigma, alpha_sigma, ddim_step
from synthcxr.model.lapped import cosines

# A stock pipeline finds out how to load a component of another library by asking its module for this name.
__all__ = ["ChestUNet", "Gaussian", "ModelMixin", "after", "build_scheduler"]

TIMESTEPS = 1000
NOISE_OVER_SIGNAL = (0.03, 60.0)
DIRECTIONS = 64  # of the covariance that are kept as they are, at most half of all


def build_scheduler() -> DDPMScheduler:
    """The training schedule: noise that grows by the same factor each step, zero terminal signal-to-noise ratio, v.

    Noise over signal goes from 0.03 (hidden by the grey levels of 8 bits) to 60 (the loudest direction of the latents
    has a deviation of 37), and from there to infinity (Lin et al. 2024). The parts of a picture, from its layout to
    its finest edges, differ in loudness by a factor of a thousand and are settled one after the other; on this
    schedule every octave of them gets as many steps, in training and in any sampler that spaces its steps evenly.
    """
    ratio = np.geomspace(*NOISE_OVER_SIGNAL, TIMESTEPS)
    alphas_cumprod = 1 / (1 + ratio**2)
    betas = 1 - alphas_cumprod / np.concatenate([[1.0], alphas_cumprod[:-1]])
    return DDPMScheduler(
        num_train_timesteps=TIMESTEPS,
        trained_betas=betas.tolist(),
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
        """Set everything to what these latents show; fewer of them than directions leave the others zero."""
        self.mean.copy_(latents_bchw.mean(0))
        rows = (latents_bchw - self.mean).flatten(1)
        values, vectors = torch.linalg.eigh((rows @ rows.T / len(rows)).double())
        values, vectors = (part.flip(-1)[..., : len(self.loudness)].float() for part in (values, vectors))
        self.directions.zero_()[: len(values)] = nn.functional.normalize(vectors.T @ rows)
        self.loudness.zero_()[: len(values)] = values.clamp_min(0).sqrt()
        left = rows - rows @ self.directions.T @ self.directions
        self.spectrum.copy_(self._cosines(left.view_as(latents_bchw)).square().mean(0).sqrt())

    def v(self, seen: torch.Tensor, alpha: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        """The best guess of v.

        In a direction of deviation s, v of x_t = alpha x + sigma eps is expected at alpha sigma (1 - s^2) / (alpha^2
        s^2 + sigma^2) x_t.

        Args:
            seen: (b, channels, side, side) noisy latents, float32.
            alpha, sigma: (b or 1, 1, 1, 1).
        """
        told = self._each_direction(
            seen - alpha * self.mean, _gain(self.loudness.square(), alpha.flatten(1), sigma.flatten(1)),
            _gain(self.spectrum.square(), alpha, sigma),
        )  # fmt: skip
        return told - sigma * self.mean

    def secant(self, seen: torch.Tensor, now: AlphaSigma, then: AlphaSigma) -> torch.Tensor:
        """The v that leads a DDIM step from x_t to where x_t flows, where there is nothing but the Gaussian.

        Along the probability flow a direction of deviation s grows as its marginal does: x_t' = sqrt((alpha'^2 s^2 +
        sigma'^2) / (alpha^2 s^2 + sigma^2)) x_t, exactly and over any distance (Wang and Vastola 2024, eq. 9). DDIM
        goes where `ddim_step` says. As t' nears t, this is `v`.

        Args:
            seen: as in `v`.
            now, then: alpha and sigma at t and t', each (b or 1, 1, 1, 1).
        """
        alpha, alpha_then = now[0], then[0]
        kept, turned = ddim_step(now, then)

        def gain(variance: torch.Tensor, now: AlphaSigma, then: AlphaSigma) -> torch.Tensor:
            begin, end = (a.square() * variance + s.square() for a, s in (now, then))
            kept, turned = ddim_step(now, then)
            return ((end / begin).sqrt() - kept) / turned

        flat = [tuple(part.flatten(1) for part in at) for at in (now, then)]
        told = self._each_direction(
            seen - alpha * self.mean, gain(self.loudness.square(), *flat), gain(self.spectrum.square(), now, then)
        )
        return told + (alpha_then - kept * alpha) / turned * self.mean

    def alone(
        self, seen: torch.Tensor, alpha: torch.Tensor, sigma: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """The same, if every number were known by the power of its channel alone.

        Returns:
            What is seen, at unit variance; v, both of the shape of `seen`; and the deviation of the error of v,
            (b, channels, 1, 1).
        """
        power = self.power.view(1, -1, 1, 1)
        total = alpha.square() * power + sigma.square()
        centred = seen - alpha * self.mean
        told = _gain(power, alpha, sigma) * centred - sigma * self.mean
        return centred / total.sqrt(), told, (power / total).sqrt()

    @property
    def power(self) -> torch.Tensor:
        """Variance of each channel, (channels,)."""
        return self.spectrum.square().mean(dim=(1, 2)) + self.loudness.square() @ self._shares

    @property
    def _shares(self) -> torch.Tensor:
        """How much of each direction lies in each channel, a position's part of it, (k, channels)."""
        return self.directions.view(-1, *self.mean.shape).square().mean(dim=(2, 3))

    def _each_direction(self, centred: torch.Tensor, leading: torch.Tensor, rest: torch.Tensor) -> torch.Tensor:
        """Centred latents with the leading directions (b, k) and the cosine coefficients of the rest multiplied."""
        flat, along = centred.flatten(1), centred.flatten(1) @ self.directions.T
        left = self._cosines((flat - along @ self.directions).view_as(centred))
        return self._cosines(rest * left, back=True) + ((leading * along) @ self.directions).view_as(centred)

    def _cosines(self, latents_bchw: torch.Tensor, back: bool = False) -> torch.Tensor:
        """The orthonormal cosine transform of type II over both sides, or its inverse."""
        matrix = cosines(latents_bchw.shape[-1]).to(latents_bchw)
        matrix = matrix.T if back else matrix
        return matrix @ latents_bchw @ matrix.T


def after(t_b: torch.Tensor, stride: int) -> AlphaSigma:
    """alpha and sigma one DDIM step later, each (b, 1, 1, 1): the clean image beyond the last."""
    squared = torch.cat([_alphas_cumprod(), torch.ones(1)])[torch.where(t_b >= stride, t_b - stride, TIMESTEPS)]
    squared = squared.view(-1, 1, 1, 1)
    return squared.sqrt(), (1 - squared).sqrt()


def _gain(variance: torch.Tensor, alpha: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
    """What x_t is multiplied by for the best guess of v, where x has this variance about 0."""
    return alpha * sigma * (1 - variance) / (alpha.square() * variance + sigma.square())


class ChestUNet(UNet2DConditionModel):
    """v of noisy latents (b, channels, side, side), on the schedule of `build_scheduler`.

    Attributes:
        gaussian: what is known of clean latents; to be fitted before training.
        few_steps: None, or in how many DDIM steps over the whole schedule this copy draws. It then tells v of a whole
            step (see `Gaussian.secant`) and is asked at the timesteps of those steps alone.
    """

    few_steps: int | None = None

    @functools.wraps(UNet2DConditionModel.__init__)  # the parent's signature too, which its config is made from
    def __init__(self, *args: Any, **settings: Any):
        super().__init__(*args, **settings)
        channels, width = self.config.in_channels, self.config.block_out_channels[0]
        self.gaussian = Gaussian(channels, self.config.sample_size)
        self.conv_in = nn.Conv2d(3 * channels, width, 3, padding=1)  # what is seen; what the Gaussian makes of it
        nn.init.zeros_(self.conv_out.weight)
        nn.init.zeros_(self.conv_out.bias)

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
            scaled, alone, left = self.gaussian.alone(seen, alpha, sigma)
            if self.few_steps:
                then = tuple(part.to(sample.device) for part in after(t_b, TIMESTEPS // self.few_steps))
                linear = self.gaussian.secant(seen, (alpha, sigma), then)
                known = self.gaussian.v(seen, alpha, sigma)
            else:
                linear = known = self.gaussian.v(seen, alpha, sigma)
            clean = (alpha * seen - sigma * known - self.gaussian.mean) / self.gaussian.power.sqrt().view(-1, 1, 1)
            given = torch.cat([scaled, clean, (known - alone) / left], dim=1).to(sample.dtype)
        told = super().forward(given, timestep, *args, return_dict=False, **conditions)
        v = (linear + left * told[0]).to(sample.dtype)
        return UNet2DConditionOutput(sample=v) if return_dict else (v,)
