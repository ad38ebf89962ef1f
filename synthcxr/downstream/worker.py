"""The worker: trains one classifier a cell. Its predictions are a function of config, images and cell alone."""

import os
import socket
import time
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import numpy as np
import torch
from torch.nn.functional import binary_cross_entropy_with_logits

from synthcxr.downstream.bench import Bench, Pool, open_bench, synthetic_count
from synthcxr.downstream.cell import Cell, Predictions, Told, arm_of
from synthcxr.downstream.config import DownstreamConfig, Training
from synthcxr.downstream.labels import is_finding
from synthcxr.downstream.metrics import AUROC, mean_of
from synthcxr.downstream.network import Network, build_network, fingerprint
from synthcxr.downstream.processes import Alone, Processes
from synthcxr.downstream.subsets import nested
from synthcxr.errors import RunError
from synthcxr.images import to_float
from synthcxr.runs import derive_seed
from synthcxr.train.augment import augmented
from synthcxr.train.batches import batch_items, share, step_rng

PREDICTED_AT_ONCE = 128


@dataclass(frozen=True)
class CellJob:
    """A cell, its number in the order of cells, and the folder its file belongs into."""

    number: int
    cell: Cell
    folder: Path


@dataclass(frozen=True)
class CellDone:
    """A cell whose file is there: seconds it took, host:pid of the worker."""

    number: int
    seconds: float
    worker: str


class Worker:
    """Holds the images and trains one cell after the other.

    Args:
        config: of the experiment.
        device: such as "cpu" or "cuda:0"; where several processes train together, they say which.
    """

    def __init__(self, config: DownstreamConfig, device: str, processes: Processes | None = None) -> None:
        self.config, self.bench = config, open_bench(config)
        self.processes = processes or Alone(torch.device(device))

    def __call__(self, job: CellJob) -> CellDone:
        """Train, choose by the validation patients, ask about the test patients once, write."""
        began, before = time.perf_counter(), torch.get_num_threads()
        torch.set_num_threads(self.config.threads)
        try:
            predictions = _Training(self.config, self.bench, job.cell, self.processes).run()
        finally:
            torch.set_num_threads(before)
        if self.processes.main:
            predictions.save(job.folder)
        return CellDone(job.number, time.perf_counter() - began, f"{socket.gethostname()}:{os.getpid()}")


class _Training:
    """The training of one cell."""

    def __init__(self, config: DownstreamConfig, bench: Bench, cell: Cell, processes: Processes) -> None:
        self.config, self.settings, self.bench, self.cell = config, config.training, bench, cell
        self.arm, self.processes = arm_of(config, cell), processes
        self.seed = derive_seed(config.seed, f"seed/{cell.seed}")
        none = np.empty(0, dtype=np.int64)
        self.real = nested(bench.train.patients, cell.fraction, self.seed) if self.arm.real else none
        self.made, self.synthetic = None, none
        if self.arm.synthetic:
            self.made = bench.synthetic[config.set_of(self.arm)]
            count = synthetic_count(config, bench.train, cell.multiple)
            rng = np.random.default_rng(derive_seed(config.seed, "synthetic"))
            self.synthetic = rng.permutation(len(self.made))[:count]  # a smaller multiple's are among a larger one's
        self.seen, self.drawn = {"real": 0, "synthetic": 0}, sha256()

    def run(self) -> Predictions:
        """Train all steps; predict with the weights of the step that was best on validation patients."""
        network = build_network(self.config, self.bench.labels, self.seed)
        initial, parameters = fingerprint(network), sum(p.numel() for p in network.parameters())
        network.to(self.processes.device)
        optimizer = torch.optim.AdamW(
            network.parameters(), self.settings.learning_rate, weight_decay=self.settings.weight_decay
        )
        module, optimizer = self.processes.prepare(network, optimizer)
        steps, checks, best, kept = 0, {}, -np.inf, {}
        ask_at = checked_steps(self.settings)
        validate = None
        for step in range(self.settings.steps):
            self._optimise(module, optimizer, step)
            steps += 1
            if steps in ask_at:
                told = self._predict(network, self.bench.validate)
                checks[steps] = self._macro(told)
                if checks[steps] > best:
                    best, validate, selected = checks[steps], told, steps
                    kept = {name: value.detach().clone() for name, value in network.state_dict().items()}
        network.load_state_dict(kept)
        test = self._predict(network, self.bench.test)  # here, and nowhere else
        told = Told(
            cell=self.cell, data=self.bench.hash, labels=self.bench.labels, initial_weights=initial,
            augmentation=self.drawn.hexdigest(), parameters=parameters, steps=steps,
            batch_size=self.settings.batch_size, selected_step=selected, checks=checks,
            patients=len(set(self.bench.train.patients[self.real])), images=len(self.real),
            synthetic=len(self.synthetic), seen_real=self.seen["real"], seen_synthetic=self.seen["synthetic"],
        )  # fmt: skip
        return Predictions(told, validate, test)

    def _optimise(self, module: torch.nn.Module, optimizer: torch.optim.Optimizer, step: int) -> None:
        module.train()
        for group in optimizer.param_groups:
            group["lr"] = _learning_rate(self.settings, step)
        images, labels = self._batch(step)
        draws = step_rng(self.seed, "augment", step).random((len(images), 5), dtype=np.float32)
        self.drawn.update(draws.tobytes())
        own = [share(part, self.processes.rank, self.processes.count) for part in (images, labels, draws)]
        images = _images(own[0])
        labels, draws = (torch.from_numpy(np.ascontiguousarray(part)) for part in own[1:])
        shown = augmented(images, draws).to(self.processes.device)
        loss = label_loss(module(shown), labels.to(self.processes.device))
        if not torch.isfinite(loss):
            raise RunError(f"{self.cell.name}: the loss of step {step + 1} isn't finite; lower training.learning_rate")
        self.processes.backward(loss)
        torch.nn.utils.clip_grad_norm_(module.parameters(), self.settings.clip)
        optimizer.step()
        optimizer.zero_grad()

    def _batch(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        """uint8 (batch, size, size) and labels (batch, labels) of one step: real ones first, then synthetic ones."""
        counts, pixels, labels = counts_of(self.config, self.arm.kind, step), [], []
        for kind, count, pool, items in (
            ("real", counts[0], self.bench.train, self.real), ("synthetic", counts[1], self.made, self.synthetic),
        ):  # fmt: skip
            if count:
                rows = batch_items(items, derive_seed(self.seed, kind), step, count)
                pixels.append(pool.pixels[rows])
                labels.append(pool.labels[rows])
                self.seen[kind] += count
        return np.concatenate(pixels), np.concatenate(labels)

    @torch.no_grad()
    def _predict(self, network: Network, pool: Pool) -> np.ndarray:
        """float32 (n, labels) probabilities."""
        network.eval()
        told = []
        for start in range(0, len(pool), PREDICTED_AT_ONCE):
            images = _images(pool.pixels[start : start + PREDICTED_AT_ONCE]).to(self.processes.device)
            told.append(torch.sigmoid(network(images)).cpu().numpy())
        return np.concatenate(told).astype(np.float32)

    def _macro(self, told: np.ndarray) -> float:
        """Mean AUROC over findings on validation images."""
        columns = [place for place, label in enumerate(self.bench.labels) if is_finding(label)]
        return mean_of(AUROC, told[:, columns], self.bench.validate.labels[:, columns])


def checked_steps(settings: Training) -> set[int]:
    """Steps after which validation patients are asked: of all arms those by which pretraining has seen real images."""
    first = round(settings.synthetic_share * settings.steps)
    return {first + round((settings.steps - first) * (i + 1) / settings.checks) for i in range(settings.checks)}


def counts_of(config: DownstreamConfig, kind: str, step: int) -> tuple[int, int]:
    """Real and synthetic images of the batch of a step; mixed and pretrain see as many of either in all."""
    batch, part = config.training.batch_size, config.training.synthetic_share
    if kind == "mixed":
        synthetic = min(batch - 1, max(1, round(part * batch)))
    else:
        first = kind == "pretrain" and step < round(part * config.training.steps)
        synthetic = batch if kind == "synthetic" or first else 0
    return batch - synthetic, synthetic


def label_loss(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Cross-entropy summed over what is known and divided by all places, so that parts of a batch average to it."""
    known = ~torch.isnan(labels)
    losses = binary_cross_entropy_with_logits(logits, labels.nan_to_num(), reduction="none")
    return (losses * known).sum() / labels.numel()


def _images(pixels: np.ndarray) -> torch.Tensor:
    """uint8 (b, h, w) to float (b, 1, h, w) in [-1, 1]."""
    return torch.from_numpy(to_float(np.ascontiguousarray(pixels)))[:, None]


def _learning_rate(settings: Training, step: int) -> float:
    rise = min(1.0, (step + 1) / max(1, settings.warmup))
    return settings.learning_rate * rise * 0.5 * (1 + np.cos(np.pi * step / settings.steps))
