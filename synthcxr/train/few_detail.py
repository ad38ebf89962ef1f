"""Stage 1c: the autoencoder draws in a few evaluations the detail that it draws in many.

Its network learns whole steps of the way from noise to detail (Salimans and Ho 2022, section 3, in one go instead of
by halves), from the ways that it went itself as stage 1b left it.
"""

import copy

import torch
from torch import nn

from synthcxr.data.corpus import Corpus
from synthcxr.diffusion import ddim_step
from synthcxr.errors import RunError
from synthcxr.model.autoencoder import ChestAutoencoder, detail_noise, detail_places
from synthcxr.train.autoencoder import PCA_IMAGES, Reconstruction, sharp_items, some_images, to_images
from synthcxr.train.batches import share, step_rng
from synthcxr.train.config import TrainConfig
from synthcxr.train.detail import DetailStage, crops


class FewDetailModule(nn.Module):
    """The whole loss in one module, so that a wrapper for several processes sees it."""

    def __init__(self, student: ChestAutoencoder, teacher: ChestAutoencoder, teacher_steps: int):
        super().__init__()
        self.autoencoder = student
        self._teacher, self.teacher_steps = (teacher,), teacher_steps  # in a tuple: no part of what is trained

    def forward(self, images: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        """Mean squared error of v of each whole step for each image, (steps * b,).

        Args:
            images: (b, 1, h, w) in [-1, 1].
            noise: of the same shape, standard normal.
        """
        teacher, steps = self._teacher[0].to(images.device), self.autoencoder.config.detail_steps
        with torch.no_grad():
            coarse = teacher.coarse(teacher.encode(images).latent_dist.mean)
            way = list(teacher.detail_way(teacher.free(noise), coarse, self.teacher_steps))
            met = [seen for seen, _ in way[:: self.teacher_steps // steps]] + [way[-1][1]]
        place = detail_places(steps).repeat_interleave(len(images)).to(images.device)
        alpha, sigma = detail_noise(place)
        last = torch.ones_like(alpha[: len(images)])  # there alpha is 1, and sigma 0
        then = torch.cat([alpha[len(images) :], last]), torch.cat([sigma[len(images) :], 0 * last])
        kept, turned = ddim_step((alpha, sigma), then)
        begin, end = torch.cat(met[:-1]), torch.cat(met[1:])
        told = self.autoencoder.detail_v(begin, coarse.repeat(steps, 1, 1, 1), place)
        return (told - (end - kept * begin) / turned).square().mean(dim=(1, 2, 3))


class FewDetailStage(DetailStage):
    """What the loop asks of a stage; see loop.Stage. It ends as `DetailStage` does."""

    name = "few_detail"

    def __init__(self, config: TrainConfig, train: Corpus, validation: Corpus, teacher: ChestAutoencoder):
        self.config, self.settings, self.train = config, config.few_detail, train
        self.items = sharp_items(train)
        student = student_of(teacher, self.settings.evaluations).to(memory_format=torch.channels_last)
        self.module = FewDetailModule(student, teacher, self.settings.teacher_steps)
        images = some_images(train, self.items, config.seed, PCA_IMAGES)
        self.reconstruction = Reconstruction(validation, self.settings.validation_images, images, student)

    def loss(self, module: nn.Module, step: int, rank: int, processes: int, device: torch.device) -> torch.Tensor:
        """Mean error of v of whole steps over this process's part of the batch of one step."""
        rng = step_rng(self.config.seed, "few detail", step)
        shown, noise = (
            share(part, rank, processes)
            for part in crops(self.train.pixels, self._indices(step), self.settings.crop, rng)
        )
        return module(to_images(shown).to(device), torch.from_numpy(noise).to(device)).mean()


def student_of(teacher: ChestAutoencoder, evaluations: int) -> ChestAutoencoder:
    """A copy that draws detail in so few evaluations, as DDIM; its network for it is to be trained.

    Raises:
        RunError: the teacher draws no detail.
    """
    if not teacher.config.detail_steps:
        raise RunError("few_detail.steps needs a model of detail; give detail.steps, or few_detail.steps=0")
    student = copy.deepcopy(teacher).requires_grad_(False)
    student.register_to_config(detail_steps=evaluations, detail_order=1, detail_gain=1.0)
    student.detail.requires_grad_(True)
    return student
