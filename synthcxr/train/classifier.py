"""Stage 4: the classifier that reads findings, sex, view and age; it judges, and screens, what is generated."""

import numpy as np
import torch
from torch.nn.functional import binary_cross_entropy_with_logits
from transformers import ResNetForImageClassification

from synthcxr.data.corpus import Corpus
from synthcxr.model.classifier import AGE_SCALE, build_classifier, shrunk, targets
from synthcxr.runs import derive_seed
from synthcxr.train.augment import augmented
from synthcxr.train.autoencoder import to_images
from synthcxr.train.batches import batch_items, share, step_rng
from synthcxr.train.config import TrainConfig


class ClassifierStage:
    """What the loop asks of a stage; see loop.Stage."""

    name = "classifier"

    def __init__(self, config: TrainConfig, train: Corpus, validation: Corpus):
        self.config, self.settings = config, config.classifier
        self.train, self.validation = train, validation
        self.items = np.concatenate([np.arange(len(train.records)), np.repeat(train.ill, config.finding_repeats - 1)])
        self.targets = targets(record.condition for record in train.records)
        self.checked = np.arange(len(validation.records))[: self.settings.validation_images]
        self.checked_targets = targets(validation.records[i].condition for i in self.checked)
        torch.manual_seed(derive_seed(config.seed, "classifier weights"))
        self.module = build_classifier(self.settings.shape).to(memory_format=torch.channels_last)

    def sample_ids(self, step: int) -> list[str]:
        """Ids of the images of a step, for error messages."""
        indices = batch_items(self.items, self.config.seed, step, self.settings.batch_size)
        return [self.train.records[index].id for index in indices]

    def loss(self, module: torch.nn.Module, step: int, rank: int, processes: int, device: torch.device) -> torch.Tensor:
        """Mean loss over what is known of this process's part of the batch of one step."""
        indices = batch_items(self.items, self.config.seed, step, self.settings.batch_size)
        draws = step_rng(self.config.seed, "classifier", step).random((len(indices), 5), dtype=np.float32)
        own = share(indices, rank, processes)
        images = shrunk(to_images(self.train.pixels[own]), self.settings.shape.size)
        images = augmented(images, torch.from_numpy(share(draws, rank, processes))).to(device)
        told = module(images.contiguous(memory_format=torch.channels_last)).logits.float()
        return label_loss(told, torch.from_numpy(self.targets[own]).to(device)).mean()

    @torch.no_grad()
    def validate(self, module: torch.nn.Module, device: torch.device) -> dict[str, float]:
        """Mean losses on held-out images: of findings, sex, view (cross-entropy, nats) and age (years, absolute)."""
        told, known = self._logits(module, device), torch.from_numpy(self.checked_targets)
        losses = label_loss(told, known)
        age = (told[:, -1] - known[:, -1]).abs().nanmean() * AGE_SCALE
        return {
            "findings": losses[:-3].mean().item(), "sex": losses[-3].item(), "view": losses[-2].item(),
            "age_error": age.item(), "images": float(len(told)),
        }  # fmt: skip

    def sheet(self, module: torch.nn.Module, device: torch.device) -> None:
        """Nothing to look at."""

    @torch.no_grad()
    def _logits(self, module: torch.nn.Module, device: torch.device) -> torch.Tensor:
        parts = []
        for start in range(0, len(self.checked), 64):
            images = to_images(self.validation.pixels[self.checked[start : start + 64]])
            parts.append(module(shrunk(images, self.settings.shape.size).to(device)).logits.float().cpu())
        return torch.cat(parts)

    def finish(self, device: torch.device) -> ResNetForImageClassification:
        """The trained classifier with its last layer calibrated on the validation patients; call with EMA weights."""
        module = self.module.eval()
        scale, shift = platt(self._logits(module, device), torch.from_numpy(self.checked_targets))
        last = module.classifier[-1]
        with torch.no_grad():
            last.weight.mul_(scale[:, None].to(device))
            last.bias.mul_(scale.to(device)).add_(shift.to(device))
        return module


def label_loss(logits: torch.Tensor, known: torch.Tensor) -> torch.Tensor:
    """Mean loss of each label, (17,): cross-entropy, for the age half the squared error; 0 for one known of no image.

    Args:
        logits, known: (b, 17), the last the age; NaN where it isn't known.
    """
    mask = known.isfinite()
    known = torch.where(mask, known, 0.0)
    binary = binary_cross_entropy_with_logits(logits[:, :-1], known[:, :-1], reduction="none")
    age = 0.5 * (logits[:, -1:] - known[:, -1:]).square()
    return (torch.cat([binary, age], dim=1) * mask).sum(0) / mask.sum(0).clamp_min(1)


def platt(logits: torch.Tensor, known: torch.Tensor, prior: float = 2.0) -> tuple[torch.Tensor, torch.Tensor]:
    """Scale and shift of each label's logit that calibrate it (Platt 1999), (17,) each; the age stays as it is.

    Args:
        prior: weight, in images, of the penalty that holds them at 1 and 0 where few images tell.
    """
    scale, shift = torch.ones(logits.shape[1]), torch.zeros(logits.shape[1])
    mask = known.isfinite()
    count = mask[:, :-1].sum(0).clamp_min(1)
    parameters = torch.stack([scale[:-1].clone(), shift[:-1].clone()]).requires_grad_(True)
    optimizer = torch.optim.LBFGS([parameters], max_iter=200, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        changed = torch.cat([logits[:, :-1] * parameters[0] + parameters[1], logits[:, -1:]], dim=1)
        penalty = prior * ((parameters[0] - 1).square() + parameters[1].square()) / count
        loss = (label_loss(changed, known)[:-1] + penalty).sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    scale[:-1], shift[:-1] = parameters.detach()
    return scale, shift
