"""What is said of each image: a few wordings, known beforehand, so that each distinct prompt is encoded once."""

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from diffusers import DiffusionPipeline

from synthcxr.data.record import Record
from synthcxr.model.bases import PromptEmbeddings, base_of
from synthcxr.model.hashes import module_hash
from synthcxr.model.prompts import embed
from synthcxr.train.batches import step_rng, training_prompt
from synthcxr.train.cache import Rows, cached_rows
from synthcxr.train.config import BaseConfig

CHUNK = 16  # prompts encoded at once


@dataclass(frozen=True)
class Wordings:
    """The distinct prompts of a corpus, the empty one first, and which of them may be said of each image.

    Attributes:
        prompts: m of them.
        rows: (n, wordings) indices of prompts.
        cut: how many of the m are longer than the text encoder reads.
        tokens: of the longest.
        limit: tokens that the text encoder reads, begin and end included.
    """

    prompts: list[str]
    rows: np.ndarray
    cut: int
    tokens: int
    limit: int


def wording(record: Record, settings: BaseConfig, rng: np.random.Generator, parts: bool) -> str:
    """One wording: the template filled from the conditions, or with the report's own conclusion as impression.

    Args:
        parts: whether parts may go unsaid, and findings that aren't there be denied; else all that's known is said.
    """
    condition = record.condition
    if settings.impression == "report" and record.prompt:
        condition = condition.model_copy(update={"findings": {}, "text": record.prompt})
    dropout, negatives = (settings.part_dropout, settings.negatives) if parts else (0.0, 0.0)
    return training_prompt(condition, settings.template, rng, 0.0, dropout, negatives)


def wordings_of(
    records: Sequence[Record], settings: BaseConfig, seed: int, pipeline: DiffusionPipeline, count: int
) -> Wordings:
    """`count` wordings an image; the first says all that is known."""
    places: dict[str, int] = {"": 0}
    rows = np.empty((len(records), count), np.int64)
    for index, record in enumerate(records):
        for number in range(count):
            rng = step_rng(seed, f"wording/{record.id}", number)
            said = wording(record, settings, rng, parts=number > 0)
            rows[index, number] = places.setdefault(said, len(places))
    prompts = list(places)
    base = base_of(pipeline)
    there = [tokenizer for name in base.tokenizers if (tokenizer := getattr(pipeline, name, None)) is not None]
    limit = min(base.tokens, *(tokenizer.model_max_length for tokenizer in there))
    lengths = [list(map(len, one(prompts, truncation=False, verbose=False).input_ids)) for one in there]
    distinct = np.max(lengths, axis=0)
    return Wordings(prompts, rows, int((distinct > limit).sum()), int(distinct.max()), limit)


def cached_embeddings(cache: Path, wordings: Wordings, pipeline: DiffusionPipeline, accelerator: Accelerator) -> Rows:
    """Row i is prompt i: the fields of PromptEmbeddings, float16 (the mask bool)."""
    encoders = base_of(pipeline).text_encoders_of(pipeline)
    digest = sha256("\0".join([*map(module_hash, encoders.values()), *wordings.prompts]).encode()).hexdigest()

    def make(rows: range) -> dict[str, np.ndarray]:
        told: list[PromptEmbeddings] = []
        for start in range(rows.start, rows.stop, CHUNK):
            told.append(embed(pipeline, wordings.prompts[start : min(start + CHUNK, rows.stop)]))
        names = told[0].fields()
        arrays = {name: torch.cat([one.fields()[name] for one in told]).cpu() for name in names}
        return {name: (array.bool() if name == "mask" else array.half()).numpy() for name, array in arrays.items()}

    return cached_rows(cache / f"prompts-{digest[:16]}", len(wordings.prompts), make, accelerator, "prompts")


def embeddings(rows: Rows, indices: Sequence[int]) -> PromptEmbeddings:
    """Cached embeddings of these prompts, in float32."""
    fields = {name: torch.from_numpy(array) for name, array in rows.fetch(indices).items()}
    return PromptEmbeddings(
        **{name: value.to(torch.long if name == "mask" else torch.float32) for name, value in fields.items()}
    )
