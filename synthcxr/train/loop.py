"""The loop every stage goes through: step, log, validate, save; resumable at any step to the last bit."""

import logging
import math
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Protocol

import numpy as np
import torch
from accelerate import Accelerator, DistributedType
from diffusers.training_utils import EMAModel
from torch import nn
from tqdm import tqdm

from synthcxr.errors import RunError
from synthcxr.images import write_png
from synthcxr.runs import Run, StopFlag
from synthcxr.train.checkpoint import latest_checkpoint, save_checkpoint
from synthcxr.train.config import StageConfig
from synthcxr.train.optimizer import build_optimizer

log = logging.getLogger(__name__)


class Stage(Protocol):
    """What is trained: a module, its loss at a step, and what to look at meanwhile."""

    name: str
    module: nn.Module
    settings: StageConfig

    def sample_ids(self, step: int) -> list[str]: ...
    def loss(self, module: nn.Module, step: int, rank: int, processes: int, device: torch.device) -> torch.Tensor: ...
    def validate(self, module: nn.Module, device: torch.device) -> dict[str, float]: ...
    def sheet(self, module: nn.Module, device: torch.device) -> np.ndarray | None: ...


class Interrupted(Exception):
    """A signal asked for the end; everything up to the last step is saved."""


def last_level_step(settings: StageConfig) -> int:
    """How many steps go by before the learning rate falls: up to here, the number of steps decides nothing."""
    return math.ceil(settings.steps - settings.decay * settings.steps)


def learning_rate(settings: StageConfig, step: int) -> float:
    """Linear rise, level, linear or cosine fall to zero over the last `decay` share of the steps."""
    rise = min(1.0, (step + 1) / max(1, settings.warmup))
    fall = min(1.0, (settings.steps - step) / max(1.0, settings.decay * settings.steps))
    if settings.fall == "cosine":
        fall = 0.5 - 0.5 * math.cos(math.pi * fall)
    return settings.learning_rate * min(rise, fall)


class Trainer:
    """The changing state of one stage: weights, their average, the optimizer, the step."""

    def __init__(self, stage: Stage, accelerator: Accelerator, run: Run):
        self.stage, self.settings, self.accelerator, self.run = stage, stage.settings, accelerator, run
        if self.settings.batch_size % (accelerator.num_processes * self.settings.accumulate):
            raise RunError(
                f"{stage.name}.batch_size = {self.settings.batch_size} must be a multiple of the "
                f"{accelerator.num_processes} processes x {self.settings.accumulate} parts"
            )
        if accelerator.distributed_type not in (
            DistributedType.NO,
            DistributedType.MULTI_CPU,
            DistributedType.MULTI_GPU,
        ):
            raise RunError(
                f"processes that share a model ({accelerator.distributed_type.value}) aren't supported: each must hold "
                "it whole; launch with scripts/accelerate/ddp.yaml"
            )
        self.folder = run.folder / stage.name
        stage.module.to(accelerator.device)
        self.trained = [parameter for parameter in stage.module.parameters() if parameter.requires_grad]
        optimizer = build_optimizer(self.trained, self.settings)
        self.module, self.optimizer = accelerator.prepare(stage.module, optimizer)
        self.ema = EMAModel(
            self.trained,
            decay=self.settings.ema,
            use_ema_warmup=True,
            power=0.75,
            foreach=accelerator.device.type == "cuda",  # a few kernels instead of one a weight
        )  # warm-up: the average forgets the random start
        self.ema.to(accelerator.device)
        self.step = 0
        self._resume()

    def fit(self) -> None:
        """Train to the last step; leaves the averaged weights in the module.

        Raises:
            Interrupted: a signal came; the state is saved.
            RunError: the loss isn't finite (the step and its images are named).
        """
        settings, main = self.settings, self.accelerator.is_main_process
        bar = tqdm(total=settings.steps, initial=self.step, desc=self.stage.name, disable=not main)
        with StopFlag() as stop, bar:
            self._fit(stop, bar)
        self.ema.copy_to(self.trained)

    def _fit(self, stop: StopFlag, bar: tqdm) -> None:
        settings = self.settings
        while self.step < settings.steps:
            loss, norm = self._optimize()
            self.step += 1
            bar.update()
            if self.step % settings.log_every == 0:
                self._report("step", loss=loss, norm=norm, learning_rate=learning_rate(settings, self.step - 1))
                bar.set_postfix(loss=f"{loss:.4f}")
            last, stopping = self.step == settings.steps, self._agree(stop.requested)
            if last or self.step % settings.validate_every == 0:
                self._look()
            if last or stopping or self.step % settings.checkpoint_every == 0:
                self._save()
            if stopping and not last:
                raise Interrupted(f"{self.stage.name} saved at step {self.step}; the same command goes on from there")

    def _optimize(self) -> tuple[float, float]:
        """One optimizer step; the loss over all processes, and the norm of the gradient before clipping."""
        accelerator = self.accelerator
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.settings, self.step)
        parts, total = self.settings.accumulate, torch.zeros((), device=accelerator.device)
        for part in range(parts):  # each is to the stage what one of more processes would be
            place = accelerator.process_index * parts + part
            with nullcontext() if part == parts - 1 else accelerator.no_sync(self.module):
                loss = self.stage.loss(
                    self.module, self.step, place, accelerator.num_processes * parts, accelerator.device
                )
                total += loss.detach() / parts
                if part == parts - 1:  # before it gets into the gradients of all
                    mean = accelerator.reduce(total, "mean").item()
                    self._check_finite("loss", mean)
                accelerator.backward(loss / parts)
        norm = accelerator.clip_grad_norm_(self.trained, self.settings.clip)
        self._check_finite("gradient", float(norm))  # before it gets into the weights, and they into a checkpoint
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.ema.step(self.trained)
        return mean, float(norm)

    def _check_finite(self, what: str, value: float) -> None:
        if not np.isfinite(value):
            name, ids = self.stage.name, ", ".join(self.stage.sample_ids(self.step))
            raise RunError(
                f"{name}: the {what} of step {self.step + 1} isn't finite; its images: {ids}; look at them, or lower "
                f"{name}.learning_rate"
            )

    def _agree(self, requested: bool) -> bool:
        """Whether any process was asked to stop: all must leave at the same step."""
        if self.accelerator.num_processes == 1:
            return requested
        return bool(self.accelerator.reduce(torch.tensor(float(requested), device=self.accelerator.device)).item())

    @contextmanager
    def averaged(self) -> Iterator[nn.Module]:
        """The module with its averaged weights, in evaluation mode."""
        module = self.stage.module
        self.ema.store(self.trained)
        self.ema.copy_to(self.trained)
        module.eval()
        try:
            yield module
        finally:
            module.train()
            self.ema.restore(self.trained)

    def _look(self) -> None:
        """Validate and draw on the main process; the others wait."""
        if self.accelerator.is_main_process:
            with self.averaged() as module:
                self._report("validate", **self.stage.validate(module, self.accelerator.device))
                sheet = self.stage.sheet(module, self.accelerator.device)
                if sheet is not None:
                    write_png(self.folder / "sheets" / f"step-{self.step:08d}.png", sheet)
        self.accelerator.wait_for_everyone()

    def _report(self, event: str, **values: float) -> None:
        if self.accelerator.is_main_process:
            self.run.log(f"{self.stage.name}/{event}", step=self.step, **values)
            self.accelerator.log({f"{self.stage.name}/{event}/{k}": v for k, v in values.items()}, step=self.step)

    def _save(self) -> None:
        if self.accelerator.is_main_process:
            save_checkpoint(self.folder / "checkpoints", self.step, self.state())
        self.accelerator.wait_for_everyone()

    def state(self) -> dict[str, torch.Tensor]:
        """Everything the next step depends on, by name."""
        tensors = {f"model/{name}": value for name, value in self.stage.module.state_dict().items()}
        tensors |= {f"ema/{i:05d}": value for i, value in enumerate(self.ema.shadow_params)}
        tensors["ema/steps"] = torch.tensor(self.ema.optimization_step)
        for i, moments in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer/{i:05d}/{name}": torch.as_tensor(value) for name, value in moments.items()}
        tensors["rng"] = torch.get_rng_state()
        tensors["steps"] = torch.tensor(self.settings.steps)
        return tensors

    def _resume(self) -> None:
        """Take up the newest whole checkpoint, if there is one."""
        checkpoint = latest_checkpoint(self.folder / "checkpoints")
        if checkpoint is None:
            return
        tensors = checkpoint.tensors
        self._check_steps(checkpoint.step, int(tensors["steps"]))
        self.stage.module.load_state_dict(
            {k.removeprefix("model/"): v for k, v in tensors.items() if k[:6] == "model/"}
        )
        for i, shadow in enumerate(self.ema.shadow_params):
            shadow.copy_(tensors[f"ema/{i:05d}"])
        self.ema.optimization_step = int(tensors["ema/steps"])
        state = self.optimizer.state_dict()
        moments: dict[int, dict[str, torch.Tensor]] = {}
        for key, value in tensors.items():
            if key.startswith("optimizer/"):
                _, index, name = key.split("/")
                # 8-bit Adam counts its steps in a plain int.
                whole = value.ndim == 0 and value.dtype == torch.int64
                moments.setdefault(int(index), {})[name] = int(value) if whole else value
        self.optimizer.load_state_dict({**state, "state": moments})
        torch.set_rng_state(tensors["rng"])
        self.step = checkpoint.step
        log.info("%s goes on from step %d", self.stage.name, self.step)

    def _check_steps(self, step: int, before: int) -> None:
        """The number of steps may only change where that can't be seen in what was done."""
        settings, name = self.settings, self.stage.name
        limit = min(last_level_step(settings), last_level_step(settings.model_copy(update={"steps": before})))
        if before != settings.steps and step > limit:
            raise RunError(
                f"{name}.steps = {settings.steps} can't take the place of {before} at step {step}: with one of them "
                f"the learning rate falls after step {limit}; set {name}.steps={before}, or start= from its model"
            )
