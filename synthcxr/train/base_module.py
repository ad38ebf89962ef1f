"""What is trained of a base: its denoiser, its text encoders or adapters beside them, as one module."""

import logging

import torch
from diffusers import DiffusionPipeline
from peft import LoraConfig, inject_adapter_in_model
from torch import nn

from synthcxr.model.bases import PromptEmbeddings, base_of
from synthcxr.runs import derive_seed
from synthcxr.train.config import BaseConfig, LoraSettings

log = logging.getLogger(__name__)


class BaseModule(nn.Module):
    """One forward pass from prompts or their embeddings to a prediction, so that a wrapper for processes sees it.

    Its state is what's trained alone: the rest lies in the base's folder.
    """

    def __init__(self, pipeline: DiffusionPipeline, with_text: bool):
        super().__init__()
        self.base = base_of(pipeline)
        self.denoiser = self.base.denoiser_of(pipeline)
        self.text_encoders = nn.ModuleDict(self.base.text_encoders_of(pipeline) if with_text else {})
        self._pipeline = [pipeline]  # in a list, since it isn't a submodule
        self.register_state_dict_post_hook(_without_frozen)
        self.register_load_state_dict_post_hook(_frozen_may_be_missing)

    @property
    def parts(self) -> dict[str, nn.Module]:
        """What it holds, by its names in the pipeline."""
        return {self.base.denoiser: self.denoiser, **self.text_encoders}

    def forward(
        self, latents_bchw: torch.Tensor, t_b: torch.Tensor, told: PromptEmbeddings | list[str], sizes: torch.Tensor
    ) -> torch.Tensor:
        """What the denoiser tells of noisy latents; see bases.Base.predict."""
        if not isinstance(told, PromptEmbeddings):
            told = self.base.encode(self._pipeline[0], told, latents_bchw.device)
        return self.base.predict(self.denoiser, latents_bchw, t_b, told, sizes)


def _frozen(module: nn.Module) -> set[str]:
    return {name for name, parameter in module.named_parameters() if not parameter.requires_grad}


def _without_frozen(module: nn.Module, state: dict[str, torch.Tensor], prefix: str, _: object) -> None:
    for name in _frozen(module):
        state.pop(prefix + name, None)


def _frozen_may_be_missing(module: nn.Module, keys: object) -> None:
    frozen = _frozen(module)
    keys.missing_keys[:] = [name for name in keys.missing_keys if name not in frozen]


def trains_text(settings: BaseConfig) -> bool:
    """Whether text encoders are trained, whole or by adapters."""
    return settings.text_encoder or bool(settings.lora and settings.lora.text_encoder)


def build_module(pipeline: DiffusionPipeline, settings: BaseConfig, seed: int, half: bool) -> BaseModule:
    """The module, with what isn't trained frozen; adapters begin at zero, drawn from the seed.

    Args:
        half: weights that stay as they are in bfloat16; those that are trained are always float32.
    """
    lora = settings.lora
    module = BaseModule(pipeline, trains_text(settings))
    module.denoiser.requires_grad_(settings.denoiser and lora is None)
    module.text_encoders.requires_grad_(settings.text_encoder)
    for part in module.parts.values():
        frozen = not any(parameter.requires_grad for parameter in part.parameters())
        if half and frozen and part.dtype != torch.bfloat16:
            part.to(torch.bfloat16)
    if lora:
        torch.manual_seed(derive_seed(seed, "adapters"))
        if settings.denoiser:
            _adapt(module.denoiser, lora, module.base.lora)
        for encoder in module.text_encoders.values():
            _adapt(encoder, lora, module.base.text_lora)
    if settings.gradient_checkpointing:
        module.denoiser.enable_gradient_checkpointing()
        for encoder in module.text_encoders.values():
            encoder.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    if settings.xformers:
        _use_xformers(module.denoiser)
    return module.train()


def _adapt(part: nn.Module, settings: LoraSettings, targets: tuple[str, ...]) -> None:
    """Put adapters beside the layers whose names end so; all other weights are frozen."""
    wanted = LoraConfig(
        r=settings.rank, lora_alpha=settings.alpha, init_lora_weights="gaussian", target_modules=list(targets)
    )
    inject_adapter_in_model(wanted, part)
    for parameter in part.parameters():
        if parameter.requires_grad:  # made in the type of the weight beside it, too coarse for Adam's small steps
            parameter.data = parameter.data.float()


def _use_xformers(denoiser: nn.Module) -> None:
    try:
        denoiser.enable_xformers_memory_efficient_attention()
    except (ImportError, ModuleNotFoundError, ValueError, NotImplementedError, RuntimeError, OSError) as error:
        log.warning("xformers can't be loaded (%s); torch's attention takes its place", str(error).split("\n")[0][:120])
