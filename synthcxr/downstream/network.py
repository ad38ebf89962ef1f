"""The classifier of an experiment: a small ResNet, or any image encoder of transformers, with one output a label."""

import json
from hashlib import sha256
from pathlib import Path

import torch
from torch import nn
from torch.nn.functional import interpolate
from transformers import (
    MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING,
    AutoConfig,
    AutoModel,
    AutoModelForImageClassification,
    PretrainedConfig,
    PreTrainedModel,
    ResNetConfig,
    ResNetForImageClassification,
)
from transformers.modeling_outputs import ImageClassifierOutput

from synthcxr.downstream.config import DownstreamConfig
from synthcxr.errors import ModelError, shown
from synthcxr.evaluation.features import pooled_output
from synthcxr.model.folder import UNLOADABLE, resolve
from synthcxr.runs import derive_seed


class Network(nn.Module):
    """From images (b, 1, h, w) in [-1, 1] to logits (b, labels), whatever a backbone wants to be given.

    Args:
        model: a model of transformers for image classification.
        size: pixels a side that it's shown; None: as they come.
        mean, deviation: a number a channel, of gray values in [0, 1].
    """

    def __init__(self, model: nn.Module, size: int | None, mean: torch.Tensor, deviation: torch.Tensor) -> None:
        super().__init__()
        self.model, self.size = model, size
        self.register_buffer("mean", mean.view(1, -1, 1, 1), persistent=False)
        self.register_buffer("deviation", deviation.view(1, -1, 1, 1), persistent=False)

    def forward(self, images_bchw: torch.Tensor) -> torch.Tensor:
        """Logits."""
        if self.size and images_bchw.shape[-1] != self.size:
            images_bchw = interpolate(images_bchw, (self.size, self.size), mode="bilinear", antialias=True)
        inputs = ((images_bchw + 1) / 2 - self.mean) / self.deviation
        return self.model(inputs.contiguous(memory_format=torch.channels_last)).logits.float()


class Headed(nn.Module):
    """An image encoder that transformers has no classifier for, and a fresh linear layer on its pooled output.

    Args:
        encoder: called with pixel_values (b, c, h, w).
        size: pixels a side that it takes; one image is shown to it to learn how many numbers come out.
    """

    def __init__(self, encoder: PreTrainedModel, labels: int, size: int) -> None:
        super().__init__()
        self.encoder, self.config = encoder, encoder.config
        encoder.eval()
        with torch.no_grad():
            width = self._pooled(torch.zeros(1, getattr(encoder.config, "num_channels", 3), size, size)).shape[1]
        self.head = nn.Linear(width, labels)

    def forward(self, pixel_values: torch.Tensor) -> ImageClassifierOutput:
        """Logits (b, labels)."""
        return ImageClassifierOutput(logits=self.head(self._pooled(pixel_values)))

    def _pooled(self, images_bchw: torch.Tensor) -> torch.Tensor:
        return pooled_output(self.encoder(pixel_values=images_bchw))


def build_network(config: DownstreamConfig, labels: tuple[str, ...], seed: int) -> Network:
    """A network whose fresh weights are a function of the seed alone.

    Raises:
        ModelError: there's no such backbone, or none that transformers can put a classifier on.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(seed, "weights"))
        return _small(config, len(labels)) if config.backbone is None else _backbone(config, len(labels))


def fingerprint(network: nn.Module) -> str:
    """sha256 of all weights, 64 hex digits."""
    digest = sha256()
    for name, tensor in sorted(network.state_dict().items()):
        digest.update(name.encode() + tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _small(config: DownstreamConfig, labels: int) -> Network:
    shape = config.resnet
    model = ResNetForImageClassification(
        ResNetConfig(
            num_channels=1,
            embedding_size=shape.channels[0],
            hidden_sizes=list(shape.channels),
            depths=list(shape.depths),
            layer_type="basic",
            num_labels=labels,
        )  # fmt: skip
    )
    return Network(model.to(memory_format=torch.channels_last), None, torch.tensor([0.5]), torch.tensor([0.5]))


def _backbone(config: DownstreamConfig, labels: int) -> Network:
    folder = resolve(config.backbone)
    try:
        own = AutoConfig.from_pretrained(folder, num_labels=labels, local_files_only=True)
        size = _size(own)
        if type(own) in MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING:
            model = _loaded(AutoModelForImageClassification, folder, own, config.pretrained)
        else:
            model = Headed(_loaded(AutoModel, folder, own, config.pretrained), labels, size or config.size)
    except UNLOADABLE as error:
        reason = " ".join(str(error).split())[:200]
        raise ModelError(f"{shown(folder)} can't be loaded as an image encoder ({reason}); give another") from error
    return Network(model, size, *_normalisation(folder, model.config))


def _loaded(kind: type, folder: Path, own: PretrainedConfig, pretrained: bool) -> PreTrainedModel:
    if not pretrained:
        return kind.from_config(own)
    return kind.from_pretrained(
        folder, config=own, ignore_mismatched_sizes=True, dtype=torch.float32, use_safetensors=True,
        local_files_only=True,
    )  # fmt: skip


def _size(own: PretrainedConfig) -> int | None:
    size = getattr(own, "image_size", None)
    return size if isinstance(size, int) else None


def _normalisation(folder: Path, config: object) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and deviation of preprocessor_config.json, a half each where there's none; a number a channel."""
    channels = getattr(config, "num_channels", 3)
    file = folder / "preprocessor_config.json"
    if not file.is_file():
        return torch.full((channels,), 0.5), torch.full((channels,), 0.5)
    try:
        said = json.loads(file.read_text(encoding="utf-8"))
        return tuple(torch.tensor(said[name], dtype=torch.float32)[:channels] for name in ("image_mean", "image_std"))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{shown(file)} must say image_mean and image_std; restore it") from error
