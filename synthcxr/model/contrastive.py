"""The image-text model beside the classifier: how well a radiograph and a prompt fit together.

It's CLIP (Radford et al. 2021, section 2.3), small. Its image tower is the classifier of the same MODEL folder, as it
stands: what is stored here is a text tower, transformers' own, and the projection of the classifier's features.
"""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from pydantic import Field
from torch import nn
from torch.nn.functional import normalize
from transformers import CLIPTextConfig, CLIPTextModelWithProjection, CLIPTokenizer, PreTrainedModel

from synthcxr.conditions import Condition, to_prompt
from synthcxr.config import Config
from synthcxr.errors import ModelError, shown
from synthcxr.files import hash_files, sha256_file
from synthcxr.model.embedded import DenoiserShape, build_text_encoder
from synthcxr.model.folder import CLASSIFIER, CONTRASTIVE, EMBEDDED, UNLOADABLE, resolve
from synthcxr.model.prompts import understood

MOST_SCALE = 100.0  # of the logits, as in the paper
FIRST_SCALE = 1 / 0.07
_BATCH = 256  # prompts embedded at once


class ContrastiveShape(Config):
    """Widths of the image-text model; the default has 0.3 million parameters of its own."""

    width: int = Field(96, ge=32, description="of the text tower and of the space that both towers end in")
    layers: int = Field(2, ge=2)
    tokens: int = Field(48, ge=8, description="prompts are cut to as many")


class ImageText(PreTrainedModel):
    """Both towers after the classifier: its features, and a prompt's tokens, to vectors of length 1.

    The configuration is CLIPTextConfig's with `image_features` (how many numbers the classifier gives), `classifier`
    (sha256 of its weights), `template` and `words` (of the prompts it was trained on) beside.
    """

    config_class = CLIPTextConfig
    _supports_sdpa = True  # as the text tower does

    def __init__(self, config: CLIPTextConfig):
        super().__init__(config)
        self.text = CLIPTextModelWithProjection(config)
        self.image_norm = nn.LayerNorm(config.image_features)
        self.image_projection = nn.Linear(config.image_features, config.projection_dim)
        self.logit_scale = nn.Parameter(torch.tensor(math.log(FIRST_SCALE)))
        self.post_init()

    def forward(self, features: torch.Tensor, tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Vectors of images and of prompts, each (b, width), and the scale of the logits.

        Args:
            features: (b, image_features), the classifier's.
            tokens: (b, length).
        """
        return self.images(features), self.prompts(tokens), self.logit_scale.exp().clamp_max(MOST_SCALE)

    def images(self, features: torch.Tensor) -> torch.Tensor:
        return normalize(self.image_projection(self.image_norm(features)), dim=-1)

    def prompts(self, tokens: torch.Tensor) -> torch.Tensor:
        return normalize(self.text(tokens).text_embeds, dim=-1)


def build_contrastive(
    shape: ContrastiveShape, tokenizer: CLIPTokenizer, image_features: int, classifier: str, template: str,
    words: Sequence[str],
) -> ImageText:  # fmt: skip
    """An image-text model with fresh weights from torch's global generator; see `ImageText` for the arguments."""
    config = build_text_encoder(DenoiserShape(text_width=shape.width, text_layers=shape.layers), tokenizer).config
    config.update(
        {"image_features": image_features, "classifier": classifier, "template": template, "words": list(words)}
    )
    return ImageText(config)


class Contrastive:
    """A trained image-text model, ready to compare."""

    def __init__(self, network: ImageText, tokenizer: CLIPTokenizer, hash: str):
        self.network, self.tokenizer, self.hash = network.eval(), tokenizer, hash

    def prompt(self, condition: Condition) -> str:
        """The words it's told of a condition: those that it was trained on."""
        template = self.network.config.template
        return to_prompt(understood(condition, template, self.network.config.words)[0], template)

    @torch.no_grad()
    def images(self, features: np.ndarray) -> np.ndarray:
        """(n, width) of images, each of length 1.

        Args:
            features: (n, d), what the classifier beside it read (`Readings.features`).
        """
        return self.network.images(torch.from_numpy(np.asarray(features, dtype=np.float32))).numpy()

    @torch.no_grad()
    def embed(self, prompts: Sequence[str]) -> np.ndarray:
        """(n, width) of prompts, each of length 1."""
        parts = [list(prompts[start : start + _BATCH]) for start in range(0, len(prompts), _BATCH)]
        return torch.cat([self.network.prompts(tokens_of(self.tokenizer, part)) for part in parts]).numpy()


def tokens_of(tokenizer: CLIPTokenizer, prompts: Sequence[str]) -> torch.Tensor:
    """(n, length), padded to the longest of them, cut at the model's length."""
    return tokenizer(list(prompts), padding="longest", truncation=True, return_tensors="pt").input_ids


def load_contrastive(source: str | Path | None = None) -> Contrastive:
    """The image-text model of a MODEL folder (None: the embedded one), with float32 weights.

    Raises:
        ModelError: the model has none, its files are damaged, or the classifier beside it is another one.
    """
    model = resolve(EMBEDDED if source is None else source)
    folder = model / CONTRASTIVE
    if not (folder / "config.json").is_file():
        raise ModelError(
            f"{shown(folder)} holds no image-text model; train one (contrastive.steps), or give another model"
        )
    if not (model / CLASSIFIER / "model.safetensors").is_file():
        raise ModelError(f"{shown(model / CLASSIFIER)} holds no classifier, whose features {shown(folder)} takes")
    try:
        network = ImageText.from_pretrained(folder, dtype=torch.float32, use_safetensors=True)
        tokenizer = CLIPTokenizer.from_pretrained(folder)
        same = network.config.classifier == weights_hash(model / CLASSIFIER)
    except UNLOADABLE as error:
        reason = " ".join(str(error).split())[:200]
        raise ModelError(f"{shown(folder)} can't be loaded ({reason}); restore its files or train again") from error
    if not same:
        raise ModelError(
            f"{shown(folder)} reads the features of another classifier than {shown(model / CLASSIFIER)}; train it again"
        )
    return Contrastive(network, tokenizer, hash_files(folder.glob("*")))


def weights_hash(classifier: Path) -> str:
    """sha256 of the weights in a classifier's folder; how its configuration is laid out doesn't matter."""
    return sha256_file(classifier / "model.safetensors")
