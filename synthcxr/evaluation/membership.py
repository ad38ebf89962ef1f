"""Can the model itself tell whether it was trained on an image? Two attacks on diffusion models, as AUC; 0.5 is best.

They need no synthetic image. Both ask how well the model denoises an image that it's given: one after random noise,
one along the deterministic path, on which no chance blurs the answer.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from synthcxr.conditions import Condition, to_prompt
from synthcxr.diffusion import image_noise, noised
from synthcxr.evaluation.scores import Score, auc, auc_interval
from synthcxr.images import to_float, to_square
from synthcxr.model.bases import PromptEmbeddings, base_of
from synthcxr.model.folder import Model
from synthcxr.model.latents import posterior, scaled
from synthcxr.model.objective import STEPS, objective_of
from synthcxr.model.prompts import embed, understood

LOSS_TIMES = (0.1, 0.2, 0.3, 0.4, 0.5)  # shares of the schedule at which the loss is taken
SECMI_TIME, SECMI_STEPS = 0.1, 10  # of Duan et al. 2023: t = 100 of 1000, in steps of 10
BATCH = 16

Conditions = tuple[PromptEmbeddings, torch.Tensor]


@dataclass(frozen=True, eq=False)
class Known:
    """An image as an attacker has it: pixels, what it's labelled with, and its shorter side as it was found."""

    pixels: np.ndarray
    condition: Condition
    native: int


class Denoiser:
    """A model's view of images: latents, and the noise that it sees in noised ones, prompts included."""

    def __init__(self, model: Model):
        self.model, self.pipeline = model, model.pipeline
        self.base, self.objective = base_of(self.pipeline), objective_of(self.pipeline.scheduler)

    def latents(self, known: Sequence[Known]) -> torch.Tensor:
        """(b, c, h, w), scaled: the mean of the encoder, no sample."""
        vae, size = self.pipeline.vae, self.model.info.resolution
        images = torch.from_numpy(np.stack([to_square(to_float(one.pixels), size) for one in known]))[:, None]
        return scaled(posterior(vae, images)[0], vae)

    def conditions(self, known: Sequence[Known]) -> Conditions:
        """What images are labelled with, as training hands it to the denoiser: embedded prompts, and sizes (b, 6)."""
        info = self.model.info
        told = [to_prompt(understood(one.condition, info.template, info.words)[0], info.template) for one in known]
        native = torch.tensor([[min(one.native, info.resolution)] * 2 for one in known])
        sizes = torch.cat([native, torch.zeros_like(native), torch.full_like(native, info.resolution)], dim=1)
        embedded = embed(self.pipeline, told)
        return embedded, sizes.to(embedded.tokens)

    def split(self, x_bchw: torch.Tensor, t: int, conditions: Conditions) -> tuple[torch.Tensor, torch.Tensor]:
        """Clean latents and noise, as the model sees them in x_t; whatever it predicts."""
        times = torch.full((len(x_bchw),), t, device=x_bchw.device)
        told = self.base.predict(self.base.denoiser_of(self.pipeline), x_bchw, times, *conditions).float()
        return self.objective.split(x_bchw, told, *self.levels(x_bchw, t))

    def noised(self, clean: torch.Tensor, noise: torch.Tensor, t: int) -> torch.Tensor:
        return noised(clean, noise, *self.levels(clean, t))

    def levels(self, latents: torch.Tensor, t: int) -> tuple[torch.Tensor, torch.Tensor]:
        """alpha and sigma at a time of STEPS."""
        alpha, sigma = self.objective.levels(torch.tensor([t]))
        return alpha.to(latents), sigma.to(latents)


@torch.inference_mode()
def losses(denoiser: Denoiser, known: Sequence[Known], seed: int) -> np.ndarray:
    """(n,) mean squared error of the clean latents at LOSS_TIMES, the noise the same for every image."""

    def of(batch: Sequence[Known]) -> np.ndarray:
        clean, conditions = denoiser.latents(batch), denoiser.conditions(batch)
        errors = []
        for number, share in enumerate(LOSS_TIMES):
            t = int(share * STEPS)
            noise = image_noise([seed + number], clean.shape[1:]).to(clean).expand_as(clean)
            seen, _ = denoiser.split(denoiser.noised(clean, noise, t), t, conditions)
            errors.append((seen - clean).square().mean(dim=(1, 2, 3)))
        return torch.stack(errors).mean(0).cpu().numpy()

    return _in_batches(of, known)


@torch.inference_mode()
def step_errors(denoiser: Denoiser, known: Sequence[Known]) -> np.ndarray:
    """(n,) t-error of SecMI (Duan et al. 2023, eq. 9): how far a step on and back along DDIM's path leads astray."""
    end = int(SECMI_TIME * STEPS)
    times = np.linspace(0, end, SECMI_STEPS + 1).astype(int).tolist()
    beyond = min(end + (times[-1] - times[-2]), STEPS - 1)

    def of(batch: Sequence[Known]) -> np.ndarray:
        x, conditions = denoiser.latents(batch), denoiser.conditions(batch)
        for now, then in zip(times, times[1:], strict=False):
            x = denoiser.noised(*denoiser.split(x, now, conditions), then)
        on = denoiser.noised(*denoiser.split(x, end, conditions), beyond)
        back = denoiser.noised(*denoiser.split(on, beyond, conditions), end)
        return (back - x).square().mean(dim=(1, 2, 3)).cpu().numpy()

    return _in_batches(of, known)


def membership(model: Model, members: Sequence[Known], others: Sequence[Known], seed: int = 0) -> list[Score]:
    """How well training images are told from those of held-out patients: AUC of a small error.

    Args:
        members, others: one image a patient.
    """
    denoiser = Denoiser(model)
    both = [*members, *others]
    scores = []
    for name, errors in (
        ("membership by loss", losses(denoiser, both, seed)), ("membership by step error", step_errors(denoiser, both)),
    ):  # fmt: skip
        value = auc(-errors[: len(members)], -errors[len(members) :])
        low, high = auc_interval(value, len(members), len(others))
        scores.append(Score(name, value, low, high, min(len(members), len(others)), "lower"))
    return scores


def _in_batches(of: Callable[[Sequence[Known]], np.ndarray], known: Sequence[Known]) -> np.ndarray:
    return np.concatenate([of(known[start : start + BATCH]) for start in range(0, len(known), BATCH)])
