"""Stable Diffusion 1.x and 2.x (Rombach et al. 2022) and XL (Podell et al. 2023): a UNet that attends to CLIP."""

import torch
from diffusers import DiffusionPipeline
from torch import nn

from synthcxr.model.bases.base import Base, PromptEmbeddings

ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")
TEXT_ATTENTION = ("q_proj", "k_proj", "v_proj", "out_proj")


def encode(pipeline: DiffusionPipeline, prompts: list[str], device: torch.device) -> PromptEmbeddings:
    tokens, _ = pipeline.encode_prompt(
        prompts, device=device, num_images_per_prompt=1, do_classifier_free_guidance=False
    )
    return PromptEmbeddings(tokens)


def predict(
    unet: nn.Module, latents: torch.Tensor, t_b: torch.Tensor, told: PromptEmbeddings, sizes: torch.Tensor
) -> torch.Tensor:
    return unet(latents, t_b, told.tokens).sample


def encode_xl(pipeline: DiffusionPipeline, prompts: list[str], device: torch.device) -> PromptEmbeddings:
    tokens, _, pooled, _ = pipeline.encode_prompt(
        prompts, device=device, num_images_per_prompt=1, do_classifier_free_guidance=False
    )
    return PromptEmbeddings(tokens, pooled)


def predict_xl(
    unet: nn.Module, latents: torch.Tensor, t_b: torch.Tensor, told: PromptEmbeddings, sizes: torch.Tensor
) -> torch.Tensor:
    """With SDXL's micro-conditions (section 2.2): native height and width, no crop, target height and width."""
    conditions = {"text_embeds": told.pooled, "time_ids": sizes}
    return unet(latents, t_b, told.tokens, added_cond_kwargs=conditions).sample


STABLE_DIFFUSION = Base(
    "unet", ("text_encoder",), ("tokenizer",), encode, predict, ATTENTION, 77, TEXT_ATTENTION, guided=("prompt_embeds",)
)
STABLE_DIFFUSION_XL = Base(
    "unet", ("text_encoder", "text_encoder_2"), ("tokenizer", "tokenizer_2"), encode_xl, predict_xl, ATTENTION, 77,
    TEXT_ATTENTION,
    guided=("prompt_embeds", "add_text_embeds", "add_time_ids"),
    # Training drops captions to the empty prompt, not to zeros.
    settings={"force_zeros_for_empty_prompt": False},
)  # fmt: skip
