"""The embedded architecture: a Stable-Diffusion-XL layout (one text encoder) small enough for two CPU cores.

The layout is the stock one on purpose: the pooled prompt and the native size of an image reach the denoiser as SDXL's
micro-conditions (Podell et al. 2023, section 2.2), so any tool that opens SDXL folders opens ours.
"""

import json
import string
from collections.abc import Sequence

from diffusers import SchedulerMixin, StableDiffusionXLPipeline
from pydantic import Field
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import CLIPTextConfig, CLIPTextModelWithProjection, CLIPTokenizer

from synthcxr.config import Config
from synthcxr.model.autoencoder import ChestAutoencoder
from synthcxr.model.denoiser import ChestUNet
from synthcxr.model.lapped import BLOCK

START, END, UNKNOWN = "<|startoftext|>", "<|endoftext|>", "<|unknown|>"
SINGLE = string.ascii_lowercase + string.digits + string.punctuation
TIME_IDS = 6  # height and width: native, crop offset, target (SDXL)
TIME_ID_WIDTH = 32


class AutoencoderShape(Config):
    """Widths of the embedded autoencoder."""

    latent_channels: int = Field(32, ge=1, le=256)
    channels: tuple[int, int, int] = Field((64, 64, 64), description="at 1/4, 1/8 and 1/16 of the resolution")
    layers: int = Field(2, ge=1, description="residual blocks at each of them")
    detail_channels: tuple[int, int, int] = Field((48, 32, 24), description="of the model of detail, at the same three")
    groups: int = Field(8, ge=1, description="that the channels of the model of detail are normalised in")


class DenoiserShape(Config):
    """Widths of the embedded UNet and its text encoder."""

    channels: tuple[int, ...] = Field((96, 192, 256), description="at latent resolutions 16, 8 and 4")
    attention: tuple[bool, ...] = Field((False, True, True), description="which of them attend to the prompt")
    layers: int = Field(1, ge=1)
    groups: int = Field(32, ge=1)
    head_width: int = Field(64, ge=8)
    text_width: int = Field(256, ge=32)
    text_layers: int = Field(2, ge=2, description="SDXL reads the last layer but one, so two at least")
    tokens: int = Field(48, ge=8, description="prompts are padded or cut to as many")


def build_autoencoder(shape: AutoencoderShape, resolution: int) -> ChestAutoencoder:
    """A fresh autoencoder; start it with `start_from_pca`."""
    return ChestAutoencoder(
        latent_channels=shape.latent_channels,
        block_out_channels=(4, 16, *shape.channels),
        layers_per_block=shape.layers,
        detail_channels=shape.detail_channels,
        norm_num_groups=shape.groups,
        sample_size=resolution,
    )


def build_tokenizer(words: Sequence[str], tokens: int) -> CLIPTokenizer:
    """A CLIP tokenizer in which each of the words is one token; digits stand alone, other words fall into letters.

    CLIP's own pre-tokenizer splits numbers into digits, so 72 and 78 share a token and ages generalise. Bytes outside
    ASCII become a token for the unknown, which isn't the end token: the pooled prompt is read at the first end token.
    The same words always give the same tokens, in the same order: a resumed run builds its tokenizer anew.
    """
    pieces = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    pieces.pre_tokenizer = pre_tokenizers.Whitespace()
    trainer = trainers.BpeTrainer(
        vocab_size=100_000,  # no limit: training stops when every word is one token
        min_frequency=1,
        # Letters that end a word stand here for a place of their own: the trainer would number them in the order of a
        # hash table, another one each time, and settle ties between merges by these numbers.
        special_tokens=[START, END, UNKNOWN, *(letter + "</w>" for letter in SINGLE)],
        initial_alphabet=list(SINGLE),
        end_of_word_suffix="</w>",
        show_progress=False,
    )
    pieces.train_from_iterator([*SINGLE, *sorted(words)], trainer)
    bpe = json.loads(pieces.to_str())["model"]
    return CLIPTokenizer(
        vocab=bpe["vocab"],
        merges=[tuple(merge) for merge in bpe["merges"]],
        unk_token=UNKNOWN,
        model_max_length=tokens,
    )


def build_text_encoder(shape: DenoiserShape, tokenizer: CLIPTokenizer) -> CLIPTextModelWithProjection:
    """A CLIP text encoder for this tokenizer, with fresh weights from torch's global generator."""
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=shape.text_width,
        intermediate_size=4 * shape.text_width,
        projection_dim=shape.text_width,
        num_hidden_layers=shape.text_layers,
        num_attention_heads=shape.text_width // 64 or 1,
        max_position_embeddings=tokenizer.model_max_length,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return CLIPTextModelWithProjection(config)


def build_unet(shape: DenoiserShape, latent_channels: int, resolution: int) -> ChestUNet:
    """A UNet over latents (b, latent_channels, resolution / 16, resolution / 16), with fresh weights."""
    return ChestUNet(
        sample_size=resolution // BLOCK,
        in_channels=latent_channels,
        out_channels=latent_channels,
        block_out_channels=shape.channels,
        layers_per_block=shape.layers,
        norm_num_groups=shape.groups,
        down_block_types=tuple("CrossAttnDownBlock2D" if attends else "DownBlock2D" for attends in shape.attention),
        up_block_types=tuple("CrossAttnUpBlock2D" if attends else "UpBlock2D" for attends in shape.attention[::-1]),
        cross_attention_dim=shape.text_width,
        attention_head_dim=tuple(max(1, width // shape.head_width) for width in shape.channels),
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=TIME_ID_WIDTH,
        projection_class_embeddings_input_dim=TIME_IDS * TIME_ID_WIDTH + shape.text_width,
    )


def build_pipeline(
    autoencoder: ChestAutoencoder,
    unet: ChestUNet,
    text_encoder: CLIPTextModelWithProjection,
    tokenizer: CLIPTokenizer,
    scheduler: SchedulerMixin,
) -> StableDiffusionXLPipeline:
    """The stock pipeline over our parts: the layout's second text encoder is the one that gives a pooled prompt."""
    return StableDiffusionXLPipeline(
        vae=autoencoder,
        text_encoder=None,
        text_encoder_2=text_encoder,
        tokenizer=None,
        tokenizer_2=tokenizer,
        unet=unet,
        scheduler=scheduler,
        force_zeros_for_empty_prompt=False,  # training drops captions to the empty prompt, not to zeros
        add_watermarker=False,
    )
