"""The few-step mode: the same model with an adapter, drawn from in a few DDIM steps without guidance.

The adapter (LoRA, in a file of the stock form) is trained by stage `distillation` to do in one step what the model does
in several guided ones. A quarter of the schedule is too far for a straight step: what the latents' Gaussian does on the
way is known in closed form, so the network is left the rest (`ChestUNet.few_steps`).
"""

import copy
from pathlib import Path

import torch
from diffusers import DiffusionPipeline
from safetensors import SafetensorError

from synthcxr.diffusion import alpha_sigma, ddim_step
from synthcxr.errors import ModelError, shown
from synthcxr.model.denoiser import TIMESTEPS, ChestUNet, after, build_scheduler

FOLDER = "few_step"  # of a MODEL folder


def whole_steps(steps: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The mode's way from noise to picture: where it goes on by x_t' = kept x_t + turned v, see `ddim_step`.

    Returns:
        Timesteps, (steps,) integers, and kept and turned at each, (steps, 1, 1, 1).
    """
    stride = TIMESTEPS // steps
    timesteps = torch.arange(TIMESTEPS - 1, -1, -stride)[:steps]
    return timesteps, *ddim_step(alpha_sigma(build_scheduler().alphas_cumprod, timesteps), after(timesteps, stride))


def adapted(denoiser: ChestUNet, folder: Path, steps: int) -> ChestUNet:
    """This denoiser, now with the adapter of this folder beside its layers, in so many steps.

    Raises:
        ModelError: the adapter is missing, damaged, or of another denoiser.
    """
    try:
        denoiser.load_lora_adapter(
            folder, prefix="unet", weight_name="pytorch_lora_weights.safetensors", adapter_name="default"
        )
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ModelError(f"{shown(folder)} can't be loaded ({reason}); restore its files or train again") from error
    denoiser.few_steps = steps
    return denoiser


def few_step_pipeline(pipeline: DiffusionPipeline, folder: Path, steps: int) -> DiffusionPipeline:
    """A pipeline that shares all but its denoiser, which has the adapter of this folder in its weights.

    Raises:
        ModelError: as `adapted` raises it.
    """
    denoiser = adapted(copy.deepcopy(pipeline.unet), folder, steps)
    denoiser.fuse_lora()
    denoiser.unload_lora()
    other = copy.copy(pipeline)
    other.unet = denoiser
    return other
