"""Adapters out of a module: as a file that any diffusers pipeline loads, or added to the weights beside them."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffusers import DiffusionPipeline
from diffusers.utils.peft_utils import recurse_remove_peft_layers
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils import get_peft_model_state_dict
from torch import nn


def save_lora(pipeline: DiffusionPipeline, parts: dict[str, nn.Module], folder: Path) -> None:
    """Write `folder/pytorch_lora_weights.safetensors`; a stock pipeline's `load_lora_weights(folder)` opens it.

    Args:
        parts: by their names in the pipeline; those without adapters are left out.
    """
    adapted = {name: part for name, part in parts.items() if hasattr(part, "peft_config")}
    layers = {
        f"{name}_lora_layers": {
            key: value.detach().cpu().contiguous() for key, value in get_peft_model_state_dict(part).items()
        }
        for name, part in adapted.items()
    }
    # Without it, alpha would be taken to be the rank.
    told = {f"{name}_lora_adapter_metadata": _settings_of(part) for name, part in adapted.items()}
    pipeline.save_lora_weights(folder, **layers, **told)


def _settings_of(part: nn.Module) -> dict[str, Any]:
    """peft's own, with sets in order: equal adapters make equal files."""
    told = part.peft_config["default"].to_dict()
    return {key: sorted(value) if isinstance(value, set) else value for key, value in told.items()}


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
