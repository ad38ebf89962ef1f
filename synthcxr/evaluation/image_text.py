"""Do pictures fit the words they were asked for with? Vectors of both, by an image-text model, and what they say."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from synthcxr.conditions import Condition, to_prompt
from synthcxr.data.curate.decide import Extractor
from synthcxr.errors import ModelError, shown
from synthcxr.evaluation.features import open_extractor, pooled_output
from synthcxr.evaluation.resampling import bootstrap_score, cluster_weights, weighted_auc, weighted_mean
from synthcxr.evaluation.scores import Score
from synthcxr.model.classifier import FINDINGS, LABELS, targets
from synthcxr.model.contrastive import load_contrastive
from synthcxr.model.folder import UNLOADABLE, resolve

LEAST = 10  # images on either side of a question
BATCH = 64
RECALLS = (1, 5, 10)


@dataclass(frozen=True)
class ImageText:
    """An image-text model as an evaluation uses it.

    Attributes:
        name: with a hash of its weights.
        extractor: of rows that `images` takes; None: it takes the features of the model's classifier, which judges.
        images: from rows to (n, d) vectors of length 1.
        prompt: what it's told of a condition.
        embed: (n, d) vectors of length 1 of prompts.
    """

    name: str
    extractor: Extractor | None
    images: Callable[[np.ndarray], np.ndarray]
    prompt: Callable[[Condition], str]
    embed: Callable[[Sequence[str]], np.ndarray]


@dataclass(frozen=True, eq=False)
class Pairs:
    """Images and what is said of them: vectors (n, d) of length 1, row by row, and the n prompts."""

    images: np.ndarray
    texts: np.ndarray
    prompts: Sequence[str]


@dataclass(frozen=True)
class Recall:
    """Recall at k, and what guessing gives."""

    score: Score
    chance: float


def open_image_text(source: str | None, model: str | None) -> ImageText:
    """An image-text model.

    Args:
        source: folder or pinned hub id ("owner/name@revision") of transformers' CLIPModel; None: the model's own.
        model: MODEL folder or hub id; None: the embedded one.
    Raises:
        ModelError: no such model, or one that can't be loaded.
    """
    if source is None:
        own = load_contrastive(model)
        return ImageText(f"image-text {own.hash}", None, own.images, own.prompt, own.embed)
    extractor = open_extractor(source)
    return ImageText(extractor.name, extractor, _unit, to_prompt, _clip_texts(source))


def similarity(pairs: Pairs, units: np.ndarray, seed: int = 0) -> list[Score]:
    """How well n images fit their own prompts, beside how well they fit those of other images.

    Scores, by bootstrap over units: "image-text similarity", the mean cosine with the own prompt; "image-text
    similarity, prompts shuffled", the same with the prompts of other images, averaged over all shuffles: the floor;
    "own prompt before another's", the chance that of both the own is nearer, ties counting half: 0.5 where pictures
    ignore their prompts, whatever these are like. Prompts equal to the own are no others. The last two are left out
    where all prompts are equal.

    Args:
        units: (n,) the patient or the prompt of each image, by which intervals are drawn.
    """
    weights = cluster_weights(units, seed=seed)
    texts, codes = _distinct(pairs)
    cosines = pairs.images @ texts.T
    own = cosines[np.arange(len(codes)), codes]
    counts = np.bincount(codes, minlength=len(texts)).astype(np.float64)
    others = len(codes) - counts[codes]
    values = [("image-text similarity", own, "higher")]
    if len(texts) > 1:
        shuffled = (cosines @ counts - counts[codes] * own) / others
        # Its own prompt ties with itself: taken out.
        nearer = ((cosines < own[:, None]) + 0.5 * (cosines == own[:, None])) @ counts - 0.5 * counts[codes]
        values += [
            ("image-text similarity, prompts shuffled", shuffled, "lower"),
            ("own prompt before another's", nearer / others, "higher"),
        ]
    return [
        bootstrap_score(name, each.mean(), weighted_mean(each, weights), len(each), direction)
        for name, each, direction in values
    ]


def retrieval(
    pairs: Pairs, at: Sequence[int] = RECALLS, units: np.ndarray | None = None, seed: int = 0
) -> list[Recall]:
    """Recall at k both ways: the own prompt of an image among the k nearest of all that differ; an image of a prompt
    among the k nearest to it.

    Several images may share a prompt: any of them is right then, and chance is higher by as much.

    Args:
        units: (n,) by which intervals of images are drawn; None: each is its own. Those of prompts: by prompts.
    """
    texts, codes = _distinct(pairs)
    n, cosines = len(codes), pairs.images @ texts.T
    own = cosines[np.arange(n), codes]
    # Ties count against: a model that gives one vector to all finds nothing.
    to_text = (cosines >= own[:, None]).sum(axis=1)
    counts = np.bincount(codes, minlength=len(texts))
    best = np.array([cosines[codes == code, code].max() for code in range(len(texts))])
    others = np.array([(cosines[codes != code, code] >= best[code]).sum() for code in range(len(texts))])
    found = []
    for way, rank, drawn in (
        ("image to text", to_text, np.arange(n) if units is None else units),
        ("text to image", others + 1, np.arange(len(texts))),
    ):
        weights = cluster_weights(drawn, seed=seed)
        for k in at:
            hits = (rank <= k).astype(np.float64)
            draws = weighted_mean(hits, weights)
            score = bootstrap_score(f"recall@{k}, {way}", hits.mean(), draws, len(hits), "higher")
            chance = min(1.0, k / len(texts)) if way == "image to text" else float(_some_of(counts, n, k).mean())
            found.append(Recall(score, chance))
    return found


def zero_shot(
    model: ImageText, images: np.ndarray, conditions: Sequence[Condition], units: np.ndarray, seed: int = 0
) -> list[Score]:
    """AUROC of sex, view and each finding by which of two prompts an image is nearer to: "Male." or "Female.", say.

    Args:
        images: (n, d), of `model.images`.
        units: (n,) by which intervals are drawn.
    """
    known, weights, scores = targets(conditions), cluster_weights(units, seed=seed), []
    for name, (no, yes) in _questions().items():
        labels = known[:, LABELS.index(name)]
        asked = np.isfinite(labels)
        there = labels[asked] == 1
        if min(there.sum(), (~there).sum()) < LEAST:
            continue
        against, for_it = model.embed([model.prompt(no), model.prompt(yes)])
        told = images[asked] @ (for_it - against)
        value = weighted_auc(told, there, np.ones((1, len(told))))[0]
        draws = weighted_auc(told, there, weights[:, asked])
        scores.append(bootstrap_score(f"AUROC, {name}", value, draws, int(there.sum()), "higher"))
    return scores


def _questions() -> dict[str, tuple[Condition, Condition]]:
    """By label: what is said where it isn't there, and where it is."""
    told = {
        finding.value: (Condition(findings={finding: "absent"}), Condition(findings={finding: "present"}))
        for finding in FINDINGS
    }
    told["male"] = (Condition(sex="female"), Condition(sex="male"))
    told["AP"] = (Condition(view="PA"), Condition(view="AP"))
    return told


def _distinct(pairs: Pairs) -> tuple[np.ndarray, np.ndarray]:
    """Vectors of prompts that differ, and which of them each image has."""
    _, first, codes = np.unique(pairs.prompts, return_index=True, return_inverse=True)
    return pairs.texts[first], codes


def _some_of(counts: np.ndarray, n: int, k: int) -> np.ndarray:
    """Chance that k of n images, drawn at random, hold one of so many."""
    missed = np.ones(len(counts))
    for drawn in range(min(k, n)):
        missed *= np.clip((n - counts - drawn) / (n - drawn), 0, None)
    return 1 - missed


def _unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def _clip_texts(source: str) -> Callable[[Sequence[str]], np.ndarray]:
    """The text side of a CLIPModel of transformers; prompts beyond its length are cut."""
    from transformers import AutoTokenizer, CLIPModel

    folder = resolve(source)
    _check_clip(folder)
    try:
        network = CLIPModel.from_pretrained(
            folder, dtype=torch.float32, use_safetensors=True, local_files_only=True
        ).eval()
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except UNLOADABLE as error:
        reason = " ".join(str(error).split())[:200]
        raise ModelError(f"{shown(folder)} can't be loaded as an image-text model ({reason}); give another") from error
    length = network.config.text_config.max_position_embeddings

    @torch.inference_mode()
    def embed(prompts: Sequence[str]) -> np.ndarray:
        parts = []
        for start in range(0, len(prompts), BATCH):
            part = list(prompts[start : start + BATCH])
            tokens = tokenizer(part, padding=True, truncation=True, max_length=length, return_tensors="pt")
            told = network.get_text_features(input_ids=tokens.input_ids, attention_mask=tokens.attention_mask)
            parts.append(pooled_output(told).numpy())
        return _unit(np.concatenate(parts))

    return embed


def _check_clip(folder: Path) -> None:
    file = folder / "config.json"
    try:
        kind = json.loads(file.read_text(encoding="utf-8")).get("model_type")
    except (OSError, ValueError, AttributeError) as error:
        raise ModelError(f"{shown(file)} can't be read; give a folder with a CLIPModel of transformers") from error
    if kind != "clip":
        raise ModelError(f"{shown(folder)} is a {kind!r}; give a CLIPModel of transformers (model_type clip)")
