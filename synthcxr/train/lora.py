"""Adapters out of a module: as a file that any diffusers pipeline loads, or added to the weights beside them."""

from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import DiffusionPipeline
from diffusers.utils import convert_state_dict_to_diffusers
from diffusers.utils.peft_utils import recurse_remove_peft_layers
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils import get_peft_model_state_dict
from torch import nn

CLIP = "text_model."  # what published CLIP keys begin with; transformers 5 has flattened the class, but no file


def save_lora(pipeline: DiffusionPipeline, parts: dict[str, nn.Module], folder: Path) -> None:
    """Write `folder/pytorch_lora_weights.safetensors`; a stock pipeline's `load_lora_weights(folder)` opens it.

    Args:
        parts: by their names in the pipeline; those without adapters are left out.
    """
    adapted = {name: part for name, part in parts.items() if hasattr(part, "peft_config")}
    pipeline.save_lora_weights(folder, **{f"{name}_lora_layers": _layers(part) for name, part in adapted.items()})


def _layers(part: nn.Module) -> dict[str, torch.Tensor]:
    """A part's adapters by the keys of the published files, their output as it is added to the weights'.

    The scale, alpha / rank, is in the weights: not every program that reads such a file looks for another place, and
    without one it's 1.
    """
    settings = part.peft_config["default"]
    told = {}
    for key, value in get_peft_model_state_dict(part).items():
        scale = settings.lora_alpha / settings.r if ".lora_B." in key else 1.0
        clip = key.startswith("encoder.") and type(part).__name__ == "CLIPTextModel"
        told[CLIP * clip + key] = (scale * value.detach()).cpu().contiguous()
    published = convert_state_dict_to_diffusers(told)
    # Only attention has published names; of a mixture stock pipelines would read one half.
    return told if any(".lora_A." in key for key in published) else published


@dataclass(frozen=True)
class Adapters:
    """Those of a pipeline's parts, saved the way a part itself is."""

    pipeline: DiffusionPipeline
    parts: dict[str, nn.Module]

    def half(self) -> "Adapters":
        for part in self.parts.values():
            part.half()
        return self

    def save_pretrained(self, folder: Path) -> None:
        save_lora(self.pipeline, self.parts, folder)


def merge_lora(part: nn.Module) -> None:
    """Add each adapter's product to the weight beside it, and take the adapters away."""
    part.float()  # the sum needs more digits than the weights may have been kept in
    for module in part.modules():
        if isinstance(module, BaseTunerLayer):
            module.merge()
    recurse_remove_peft_layers(part)
    if hasattr(part, "peft_config"):
        del part.peft_config
