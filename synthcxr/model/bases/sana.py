"""Sana (Xie et al. 2025): a transformer with linear attention over latents at 1/32, by flow matching, told by Gemma."""

import torch
from diffusers import DiffusionPipeline
from torch import nn

from synthcxr.model.bases.base import Base, PromptEmbeddings


def encode(pipeline: DiffusionPipeline, prompts: list[str], device: torch.device) -> PromptEmbeddings:
    """Prompts as they are: the long instruction that the stock pipeline puts before them asks for an enhanced prompt,
    and a radiograph's is complete."""
    tokens, mask, _, _ = pipeline.encode_prompt(
        prompts, do_classifier_free_guidance=False, device=device, complex_human_instruction=None
    )
    return PromptEmbeddings(tokens, mask=mask)


def predict(
    transformer: nn.Module, latents: torch.Tensor, t_b: torch.Tensor, told: PromptEmbeddings, sizes: torch.Tensor
) -> torch.Tensor:
    return transformer(
        latents, encoder_hidden_states=told.tokens, encoder_attention_mask=told.mask,
        timestep=t_b * transformer.config.timestep_scale,
    ).sample  # fmt: skip


SANA = Base(
    "transformer", ("text_encoder",), ("tokenizer",), encode, predict, ("to_q", "to_k", "to_v", "to_out.0"), 300,
    arguments={"use_resolution_binning": False, "negative_prompt": None},
)  # fmt: skip
