"""The classifier of an experiment: a small ResNet, or any image encoder of transformers, with one output a label."""

import json
from hashlib import sha256
from pathlib import Path

import torch
from torch import nn
from torch.nn.functional import interpolate
from transformers import AutoConfig, AutoModelForImageClassification, ResNetConfig, ResNetForImageClassification

from synthcxr.downstream.config import DownstreamConfig
from synthcxr.errors import ModelError, shown
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
        if config.pretrained:
            model = AutoModelForImageClassification.from_pretrained(
                folder, num_labels=labels, ignore_mismatched_sizes=True, dtype=torch.float32, use_safetensors=True,
                local_files_only=True,
            )  # fmt: skip
        else:
            own = AutoConfig.from_pretrained(folder, num_labels=labels, local_files_only=True)
            model = AutoModelForImageClassification.from_config(own)
    except UNLOADABLE as error:
        reason = " ".join(str(error).split())[:200]
        raise ModelError(f"{shown(folder)} can't be loaded as an image classifier ({reason}); give another") from error
    size = getattr(model.config, "image_size", None)
    return Network(model, size if isinstance(size, int) else None, *_normalisation(folder, model.config))


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
