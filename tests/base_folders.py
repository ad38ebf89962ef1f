"""Model folders in the published layouts, a few channels wide, with random weights."""

from collections.abc import Callable
from pathlib import Path

import diffusers
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from synthcxr.conditions import canonical_words
from synthcxr.model.bases.published import (
    SANA_600M,
    STABLE_DIFFUSION_15,
    STABLE_DIFFUSION_21_BASE,
    STABLE_DIFFUSION_XL,
    Published,
)
from synthcxr.model.embedded import build_tokenizer

SMALL_KL = {"block_out_channels": (8, 8, 16, 16), "layers_per_block": 1, "norm_num_groups": 4, "sample_size": 64}
SMALL_CLIP = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
SMALL_UNET = {
    "block_out_channels": (8, 8, 16, 16), "layers_per_block": 1, "norm_num_groups": 4, "sample_size": 8,
    "attention_head_dim": 2, "cross_attention_dim": 16,
}  # fmt: skip
SMALL_DC = {
    "encoder_block_out_channels": (8, 8, 8, 8, 8, 16), "decoder_block_out_channels": (8, 8, 8, 8, 8, 16),
    "encoder_layers_per_block": (1,) * 6, "decoder_layers_per_block": (1,) * 6, "attention_head_dim": 4,
    "latent_channels": 4,
}  # fmt: skip
SMALL_SANA = {
    "num_attention_heads": 2, "attention_head_dim": 8, "num_layers": 2, "num_cross_attention_heads": 2,
    "cross_attention_head_dim": 8, "cross_attention_dim": 16, "caption_channels": 16, "in_channels": 4,
    "out_channels": 4, "sample_size": 2,
}  # fmt: skip
SMALL_GEMMA = {
    "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 1, "head_dim": 8,
}  # fmt: skip


def write(published: Published, folder: Path, denoiser: dict, vae: dict, text: dict, tokenizer: object) -> Path:
    """A pipeline of the published classes and shapes, but for the widths given here."""
    torch.manual_seed(0)
    parts = {}
    for name, (cls, config, shape) in published.text.items():
        own = {**shape, **text, "vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id}
        own |= {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
        parts[name] = cls(config(**own)).eval()
        parts[name.replace("text_encoder", "tokenizer")] = tokenizer
    cls, shape = published.denoiser
    parts["transformer" if "Sana" in published.pipeline else "unet"] = cls(**{**shape, **denoiser})
    cls, shape = published.vae
    parts["vae"] = cls(**{**shape, **vae})
    cls, shape = published.scheduler
    parts["scheduler"] = cls(**shape)
    if published.pipeline == "StableDiffusionPipeline":
        parts |= {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
    getattr(diffusers, published.pipeline)(**parts).save_pretrained(folder)
    return folder


def stable_diffusion(folder: Path, published: Published = STABLE_DIFFUSION_15) -> Path:
    return write(published, folder, SMALL_UNET, SMALL_KL, SMALL_CLIP, build_tokenizer(canonical_words(), 77))


def stable_diffusion_2(folder: Path) -> Path:
    return stable_diffusion(folder, STABLE_DIFFUSION_21_BASE)


def stable_diffusion_xl(folder: Path) -> Path:
    unet = {**SMALL_UNET, "block_out_channels": (8, 8, 16), "transformer_layers_per_block": (1, 1, 2)}
    unet |= {"cross_attention_dim": 32, "addition_time_embed_dim": 8, "projection_class_embeddings_input_dim": 64}
    text = {**SMALL_CLIP, "projection_dim": 16}
    return write(STABLE_DIFFUSION_XL, folder, unet, SMALL_KL, text, build_tokenizer(canonical_words(), 77))


def sana(folder: Path) -> Path:
    ages = map(str, range(120))
    words = {name: i for i, name in enumerate(["<pad>", "<eos>", "<bos>", "<unk>", *sorted(canonical_words()), *ages])}
    pieces = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    pieces.pre_tokenizer = pre_tokenizers.Whitespace()
    pieces.post_processor = processors.TemplateProcessing("<bos> $A", special_tokens=[("<bos>", words["<bos>"])])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=pieces, pad_token="<pad>", eos_token="<eos>", bos_token="<bos>", unk_token="<unk>"
    )
    return write(SANA_600M, folder, SMALL_SANA, SMALL_DC, SMALL_GEMMA, tokenizer)


FOLDERS: dict[str, Callable[[Path], Path]] = {
    "sd15": stable_diffusion, "sd21": stable_diffusion_2, "sdxl": stable_diffusion_xl, "sana": sana,
}  # fmt: skip
