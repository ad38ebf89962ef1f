"""What `synthcxr train` needs; see configs/train/."""

from pathlib import Path
from typing import Literal

from pydantic import Field

from synthcxr.conditions import DEFAULT_TEMPLATE
from synthcxr.config import Config
from synthcxr.model.classifier import ClassifierShape
from synthcxr.model.contrastive import ContrastiveShape
from synthcxr.model.embedded import AutoencoderShape, DenoiserShape


class StageConfig(Config):
    """What every stage has: how long, how fast, how often it reports."""

    steps: int = Field(ge=0, description="0: leave the stage out")
    batch_size: int = Field(32, ge=1, description="over all processes")
    learning_rate: float = Field(4e-4, gt=0)
    warmup: int = Field(100, ge=0, description="steps of linear rise")
    decay: float = Field(0.3, ge=0, le=1, description="share of the steps, at the end, of linear fall to zero")
    weight_decay: float = Field(0.01, ge=0)
    clip: float = Field(1.0, gt=0, description="largest norm of the gradient")
    ema: float = Field(0.999, ge=0, lt=1)
    log_every: int = Field(20, ge=1)
    validate_every: int = Field(500, ge=1)
    checkpoint_every: int = Field(250, ge=1)
    validation_images: int = Field(256, ge=1, description="at most; the same ones each time")


class AutoencoderConfig(StageConfig):
    """Stage 1, on crops of images that are native at the resolution or above."""

    steps: int = Field(1500, ge=0)
    batch_size: int = Field(16, ge=1)
    learning_rate: float = Field(1e-3, gt=0)
    decay: float = Field(0.5, ge=0, le=1)
    validation_images: int = Field(64, ge=1)
    shape: AutoencoderShape = AutoencoderShape()
    crop: int = Field(128, ge=32, multiple_of=16, description="pixels")
    edge_weight: float = Field(0.5, ge=0, description="of the absolute error of the gradients")
    whitening: float = Field(0.0, ge=0, le=1, description="of the latents, see model.autoencoder.start_from_pca")
    latent_noise: float = Field(
        0.0, ge=0, description="largest deviation of noise that the decoder learns to clean, in scaled latents"
    )


class DenoiserConfig(StageConfig):
    """Stage 2, on the latents of stage 1."""

    steps: int = Field(4000, ge=0)
    shape: DenoiserShape = DenoiserShape()
    template: str = DEFAULT_TEMPLATE
    caption_dropout: float = Field(0.1, ge=0, le=1, description="share of empty prompts, for guidance")
    part_dropout: float = Field(0.1, ge=0, le=1, description="how often age, sex, view or findings go unsaid")
    negatives: float = Field(
        0.3, ge=0, le=1, description='share of labelled prompts that also say "no ..." of a finding'
    )
    min_snr: float | None = Field(None, gt=0, description="gamma of min-SNR weighting; none: every timestep alike")
    variants: int = Field(2, ge=1, description="cached latents an image: itself, then augmentations")
    sample_steps: int = Field(20, ge=1, description="of the sample sheets, and of the model until they are tuned")
    sample_guidance: float = Field(2.0, ge=1)


class ClassifierConfig(StageConfig):
    """Stage 3, on all images, shrunk; it judges and screens what is generated."""

    steps: int = Field(0, ge=0)
    batch_size: int = Field(64, ge=1)
    learning_rate: float = Field(1e-3, gt=0)
    decay: float = Field(0.5, ge=0, le=1)
    weight_decay: float = Field(0.05, ge=0)
    ema: float = Field(0.99, ge=0, lt=1)
    validation_images: int = Field(10_000, ge=1)
    shape: ClassifierShape = ClassifierShape()


class ContrastiveConfig(StageConfig):
    """Stage 4, on the classifier's features of all images; it tells whether a picture fits its words."""

    steps: int = Field(0, ge=0)
    batch_size: int = Field(128, ge=2)
    learning_rate: float = Field(1e-3, gt=0)
    decay: float = Field(0.5, ge=0, le=1)
    weight_decay: float = Field(0.1, ge=0)
    ema: float = Field(0.99, ge=0, lt=1)
    validation_images: int = Field(10_000, ge=1)
    shape: ContrastiveShape = ContrastiveShape()
    part_dropout: float = Field(0.3, ge=0, le=1, description="how often age, sex, view or findings go unsaid")
    negatives: float = Field(
        0.3, ge=0, le=1, description='share of labelled prompts that also say "no ..." of a finding'
    )
    variants: int = Field(4, ge=1, description="cached features an image: of itself, then of augmentations")


class TrainConfig(Config):
    """What `synthcxr train` needs."""

    data: tuple[Path, ...] = Field(min_length=1, description="DATASET folders; their test patients are never read")
    output: Path
    start: Path | None = Field(
        None,
        description="MODEL folder to go on from. Its encoder stays as it is, so that latents keep their meaning: "
        "stage 1 trains the decoder alone. None: begin at random",
    )
    resolution: int = Field(256, ge=32, multiple_of=32)
    per_patient: int = Field(5, ge=1, description="images of one patient at most: long series would rule")
    sharp_repeats: int = Field(2, ge=1, description="how often an image native at the resolution comes in an epoch")
    finding_repeats: int = Field(2, ge=1, description="how often an image with a finding comes in an epoch")
    seed: int = 0
    precision: Literal["auto", "fp32", "bf16"] = Field(
        "auto", description="auto: bf16 where the hardware has it, as emulation is slower than fp32"
    )
    device: Literal["auto", "cpu"] = "auto"
    name: str = Field("synthcxr", description="of the model, on its card")
    licence: str = Field("unknown", description="of the weights, on the card")
    autoencoder: AutoencoderConfig = AutoencoderConfig()
    denoiser: DenoiserConfig = DenoiserConfig()
    classifier: ClassifierConfig = ClassifierConfig()
    contrastive: ContrastiveConfig = ContrastiveConfig()
