"""The few-step mode: the same model with an adapter, drawn from in a few DDIM steps without guidance.

The adapter (LoRA, in a file of the stock form) is trained by stage `distillation` to do in one step what the model does
in several guided ones. A quarter of the schedule is too far for a straight step: what the latents' Gaussian does on the
way is known in closed form, so the network is left the rest (`ChestUNet.few_steps`).
"""

import copy
from pathlib import Path

from diffusers import DiffusionPipeline
from safetensors import SafetensorError

from synthcxr.errors import ModelError, shown

FOLDER = "few_step"  # of a MODEL folder
FILE = "pytorch_lora_weights.safetensors"  # in it; the name that diffusers gives adapters


def few_step_pipeline(pipeline: DiffusionPipeline, folder: Path, steps: int) -> DiffusionPipeline:
    """A pipeline that shares all but its denoiser, which has the adapter of this folder in its weights.

    Raises:
        ModelError: the adapter is missing, damaged, or of another denoiser.
    """
    denoiser = copy.deepcopy(pipeline.unet)
    try:
        denoiser.load_lora_adapter(folder, prefix="unet", weight_name=FILE)
        denoiser.fuse_lora()
        denoiser.unload_lora()
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ModelError(f"{shown(folder)} can't be loaded ({reason}); restore its files or train again") from error
    denoiser.few_steps = steps
    other = copy.copy(pipeline)
    other.unet = denoiser
    return other
