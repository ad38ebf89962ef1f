"""What `synthcxr train` needs; see configs/train/."""

from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from synthcxr.conditions import DEFAULT_TEMPLATE
from synthcxr.config import Config
from synthcxr.model.classifier import ClassifierShape
from synthcxr.model.contrastive import ContrastiveShape
from synthcxr.model.embedded import AutoencoderShape, DenoiserShape
from synthcxr.model.sampler import SamplerSettings


class StageConfig(Config):
    """What every stage has: how long, how fast, how often it reports."""

    steps: int = Field(ge=0, description="0: leave the stage out")
    batch_size: int = Field(32, ge=1, description="over all processes")
    learning_rate: float = Field(4e-4, gt=0)
    warmup: int = Field(100, ge=0, description="steps of linear rise")
    decay: float = Field(0.3, ge=0, le=1, description="share of the steps, at the end, of linear fall to zero")
    fall: Literal["linear", "cosine"] = Field("linear", description="the form of that fall")
    weight_decay: float = Field(0.01, ge=0)
    optimizer: Literal["adamw", "adamw8bit"] = Field(
        "adamw", description="adamw8bit: bitsandbytes' where it's installed, else adamw, said in a line"
    )
    betas: tuple[float, float] = (0.9, 0.99)
    accumulate: int = Field(1, ge=1, description="parts a batch is computed in, one after the other, to save memory")
    clip: float = Field(1.0, gt=0, description="largest norm of the gradient")
    ema: float = Field(0.999, ge=0, lt=1)
    log_every: int = Field(20, ge=1)
    validate_every: int = Field(500, ge=1)
    checkpoint_every: int = Field(250, ge=1)
    validation_images: int = Field(256, ge=1, description="at most; the same ones each time")


class AutoencoderConfig(StageConfig):
    """Stage 1, the autoencoder's networks, on crops of images that are native at the resolution or above.

    Going on from a model by some steps leaves its model of detail out: `detail` has to learn what is left out now.
    """

    steps: int = Field(3000, ge=0)
    batch_size: int = Field(16, ge=1)
    learning_rate: float = Field(1e-3, gt=0)
    decay: float = Field(0.4, ge=0, le=1)
    weight_decay: float = Field(0.0, ge=0)
    validation_images: int = Field(64, ge=1)
    shape: AutoencoderShape = AutoencoderShape()
    crop: int = Field(128, ge=32, multiple_of=16, description="pixels")
    sharpening: float = Field(
        0.06, ge=0, lt=0.125, description="of pictures with detail, see model.autoencoder.sharpened"
    )
    edges: float = Field(0.91, gt=0, description="energy of their edges, of the real; detail is as loud as that takes")
    whitening: float = Field(0.0, ge=0, le=1, description="of the latents, see model.autoencoder.start_from_pca")
    keep_encoder: bool = Field(
        True, description="with start: latents keep their meaning; false: the denoiser must learn new ones"
    )


class DetailConfig(StageConfig):
    """Stage 1b, the model of what the autoencoder leaves out; left out by default."""

    steps: int = Field(0, ge=0)
    batch_size: int = Field(16, ge=1)
    learning_rate: float = Field(1e-3, gt=0)
    decay: float = Field(0.5, ge=0, le=1)
    validation_images: int = Field(64, ge=1)
    crop: int = Field(128, ge=32, multiple_of=16, description="pixels")
    evaluations: int = Field(4, ge=1, description="that draw detail afterwards")


class FewDetailConfig(StageConfig):
    """Stage 1c, as many evaluations' detail in a few; left out by default."""

    steps: int = Field(0, ge=0)
    batch_size: int = Field(8, ge=1, description="crops, over all processes; each is met once at every evaluation")
    learning_rate: float = Field(5e-4, gt=0)
    decay: float = Field(0.5, ge=0, le=1)
    validation_images: int = Field(64, ge=1)
    crop: int = Field(128, ge=32, multiple_of=16, description="pixels")
    evaluations: int = Field(4, ge=1, description="that draw detail afterwards")
    teacher_steps: int = Field(16, ge=2, description="evaluations that it learns from, a multiple of those")

    @model_validator(mode="after")
    def _whole_steps(self) -> "FewDetailConfig":
        if self.teacher_steps % self.evaluations or self.teacher_steps == self.evaluations:
            raise ValueError(
                f"teacher_steps = {self.teacher_steps} must be a multiple of evaluations = {self.evaluations}, twice "
                "as many or more"
            )
        return self


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
    balance: float = Field(
        0.0, ge=0, le=1, description="how far channels of latents weigh alike; 0: each by its error, so that the few "
        "coarse ones rule",
    )  # fmt: skip
    variants: int = Field(2, ge=1, description="cached latents an image: itself, then augmentations")
    sample_steps: int = Field(
        20, ge=1, description="of the sample sheets, and of the model until they are tuned; with steps=0, start's own"
    )
    sample_guidance: float = Field(2.0, ge=1)
    sample_guided: float = Field(1.0, ge=0, le=1, description="share of the steps, from the first on, that are guided")
    sample_finding_guidance: float = Field(0.0, ge=0, le=30, description="how much farther findings are led")
    sample_keep_level: bool = Field(False, description="guidance makes pictures neither lighter nor darker")


class DistillationConfig(StageConfig):
    """Stage 3, an adapter that draws in a few steps what the model of stage 2 draws in many; left out by default."""

    steps: int = Field(0, ge=0)
    batch_size: int = Field(16, ge=1, description="pictures, over all processes; each takes all evaluations")
    learning_rate: float = Field(5e-4, gt=0)
    warmup: int = Field(50, ge=0)
    decay: float = Field(0.5, ge=0, le=1)
    weight_decay: float = Field(0.0, ge=0)
    ema: float = Field(0.99, ge=0, lt=1)
    validate_every: int = Field(200, ge=1)
    validation_images: int = Field(128, ge=1)
    evaluations: int = Field(4, ge=1, description="of the network, that a picture takes afterwards")
    teacher: SamplerSettings = Field(
        SamplerSettings(), description="how the pictures it learns from are drawn; what isn't given is as the model's "
        "own; a deterministic sampler, in a multiple of the evaluations",
    )  # fmt: skip
    pictures: int = Field(3000, ge=1, description="that are drawn to learn from")
    rank: int = Field(10, ge=1, description="of the adapter beside each layer")
    part_dropout: float = Field(0.1, ge=0, le=1, description="how often age, sex, view or findings go unsaid")
    negatives: float = Field(
        0.3, ge=0, le=1, description='share of labelled prompts that also say "no ..." of a finding'
    )


class JudgeConfig(StageConfig):
    """What the stages share that train judges of pictures: short, left out by default, validated on all images."""

    steps: int = Field(0, ge=0)
    learning_rate: float = Field(1e-3, gt=0)
    decay: float = Field(0.5, ge=0, le=1)
    ema: float = Field(0.99, ge=0, lt=1)
    validation_images: int = Field(10_000, ge=1)


class ClassifierConfig(JudgeConfig):
    """Stage 4, on all images, shrunk; it judges and screens what is generated."""

    batch_size: int = Field(64, ge=1)
    weight_decay: float = Field(0.05, ge=0)
    shape: ClassifierShape = ClassifierShape()


class ContrastiveConfig(JudgeConfig):
    """Stage 5, on the classifier's features of all images; it tells whether a picture fits its words."""

    batch_size: int = Field(128, ge=2)
    weight_decay: float = Field(0.1, ge=0)
    shape: ContrastiveShape = ContrastiveShape()
    part_dropout: float = Field(0.3, ge=0, le=1, description="how often age, sex, view or findings go unsaid")
    negatives: float = Field(
        0.3, ge=0, le=1, description='share of labelled prompts that also say "no ..." of a finding'
    )
    variants: int = Field(2, ge=1, description="cached features an image: of itself, then of augmentations")


class LoraSettings(Config):
    """Low-rank adapters beside the attention's linear maps (Hu et al. 2022): the base's own weights stay."""

    rank: int = Field(16, ge=1)
    alpha: float = Field(16.0, gt=0, description="the adapters' output is multiplied by alpha / rank")
    text_encoder: bool = Field(False, description="adapt the text encoders' attention as well")


class DecoderConfig(StageConfig):
    """The base's decoder on radiographs, before its denoiser; the encoder stays, so that latents keep their meaning."""

    steps: int = Field(0, ge=0)
    batch_size: int = Field(16, ge=1)
    learning_rate: float = Field(1e-4, gt=0)
    validation_images: int = Field(200, ge=1)
    crop: int = Field(256, ge=32, multiple_of=32, description="pixels")
    edge_weight: float = Field(0.5, ge=0, description="of the absolute error of the gradients")


class BaseConfig(StageConfig):
    """Retraining of an open latent diffusion model, in place of stages 1 and 2."""

    model: str = Field(description="folder in the diffusers layout, or hub id with its revision (owner/name@revision)")
    steps: int = Field(10_000, ge=0)
    learning_rate: float = Field(1e-5, gt=0)
    warmup: int = Field(500, ge=0)
    betas: tuple[float, float] = (0.9, 0.999)
    template: str = DEFAULT_TEMPLATE
    impression: Literal["findings", "report"] = Field(
        "findings", description="what {impression} says: the findings, or the report's own words where there are some"
    )
    wordings: int = Field(1, ge=1, description="prompts an image: all that's known, then with parts left out")
    part_dropout: float = Field(0.1, ge=0, le=1, description="how often a part goes unsaid, from wording 2 on")
    negatives: float = Field(0.3, ge=0, le=1, description='how often "no ..." is said, from wording 2 on')
    caption_dropout: float = Field(0.1, ge=0, le=1, description="share of empty prompts, for guidance")
    denoiser: bool = Field(True, description="train the UNet or transformer")
    text_encoder: bool = Field(False, description="train the text encoders; prompts are then encoded in each step")
    lora: LoraSettings | None = Field(None, description="train adapters alone, not the weights")
    latents: Literal["cached", "live"] = Field(
        "cached", description="cached: encoded once (mean and variance); live: in each step, each time augmented anew"
    )
    variants: int = Field(1, ge=1, description="cached latents an image: itself, then augmentations")
    prediction: Literal["epsilon", "v_prediction", "flow_prediction"] | None = Field(
        None, description="None: as it was"
    )
    zero_terminal_snr: bool = Field(False, description="the last timestep is pure noise (Lin et al. 2024)")
    flow_shift: float | None = Field(None, gt=0, description="how far the times of flow lean to noise; None: as it was")
    min_snr: float | None = Field(None, gt=0, description="gamma of min-SNR weighting; None: every timestep alike")
    noise_offset: float = Field(
        0.0, ge=0, le=1, description="deviation of a shift of all of a channel's noise: teaches dark and bright"
    )
    gradient_checkpointing: bool = Field(False, description="compute activations twice to keep fewer")
    xformers: bool = Field(False, description="its attention where it loads, else torch's, said in a line")
    decoder: DecoderConfig = DecoderConfig()
    sample_steps: int = Field(20, ge=1, description="of the sample sheets")
    sample_guidance: float = Field(4.0, ge=1)

    @model_validator(mode="after")
    def _trains_something(self) -> "BaseConfig":
        if not (self.denoiser or self.text_encoder):
            raise ValueError("denoiser=false and text_encoder=false leave nothing to train; give steps=0 instead")
        if self.lora and self.text_encoder:
            raise ValueError("text_encoder=true trains whole weights; with lora, give lora.text_encoder=true")
        return self


class TrainConfig(Config):
    """What `synthcxr train` needs."""

    data: tuple[Path, ...] = Field(min_length=1, description="DATASET folders; their test patients are never read")
    output: Path
    start: Path | None = Field(
        None,
        description="MODEL folder to go on from. Its encoder stays as it is, so that latents keep their meaning, but "
        "with autoencoder.keep_encoder=false. None: begin at random",
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
    base: BaseConfig | None = Field(None, description="an open model to retrain; None: the embedded architecture")
    autoencoder: AutoencoderConfig = AutoencoderConfig()
    detail: DetailConfig = DetailConfig()
    few_detail: FewDetailConfig = FewDetailConfig()
    denoiser: DenoiserConfig = DenoiserConfig()
    distillation: DistillationConfig = DistillationConfig()
    classifier: ClassifierConfig = ClassifierConfig()
    contrastive: ContrastiveConfig = ContrastiveConfig()

    @property
    def new_latents(self) -> bool:
        """Whether latents don't mean what they did in `start`."""
        return self.start is None or (self.autoencoder.steps > 0 and not self.autoencoder.keep_encoder)

    @model_validator(mode="after")
    def _one_architecture(self) -> "TrainConfig":
        if self.base and self.start:
            raise ValueError("start is for the embedded architecture; a base goes on from base.model")
        for stage in ("detail", "few_detail", "distillation", "classifier"):
            if self.base and getattr(self, stage).steps:
                raise ValueError(f"{stage}.steps is for the embedded architecture; leave it out with a base")
        return self
