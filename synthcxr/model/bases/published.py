"""The shapes of published models, as their config.json give them: for estimates, benchmarks and tests without weights.

Only what differs from the defaults of diffusers' and transformers' own classes.
"""

from dataclasses import dataclass, field
from typing import Any

from diffusers import (
    AutoencoderDC,
    AutoencoderKL,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    PNDMScheduler,
    SanaTransformer2DModel,
    SchedulerMixin,
    UNet2DConditionModel,
)
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, Gemma2Config, Gemma2Model

Shape = dict[str, Any]


@dataclass(frozen=True)
class Published:
    """Classes and shapes of a model's parts; text encoders by their names in the pipeline."""

    pipeline: str
    denoiser: tuple[type, Shape]
    vae: tuple[type, Shape]
    text: dict[str, tuple[type, type, Shape]]
    scheduler: tuple[type[SchedulerMixin], Shape]
    tokens: int
    resolution: int
    extra: Shape = field(default_factory=dict)


CLIP_L = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12}
CLIP_H = {
    "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 23, "num_attention_heads": 16,
    "hidden_act": "gelu", "projection_dim": 512,
}  # fmt: skip
CLIP_G = {
    "hidden_size": 1280, "intermediate_size": 5120, "num_hidden_layers": 32, "num_attention_heads": 20,
    "hidden_act": "gelu", "projection_dim": 1280,
}  # fmt: skip
GEMMA_2B = {
    "hidden_size": 2304, "intermediate_size": 9216, "num_hidden_layers": 26, "num_attention_heads": 8,
    "num_key_value_heads": 4, "head_dim": 256, "vocab_size": 256000,
}  # fmt: skip
KL_8: Shape = {
    "block_out_channels": (128, 256, 512, 512), "layers_per_block": 2, "latent_channels": 4,
    "down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4, "sample_size": 512,
}  # fmt: skip
BETAS = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012, "steps_offset": 1}
STABLE_DIFFUSION_15 = Published(
    "StableDiffusionPipeline",
    (UNet2DConditionModel, {"sample_size": 64, "cross_attention_dim": 768, "attention_head_dim": 8}),
    (AutoencoderKL, KL_8),
    {"text_encoder": (CLIPTextModel, CLIPTextConfig, CLIP_L)},
    (PNDMScheduler, {**BETAS, "skip_prk_steps": True, "set_alpha_to_one": False}),
    tokens=77,
    resolution=512,
)
STABLE_DIFFUSION_21_BASE = Published(
    "StableDiffusionPipeline",
    (
        UNet2DConditionModel,
        {
            "sample_size": 64, "cross_attention_dim": 1024, "attention_head_dim": (5, 10, 20, 20),
            "use_linear_projection": True,
        },
    ),
    (AutoencoderKL, KL_8),
    {"text_encoder": (CLIPTextModel, CLIPTextConfig, CLIP_H)},
    (PNDMScheduler, {**BETAS, "skip_prk_steps": True, "set_alpha_to_one": False}),
    tokens=77,
    resolution=512,
)  # fmt: skip
STABLE_DIFFUSION_XL = Published(
    "StableDiffusionXLPipeline",
    (
        UNet2DConditionModel,
        {
            "sample_size": 128, "cross_attention_dim": 2048, "attention_head_dim": (5, 10, 20),
            "use_linear_projection": True, "block_out_channels": (320, 640, 1280),
            "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            "transformer_layers_per_block": (1, 2, 10), "addition_embed_type": "text_time",
            "addition_time_embed_dim": 256, "projection_class_embeddings_input_dim": 2816,
        },
    ),
    (AutoencoderKL, {**KL_8, "sample_size": 1024, "scaling_factor": 0.13025}),
    {
        "text_encoder": (CLIPTextModel, CLIPTextConfig, CLIP_L),
        "text_encoder_2": (CLIPTextModelWithProjection, CLIPTextConfig, CLIP_G),
    },
    (EulerDiscreteScheduler, {**BETAS, "timestep_spacing": "leading"}),
    tokens=77,
    resolution=1024,
)  # fmt: skip
SANA_600M = Published(
    "SanaPipeline",
    (
        SanaTransformer2DModel,
        {
            "num_attention_heads": 36, "attention_head_dim": 32, "num_layers": 28, "num_cross_attention_heads": 16,
            "cross_attention_head_dim": 72, "cross_attention_dim": 1152, "caption_channels": 2304, "sample_size": 16,
        },
    ),
    (
        AutoencoderDC,
        {
            "encoder_block_types": ("ResBlock",) * 3 + ("EfficientViTBlock",) * 3,
            "decoder_block_types": ("ResBlock",) * 3 + ("EfficientViTBlock",) * 3,
            "encoder_layers_per_block": (2, 2, 2, 3, 3, 3),
            "encoder_qkv_multiscales": ((), (), (), (5,), (5,), (5,)),
            "decoder_qkv_multiscales": ((), (), (), (5,), (5,), (5,)),
            "downsample_block_type": "conv", "upsample_block_type": "interpolate", "scaling_factor": 0.41407,
        },
    ),
    {"text_encoder": (Gemma2Model, Gemma2Config, GEMMA_2B)},
    (
        DPMSolverMultistepScheduler,
        {"flow_shift": 3.0, "prediction_type": "flow_prediction", "use_flow_sigmas": True, "beta_schedule": "linear"},
    ),
    tokens=300,
    resolution=512,
)  # fmt: skip
# Hub ids and names of folders, for an estimate where the files aren't there.
PUBLISHED = {
    "stable-diffusion-v1-5": STABLE_DIFFUSION_15,
    "stable-diffusion-2-1-base": STABLE_DIFFUSION_21_BASE,
    "stable-diffusion-xl-base-1.0": STABLE_DIFFUSION_XL,
    "Sana_600M_512px_diffusers": SANA_600M,
}
