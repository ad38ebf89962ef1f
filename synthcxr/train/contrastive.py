"""Stage 5: the image-text model, on the classifier's features of real images and their prompts."""

from pathlib import Path

import numpy as np
import torch
from torch.nn.functional import cross_entropy
from tqdm import tqdm

from synthcxr.conditions import FindingState, canonical_words, to_prompt
from synthcxr.data.corpus import Corpus
from synthcxr.evaluation.image_text import Pairs, retrieval
from synthcxr.files import atomic_path
from synthcxr.model.classifier import open_classifier, pooled, shrunk
from synthcxr.model.contrastive import ImageText, build_contrastive, tokens_of, weights_hash
from synthcxr.model.embedded import build_tokenizer
from synthcxr.model.prompts import words_of
from synthcxr.runs import derive_seed
from synthcxr.train.augment import augmented
from synthcxr.train.autoencoder import to_images
from synthcxr.train.batches import NEGATABLE, batch_items, share, step_rng, training_prompt
from synthcxr.train.config import TrainConfig

RECALL_AT = 10


class ContrastiveStage:
    """What the loop asks of a stage; see loop.Stage."""

    name = "contrastive"

    def __init__(
        self, config: TrainConfig, train: Corpus, validation: Corpus, classifier: Path, cache: Path,
        device: torch.device,
    ):  # fmt: skip
        self.config, self.settings, self.template = config, config.contrastive, config.denoiser.template
        self.train, self.validation = train, validation
        self.items = np.concatenate([np.arange(len(train.records)), np.repeat(train.ill, config.finding_repeats - 1)])
        self.checked = np.arange(len(validation.records))[: self.settings.validation_images]
        self.checked_prompts = [to_prompt(validation.records[i].condition, self.template) for i in self.checked]
        reader, tag = open_classifier(classifier).network.to(device), weights_hash(classifier)

        def features(corpus: Corpus, variants: int) -> np.ndarray:
            key = derive_seed(config.seed, f"{corpus.hash}/{variants}/{tag}")
            path = cache / f"features-{key:016x}.npy"
            if not path.exists():
                _write_features(path, corpus, variants, config.seed, reader, device)
            return np.load(path, mmap_mode="r")

        self.features = features(train, self.settings.variants)
        self.checked_features = torch.from_numpy(features(validation, 1)[self.checked, 0].astype(np.float32))
        self.tokenizer = build_tokenizer(canonical_words(), self.settings.shape.tokens)
        torch.manual_seed(derive_seed(config.seed, "contrastive weights"))
        self.module = build_contrastive(
            self.settings.shape, self.tokenizer, self.features.shape[-1], tag, self.template, self._words()
        )

    def _words(self) -> tuple[str, ...]:
        conditions = [record.condition for record in self.train.records]
        if self.settings.negatives:
            absent = {finding: FindingState(state="absent") for finding in NEGATABLE}
            conditions.append(conditions[0].model_copy(update={"findings": absent}))
        prompts = [to_prompt(condition, self.template) for condition in conditions]
        return words_of(prompts, [condition.age for condition in conditions if condition.age is not None])

    def sample_ids(self, step: int) -> list[str]:
        """Ids of the images of a step, for error messages."""
        indices = batch_items(self.items, self.config.seed, step, self.settings.batch_size)
        return [self.train.records[index].id for index in indices]

    def loss(self, module: torch.nn.Module, step: int, rank: int, processes: int, device: torch.device) -> torch.Tensor:
        """Contrastive loss among this process's part of the batch of one step."""
        settings = self.settings
        indices = batch_items(self.items, self.config.seed, step, settings.batch_size)
        rng = step_rng(self.config.seed, "contrastive", step)
        variants = rng.integers(0, settings.variants, len(indices))
        prompts = [
            training_prompt(
                self.train.records[index].condition, self.template, rng, 0.0, settings.part_dropout, settings.negatives
            )
            for index in indices
        ]
        features = np.stack([self.features[i, variant] for i, variant in zip(indices, variants, strict=True)])
        own, said = share(features, rank, processes), share(prompts, rank, processes)
        tokens = tokens_of(self.tokenizer, said).to(device)
        return contrastive_loss(*module(torch.from_numpy(own.astype(np.float32)).to(device), tokens), said)

    @torch.no_grad()
    def validate(self, module: torch.nn.Module, device: torch.device) -> dict[str, float]:
        """On held-out images with their whole prompts: loss among 64 at a time, recall among all, beside chance."""
        images, texts = (part.float().cpu() for part in self._vectors(module, device))
        scale, said = module.logit_scale.exp().float().cpu(), self.checked_prompts
        batches = [slice(start, start + 64) for start in range(0, max(1, len(said) - 63), 64)]
        told = [contrastive_loss(images[b], texts[b], scale, said[b]).item() for b in batches]
        result = {"loss": float(np.mean(told)), "scale": scale.item(), "images": float(len(said))}
        for found in retrieval(Pairs(images.numpy(), texts.numpy(), said), (RECALL_AT,)):
            name = found.score.name.replace(" ", "_").replace(",", "")
            result |= {name: found.score.value, f"{name}_chance": found.chance}
        return result

    def sheet(self, module: torch.nn.Module, device: torch.device) -> None:
        """Nothing to look at."""

    def _vectors(self, module: ImageText, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
        texts = [
            module.prompts(tokens_of(self.tokenizer, self.checked_prompts[start : start + 64]).to(device))
            for start in range(0, len(self.checked_prompts), 64)
        ]
        return module.images(self.checked_features.to(device)), torch.cat(texts)

    def finish(self, device: torch.device) -> ImageText:
        """The trained model; call with the EMA weights in place."""
        return self.module


def contrastive_loss(
    images_bd: torch.Tensor, texts_bd: torch.Tensor, scale: torch.Tensor, prompts: list[str]
) -> torch.Tensor:
    """Symmetric cross-entropy of finding an image's prompt, and a prompt's image, in the batch (InfoNCE; CLIP, fig. 3).

    Two images with the same prompt aren't each other's negatives. Those words are as true of the one as of the other,
    so there is nothing to tell apart: as negatives they'd push an image away from what is true of it, and most of all
    the commonest prompts, those of healthy people.

    Args:
        images_bd, texts_bd: vectors of length 1.
        prompts: b, in the words of this step.
    """
    _, codes = np.unique(prompts, return_inverse=True)
    codes = torch.from_numpy(codes).to(images_bd.device)
    same = (codes[:, None] == codes[None]).fill_diagonal_(False)
    logits = (scale * images_bd @ texts_bd.T).float().masked_fill(same, -torch.inf)
    own = torch.arange(len(prompts), device=logits.device)
    return (cross_entropy(logits, own) + cross_entropy(logits.T, own)) / 2


@torch.no_grad()
def _write_features(
    path: Path, corpus: Corpus, variants: int, seed: int, reader: torch.nn.Module, device: torch.device
) -> None:
    """float16 (n, variants, d): the classifier's features of each image as it is, then of augmented copies."""
    parts = []
    for start in tqdm(range(0, len(corpus.records), 64), "features"):
        images = shrunk(to_images(corpus.pixels[start : start + 64]), reader.config.image_size)
        copies = [images]
        for variant in range(1, variants):
            draws = step_rng(seed, f"augment features/{variant}", start).random((len(images), 5), dtype=np.float32)
            copies.append(augmented(images, torch.from_numpy(draws)))
        parts.append(torch.stack([pooled(reader, copy.to(device)).half().cpu() for copy in copies], dim=1).numpy())
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        np.save(file, np.concatenate(parts), allow_pickle=False)
