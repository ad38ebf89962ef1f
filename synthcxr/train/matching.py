"""Stage 4: the few-step mode's pictures get, all together, the statistics of real radiographs.

Stage 3 learns each picture from a teacher, with what that gets wrong; and what it can't learn, it blurs. Here the same
adapter goes on under the Frechet distance itself (Heusel et al. 2017, eq. 6), differentiated through all of a
picture's few steps: from its pictures' features together with what was asked for, to real images' features together
with what they show. So the covariance of features and conditions is part of it: pictures are to follow their prompts as
much as real ones follow their labels, no less and no more.

The features are those of a critic, a classifier that is trained for this stage and isn't kept: the one beside the
model judges pictures, so nothing is trained against it.
"""

import copy
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import nn
from tqdm import tqdm
from transformers import CLIPTextModelWithProjection, ResNetForImageClassification

from synthcxr.conditions import Condition, to_prompt
from synthcxr.data.corpus import Corpus
from synthcxr.files import atomic_path
from synthcxr.images import contact_sheet, from_float
from synthcxr.model.autoencoder import ChestAutoencoder
from synthcxr.model.classifier import shrunk, targets
from synthcxr.model.denoiser import ChestUNet
from synthcxr.model.few_step import adapted, whole_steps
from synthcxr.model.folder import Model
from synthcxr.model.hashes import module_hash
from synthcxr.runs import derive_seed
from synthcxr.train.autoencoder import to_images
from synthcxr.train.batches import batch_items, share, step_rng, training_condition
from synthcxr.train.config import TrainConfig
from synthcxr.train.lora import Adapters

AT_ONCE = 32
RIDGE = 1e-3  # added to each variance of standardised rows: so many dimensions are known from few rows
LEAST_DEVIATION = 0.05  # by which a rare label is standardised: one of 14 images must not outweigh all others


class MatchingModule(nn.Module):
    """From noise and prompts to the critic's features, as one module.

    Attributes:
        earlier: (kept, d) rows of the pictures drawn last; part of the state, since the next step depends on it.
    """

    earlier: torch.Tensor

    def __init__(
        self, unet: ChestUNet, text_encoder: CLIPTextModelWithProjection, vae: ChestAutoencoder,
        critic: ResNetForImageClassification,
    ):  # fmt: skip
        super().__init__()
        self.unet, self.text_encoder, self.vae, self.critic = unet, text_encoder, vae, critic
        for part in (text_encoder, vae, critic):
            part.requires_grad_(False)

    def train(self, mode: bool = True) -> "MatchingModule":
        """The adapter's mode; the critic's batch norms stay as they were learned."""
        super().train(mode)
        self.critic.eval()
        return self

    def forward(self, noise_bchw: torch.Tensor, tokens: torch.Tensor, time_ids: torch.Tensor) -> torch.Tensor:
        """Features (b, d) of the pictures of these prompts, float32."""
        return features(self.critic, self.pictures(noise_bchw, tokens, time_ids))

    def pictures(self, noise_bchw: torch.Tensor, tokens: torch.Tensor, time_ids: torch.Tensor) -> torch.Tensor:
        """(b, 1, h, w) in [-1, 1], drawn as the few-step mode draws them."""
        text = self.text_encoder(tokens, output_hidden_states=True)
        conditions = {"text_embeds": text.text_embeds, "time_ids": time_ids}
        seen = noise_bchw
        for t, kept, turned in zip(*whole_steps(self.unet.few_steps), strict=True):
            given = seen.contiguous(memory_format=torch.channels_last)
            told = self.unet(given, t.expand(len(seen)), text.hidden_states[-2], added_cond_kwargs=conditions).sample
            seen = kept.to(seen.device) * seen + turned.to(seen.device) * told.float()
        pixels = self.vae.decode(seen / self.vae.config.scaling_factor).sample
        return pixels.float().mean(dim=1, keepdim=True).clamp(-1, 1)


def features(critic: ResNetForImageClassification, images_bchw: torch.Tensor) -> torch.Tensor:
    """Means over the critic's last two levels, (b, d) float32."""
    images = shrunk(images_bchw, critic.config.image_size).contiguous(memory_format=torch.channels_last)
    levels = critic.resnet(images, output_hidden_states=True).hidden_states[-2:]
    return torch.cat([level.mean(dim=(2, 3)).float() for level in levels], dim=1)


class Reference:
    """A Gaussian fitted to rows (n, d), and the Frechet distance to it that gradients can follow."""

    def __init__(self, rows: torch.Tensor):
        self.mean, self.covariance = _moments(rows)
        values, vectors = torch.linalg.eigh(self.covariance)
        self.root = (vectors * values.sqrt()) @ vectors.T

    def distance(self, rows: torch.Tensor) -> torch.Tensor:
        """Squared Frechet distance of a Gaussian fitted to these rows, for each dimension."""
        mean, covariance = _moments(rows)
        ours, root = (part.to(rows.device) for part in (self.mean, self.root))
        shared = torch.linalg.eigvalsh(root @ covariance @ root).clamp_min(1e-12).sqrt().sum()
        spread = covariance.trace() + self.covariance.trace().to(rows.device) - 2 * shared
        return ((mean - ours).square().sum() + spread) / rows.shape[1]


def _moments(rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    wide = rows.double()
    centred = wide - wide.mean(dim=0)
    ridge = RIDGE * torch.eye(wide.shape[1], dtype=wide.dtype, device=wide.device)
    return wide.mean(dim=0), centred.T @ centred / (len(wide) - 1) + ridge


class Rows:
    """Features and conditions side by side, each column at the scale that it has in real training images."""

    def __init__(self, features_nd: torch.Tensor, conditions: Sequence[Condition], weight: float):
        known = targets(conditions)
        self.weight = weight
        self._mean, self._deviation = features_nd.mean(dim=0), features_nd.std(dim=0).clamp_min(1e-6)
        some = np.isfinite(known).any(axis=0)  # a label that no image tells stays out of it
        self._known_mean = np.where(some, np.nanmean(np.where(some, known, 0.0), axis=0), 0.0)
        self._known_deviation = np.nanstd(np.where(some, known, 0.0), axis=0).clip(LEAST_DEVIATION)

    def __call__(self, features_bd: torch.Tensor, conditions: Sequence[Condition]) -> torch.Tensor:
        """(b, d + labels); what isn't said or known counts as the mean."""
        seen = (features_bd - self._mean.to(features_bd.device)) / self._deviation.to(features_bd.device)
        said = np.nan_to_num((targets(conditions) - self._known_mean) / self._known_deviation).astype(np.float32)
        return torch.cat([seen, self.weight * torch.from_numpy(said).to(seen.device)], dim=1)


class MatchingStage:
    """What the loop asks of a stage; see loop.Stage.

    Args:
        train, validation: at the critic's resolution, so that each image is as sharp as it can be there.
        adapter: folder of the few-step mode's adapter, which goes on.
        critic: folder of the classifier whose features are compared.
    """

    name = "matching"

    def __init__(
        self, config: TrainConfig, train: Corpus, validation: Corpus, model: Model, steps: int, adapter: Path,
        critic: Path, cache: Path, device: torch.device,
    ):  # fmt: skip
        self.config, self.settings, self.model = config, config.matching, model
        self.train, self.device = train, device
        self.items = np.concatenate([np.arange(len(train.records)), np.repeat(train.ill, config.finding_repeats - 1)])
        pipeline = model.pipeline
        unet = adapted(copy.deepcopy(pipeline.unet), adapter, steps)
        unet.requires_grad_(False)
        for name, weight in unet.named_parameters():
            weight.requires_grad_("lora_" in name)
        judge = ResNetForImageClassification.from_pretrained(critic, dtype=torch.float32, use_safetensors=True)
        judge = judge.eval().to(device, memory_format=torch.channels_last)
        self.module = MatchingModule(unet, pipeline.text_encoder_2, pipeline.vae, judge).to(device)
        seen, self.checked_seen = (self._seen(corpus) for corpus in (train, validation))
        self.rows = Rows(seen, [record.condition for record in train.records], self.settings.condition_weight)
        rng = step_rng(config.seed, "matching reference", 0)
        self.reference = Reference(self.rows(seen[self.items], [self._said(item, rng) for item in self.items]))
        self._set_up_check(seen, validation)
        self.module.register_buffer("earlier", self._first(cache))
        self.module.train()  # whether those were drawn now or read: modes differ by rounding

    def _set_up_check(self, seen: torch.Tensor, validation: Corpus) -> None:
        """What held-out pictures are compared with, and the distance of as many training images from it."""
        count = min(self.settings.validation_images, len(validation.records), len(self.train.records))
        self.checked = [record.condition for record in validation.records[:count]]
        self.checked_reference = Reference(self.rows(self.checked_seen[:count], self.checked))
        others = step_rng(self.config.seed, "matching floor", 0).permutation(len(self.train.records))[:count]
        shown = [self.train.records[index].condition for index in others]
        self.floor = self.checked_reference.distance(self.rows(seen[others], shown)).item()

    @torch.no_grad()
    def _seen(self, corpus: Corpus) -> torch.Tensor:
        """The critic's features of all images, (n, d), on the CPU."""
        parts = np.array_split(np.arange(len(corpus.records)), -(-len(corpus.records) // AT_ONCE))
        images = (to_images(corpus.pixels[part]).to(self.device) for part in tqdm(parts, "real images' features"))
        return torch.cat([features(self.module.critic, part).cpu() for part in images])

    def _said(self, item: int, rng: np.random.Generator) -> Condition:
        return training_condition(self.train.records[item].condition, rng, part_dropout=self.settings.part_dropout)

    @torch.no_grad()
    def _first(self, cache: Path) -> torch.Tensor:
        """Rows of as many pictures as are kept, by the adapter as it comes: drawn once."""
        told = [module_hash(part) for part in (self.module.unet, self.module.text_encoder, self.module.critic)]
        told += [self.train.hash, self.settings.model_dump_json(include={"part_dropout", "condition_weight", "kept"})]
        path = cache / f"matching-{derive_seed(self.config.seed, '/'.join(told)):016x}.npy"
        if not path.exists():
            self.module.eval()
            rows = []
            for start in tqdm(range(0, self.settings.kept, AT_ONCE), "pictures to begin with"):
                rng = step_rng(self.config.seed, "matching begin", start)
                count = min(AT_ONCE, self.settings.kept - start)
                conditions = [self._said(item, rng) for item in rng.choice(self.items, count)]
                rows.append(self.rows(self.module(*self._inputs(conditions, self._noise(count, rng))), conditions))
            with atomic_path(path) as temporary, temporary.open("wb") as file:
                np.save(file, torch.cat(rows).cpu().numpy())
        return torch.from_numpy(np.load(path)).to(self.device)

    def _noise(self, count: int, rng: np.random.Generator) -> np.ndarray:
        latent = self.model.pipeline.unet.config
        return rng.standard_normal((count, latent.in_channels, latent.sample_size, latent.sample_size), np.float32)

    def _inputs(self, conditions: Sequence[Condition], noise: np.ndarray) -> tuple[torch.Tensor, ...]:
        """What the module takes: noise, tokens, and sizes as a picture is asked for at full sharpness."""
        prompts = [to_prompt(condition, self.model.info.template) for condition in conditions]
        tokenizer, size = self.model.pipeline.tokenizer_2, float(self.model.info.resolution)
        tokens = tokenizer(prompts, padding="max_length", truncation=True, return_tensors="pt").input_ids
        sizes = torch.tensor([[size, size, 0, 0, size, size]]).repeat(len(prompts), 1)
        return tuple(part.to(self.device) for part in (torch.from_numpy(noise), tokens, sizes))

    def sample_ids(self, step: int) -> list[str]:
        """Ids of the images whose conditions a step asks for, for error messages."""
        return [self.train.records[index].id for index in self._items(step)]

    def _items(self, step: int) -> np.ndarray:
        return batch_items(self.items, self.config.seed, step, self.settings.batch_size)

    def loss(self, module: nn.Module, step: int, rank: int, processes: int, device: torch.device) -> torch.Tensor:
        """Distance of the pictures drawn last to real images; this process's part of the batch carries the gradient.

        One batch is a small part of them: its gradient counts as if all of them were drawn now.
        """
        rng = step_rng(self.config.seed, "matching", step)
        conditions = share([self._said(item, rng) for item in self._items(step)], rank, processes)
        noise = share(self._noise(self.settings.batch_size, rng), rank, processes)
        drawn = self.rows(module(*self._inputs(conditions, noise)), conditions)
        earlier = self.module.earlier.clone()
        distance = self.reference.distance(torch.cat([earlier, drawn]))
        with torch.no_grad():
            self.module.earlier.copy_(torch.cat([earlier, drawn])[len(drawn) :])
        often = (len(earlier) + len(drawn)) / len(drawn)
        return distance.detach() + often * (distance - distance.detach())

    @torch.no_grad()
    def validate(self, module: nn.Module, device: torch.device) -> dict[str, float]:
        """Distance, for each dimension, of pictures of held-out conditions from held-out images; of training images."""
        rows = []
        for start in range(0, len(self.checked), AT_ONCE):
            conditions = self.checked[start : start + AT_ONCE]
            noise = self._noise(len(conditions), step_rng(self.config.seed, "matching check", start))
            rows.append(self.rows(module(*self._inputs(conditions, noise)), conditions))
        distance = self.checked_reference.distance(torch.cat(rows)).item()
        return {"frechet": distance, "frechet_of_training": self.floor, "images": float(len(self.checked))}

    @torch.no_grad()
    def sheet(self, module: nn.Module, device: torch.device) -> np.ndarray:
        """Pictures of the first held-out conditions."""
        conditions = self.checked[:16]
        noise = self._noise(len(conditions), step_rng(self.config.seed, "matching sheet", 0))
        pixels = self.module.pictures(*self._inputs(conditions, noise))[:, 0]
        return contact_sheet(list(from_float(pixels.cpu().numpy())), columns=min(8, len(conditions)))

    def finish(self, device: torch.device) -> Adapters:
        """The adapters; call with the EMA weights in place."""
        return Adapters(self.model.pipeline, {"unet": self.module.unet})
