"""The worker: one model, one shard at a time. What a shard holds depends on the config and its number alone."""

import json
import os
import socket
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import numpy as np
import torch

from synthcxr.conditions import Condition, to_prompt
from synthcxr.data.shard import ShardWriter
from synthcxr.errors import ConfigError, ImageError, ModelError
from synthcxr.generate import Generator, Request
from synthcxr.model.bases import base_of
from synthcxr.model.folder import load_model
from synthcxr.model.prompts import understood
from synthcxr.synthesis.config import SynthesizeConfig
from synthcxr.synthesis.plan.rows import Row, Rows, open_plan
from synthcxr.synthesis.screen import Screen, ScreenConfig, Verdict

Opener = Callable[[ScreenConfig, str | None], Screen]
SOURCE = "synthcxr"
AHEAD = 2  # batches that may wait to be screened and written while the next one is drawn


@dataclass(frozen=True)
class ShardJob:
    """One shard: its number, its groups of rows, and the writer of its files, not yet begun."""

    number: int
    groups: Sequence[int]
    writer: ShardWriter


@dataclass(frozen=True)
class ShardDone:
    """A shard that is written: rows kept and given up, pictures drawn for them, seconds, words the model never saw,
    host:pid of the worker."""

    number: int
    images: int
    given_up: int
    drawn: int
    seconds: float
    unseen: tuple[str, ...]
    worker: str


@dataclass
class _Asked:
    """A row as the model is told of it, and its attempts that came to nothing."""

    row: Row
    told: Condition
    prompt: str
    attempts: list[dict[str, Any]] = field(default_factory=list)

    def note(self, given_up: bool) -> dict[str, Any]:
        condition = self.told.model_dump(mode="json", exclude_none=True)
        told = {"id": self.row.id, "prompt": self.prompt, "condition": condition}
        return {**told, "given_up": given_up, "attempts": self.attempts}


Group = tuple[int, list[_Asked]]
Drawn = tuple[_Asked, np.ndarray | None, Verdict, int]  # the last is its seed


class Worker:
    """Holds a model and draws shards with it.

    Args:
        config: with all its hashes (see run.pinned_config).
        device: such as "cpu" or "cuda:0".
        opener: of the screen, called once.
    Raises:
        ModelError: the model isn't the one that the config's hash names.
        ConfigError: the plan contrasts what the model has no words for.
    """

    def __init__(self, config: SynthesizeConfig, device: str, opener: Opener) -> None:
        self.config, self.model = config, load_model(config.model, device)
        if self.model.hash != config.model_hash:
            raise ModelError("the model isn't the one whose hash is model_hash; give that one")
        pipeline = self.model.pipeline
        for part in (base_of(pipeline).denoiser_of(pipeline), pipeline.vae):
            part.to(memory_format=torch.channels_last)
        self.generator = Generator(self.model, config.settings, config.batch_size)
        self.rows = Rows(open_plan(config.plan, config.seed, check=False), config.row_name, config.seed)
        self.screen = opener(config.screen, config.model) if config.screen else None
        self._sampler = json.dumps({**self.generator.settings.model_dump(mode="json"), "precision": config.precision})
        self._device = torch.device(device).type
        told = [self._told(condition)[1] for condition in self.rows.plan.contrasts]
        if len(set(told)) < len(told):
            raise ConfigError(
                f"plan: the model has no words for what is contrasted (it would be told {told[0]!r} of more than one);"
                " give another attribute or model"
            )

    def __call__(self, job: ShardJob) -> ShardDone:
        """Draw, screen and write one shard. A thread screens, encodes and writes while the next batch is drawn."""
        began, unseen, drawn = time.perf_counter(), Counter[str](), 0
        mine = self.config.threads
        with (
            threads(mine),
            job.writer as shard,
            ThreadPoolExecutor(1, initializer=torch.set_num_threads, initargs=(mine,)) as pool,
        ):
            left = [(group, self._asked(group, unseen)) for group in job.groups]
            for attempt in range(self.config.retries + 1):
                drawn += sum(len(group) for _, group in left)
                left = self._attempt(left, attempt, shard, pool)
            given_up = [asked for _, group in left for asked in group]
            for asked in given_up:
                shard.note(asked.note(given_up=True))
            if unseen:
                shard.note({"unseen": dict(sorted(unseen.items()))})
        seconds, who = time.perf_counter() - began, f"{socket.gethostname()}:{os.getpid()}"
        return ShardDone(job.number, len(shard), len(given_up), drawn, seconds, tuple(sorted(unseen)), who)

    def _attempt(self, groups: list[Group], attempt: int, shard: ShardWriter, pool: ThreadPoolExecutor) -> list[Group]:
        """Draw all groups once, in fixed batches; those that pass are written, those that don't given back."""
        size = max(1, self.config.batch_size // self.rows.plan.group)
        waiting: deque[Future[list[Group]]] = deque()
        rejected: list[Group] = []
        for start in range(0, len(groups), size):
            batch = groups[start : start + size]
            seeds = [self.rows.seed_of(number, attempt) for number, group in batch for _ in group]
            told = [one.told for _, group in batch for one in group]
            pixels = self._drawn([Request(condition=c, seed=seed) for c, seed in zip(told, seeds, strict=True)])
            waiting.append(pool.submit(self._finished, shard, batch, attempt, seeds, pixels))
            while len(waiting) > AHEAD:
                rejected += waiting.popleft().result()
        return rejected + [group for future in waiting for group in future.result()]

    def _finished(
        self, shard: ShardWriter, batch: list[Group], attempt: int, seeds: list[int], pixels: list[np.ndarray | None]
    ) -> list[Group]:
        """Screen a batch and write the groups of which every member passes; the others are returned."""
        asked = [one for _, group in batch for one in group]
        drawn = iter(zip(asked, pixels, self._screened(pixels, [one.told for one in asked]), seeds, strict=True))
        rejected = []
        for number, group in batch:
            members: list[Drawn] = list(islice(drawn, len(group)))
            if all(verdict.failed is None for _, _, verdict, _ in members):
                self._write(shard, members, attempt)
                continue
            rejected.append((number, group))
            for one, _, verdict, seed in members:
                one.attempts.append({"seed": seed, "failed": verdict.failed, "values": verdict.values})
        return rejected

    def _drawn(self, requests: list[Request]) -> list[np.ndarray | None]:
        """Pixels; None for a picture that isn't finite, which must not take its batch with it."""
        bfloat16 = self.config.precision == "bfloat16"
        with torch.autocast(self._device, torch.bfloat16) if bfloat16 else nullcontext():
            try:
                return [one.pixels for one in self.generator(requests, progress=False)]
            except ImageError:
                return [None] if len(requests) == 1 else [self._drawn([request])[0] for request in requests]

    def _screened(self, pixels: Sequence[np.ndarray | None], told: Sequence[Condition]) -> list[Verdict]:
        whole = [place for place, picture in enumerate(pixels) if picture is not None]
        verdicts = [Verdict(failed="broken")] * len(pixels)
        judged = [Verdict()] * len(whole)
        if self.screen and whole:
            judged = self.screen([pixels[place] for place in whole], [told[place] for place in whole])
        for place, verdict in zip(whole, judged, strict=True):
            verdicts[place] = verdict
        return verdicts

    def _asked(self, group: int, unseen: Counter[str]) -> list[_Asked]:
        """The rows of a group; labels hold what the model was told, never a word that it doesn't know."""
        asked = []
        for row in self.rows.of_group(group):
            told, prompt, missing = self._told(row.condition)
            unseen.update(missing)
            asked.append(_Asked(row, told, prompt))
        return asked

    def _told(self, condition: Condition) -> tuple[Condition, str, list[str]]:
        info = self.model.info
        told, missing = understood(condition, info.template, info.words)
        return told, to_prompt(told, info.template), missing

    def _write(self, shard: ShardWriter, passed: list[Drawn], attempt: int) -> None:
        for asked, pixels, verdict, seed in passed:
            if asked.attempts:
                shard.note(asked.note(given_up=False))
            screen = json.dumps({"attempt": attempt, "values": verdict.values}) if self.screen else None
            shard.add(
                pixels, id=asked.row.id, patient=asked.row.patient, study=asked.row.id, split=self.config.split,
                source=SOURCE, licence=self.config.licence, condition=asked.told, prompt=asked.prompt, seed=seed,
                model=self.model.hash, sampler=self._sampler, screen=screen,
            )  # fmt: skip


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Torch's threads, as they were afterwards."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
