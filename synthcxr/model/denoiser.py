"""The embedded denoiser: diffusers' UNet, told every latent channel at its own scale.

Latents are orthonormal, so their channels differ in loudness by a factor of 80. Each is brought to unit variance at
every noise level, and what a filter of that channel alone would say is added outside of the network, which is left
with what no such filter can know (Karras et al. 2022, table 1 and appendix B.6, for each channel and for v).
"""

import functools
from typing import Any

import torch
from diffusers import DDPMScheduler, ModelMixin, UNet2DConditionModel
from diffusers.models.unets.unet_2d_condition import UNet2DConditionOutput

from synthcxr.diffusion import alpha_sigma

# A stock pipeline finds out how to load a component of another library by asking its module for this name.
__all__ = ["ChestUNet", "ModelMixin", "build_scheduler"]


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


class ChestUNet(UNet2DConditionModel):
    """v of noisy latents (b, channels, h, w), on the schedule of `build_scheduler`.

    Attributes:
        deviations: (channels,) root mean square of each channel of clean latents, a buffer; ones until it's set.
    """

    @functools.wraps(UNet2DConditionModel.__init__)  # the parent's signature too, which its config is made from
    def __init__(self, *args: Any, **settings: Any):
        super().__init__(*args, **settings)
        self.register_buffer("deviations", torch.ones(self.config.in_channels))
        torch.nn.init.zeros_(self.conv_out.weight)  # begins as the filter of each channel alone

    @functools.wraps(UNet2DConditionModel.forward)
    def forward(
        self, sample: torch.Tensor, timestep: torch.Tensor | float | int, *args: Any, return_dict: bool = True,
        **conditions: Any,
    ) -> UNet2DConditionOutput | tuple[torch.Tensor]:  # fmt: skip
        t_b = torch.as_tensor(timestep, device="cpu").reshape(-1).long()
        alpha, sigma = (part.to(sample.device) for part in alpha_sigma(_alphas_cumprod(), t_b))
        clean = self.deviations.float().view(1, -1, 1, 1)
        variance = (alpha * clean).square() + sigma.square()
        scaled = (sample / variance.sqrt()).to(sample.dtype)
        told = super().forward(scaled, timestep, *args, return_dict=False, **conditions)[0]
        alone = alpha * sigma * (1 - clean.square()) / variance * sample
        v = (alone + clean / variance.sqrt() * told).to(sample.dtype)
        return UNet2DConditionOutput(sample=v) if return_dict else (v,)
