"""What a layout of latent diffusion models has to say of itself."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from diffusers import DiffusionPipeline
from torch import nn


@dataclass(frozen=True)
class PromptEmbeddings:
    """What a stock pipeline takes instead of prompts: one row a prompt.

    Attributes:
        tokens: (b, length, width).
        pooled: (b, width), where the layout has it (SDXL).
        mask: (b, length), 1 for tokens and 0 for padding, where the layout wants it (Sana).
    """

    tokens: torch.Tensor
    pooled: torch.Tensor | None = None
    mask: torch.Tensor | None = None

    def select(self, rows: list[int]) -> "PromptEmbeddings":
        """The rows, in this order, repeats allowed."""
        return PromptEmbeddings(**{name: value[rows] for name, value in self.fields().items()})

    def fields(self) -> dict[str, torch.Tensor]:
        """Those that are there, by name."""
        named = {"tokens": self.tokens, "pooled": self.pooled, "mask": self.mask}
        return {name: value for name, value in named.items() if value is not None}

    def to(self, device: torch.device) -> "PromptEmbeddings":
        return PromptEmbeddings(**{name: value.to(device) for name, value in self.fields().items()})


Predict = Callable[[nn.Module, torch.Tensor, torch.Tensor, PromptEmbeddings, torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Base:
    """A layout.

    Attributes:
        denoiser: the pipeline's component that is trained.
        text_encoders: its components that read prompts, and `tokenizers`, in the same order.
        encode: prompts to embeddings through the pipeline's own `encode_prompt`; gradients flow.
        predict: (denoiser, noisy latents (b, c, h, w), times (b,) in [0, 1000), embeddings, sizes (b, 6)) to what the
            denoiser tells, (b, c, h, w). Sizes are height and width three times: native, crop offset, target.
        lora: the denoiser's linear layers that LoRA adapts, by the ends of their names.
        text_lora: the same of its text encoders; none where the pipeline's own files of adapters have no room for them.
        tokens: what its text encoders read of a prompt at most, begin and end included.
        guided: tensors of its pipeline's loop whose first half is the empty prompt's: where there are any, guidance may
            end before the last step, be rescaled, lead findings farther and keep the level.
        arguments: what else its pipeline is called with, to draw at the very size that's asked for.
        settings: the pipeline's own entries of model_index.json that training decides.
    """

    denoiser: str
    text_encoders: tuple[str, ...]
    tokenizers: tuple[str, ...]
    encode: Callable[[DiffusionPipeline, list[str], torch.device], PromptEmbeddings]
    predict: Predict
    lora: tuple[str, ...]
    tokens: int
    text_lora: tuple[str, ...] = ()
    guided: tuple[str, ...] = ()
    arguments: Mapping[str, bool | None] = field(default_factory=dict)
    settings: Mapping[str, bool] = field(default_factory=dict)

    def denoiser_of(self, pipeline: DiffusionPipeline) -> nn.Module:
        return getattr(pipeline, self.denoiser)

    def text_encoders_of(self, pipeline: DiffusionPipeline) -> dict[str, nn.Module]:
        """Those that the pipeline has, by name."""
        return {name: part for name in self.text_encoders if (part := getattr(pipeline, name, None)) is not None}
