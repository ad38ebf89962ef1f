"""The loop every stage goes through: step, log, validate, save; resumable at any step to the last bit."""

import logging
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Protocol

import numpy as np
import torch
from accelerate import Accelerator
from diffusers.training_utils import EMAModel
from torch import nn
from torch.nn.modules.module import register_module_forward_pre_hook
from tqdm import tqdm

from synthcxr.errors import RunError
from synthcxr.images import write_png
from synthcxr.runs import Run, StopFlag
from synthcxr.train.checkpoint import Checkpoint, checkpoint_of, latest_checkpoint, save_checkpoint
from synthcxr.train.config import StageConfig
from synthcxr.train.parallel import gathered, local, of_part, of_whole, prepared, reshard, trained

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


class _Signalled(Exception):
    """A signal came while a module was looked at."""


@contextmanager
def _ended_by(stop: StopFlag) -> Iterator[None]:
    """While entered, once a signal came, the next forward pass of any module raises _Signalled."""

    def check(*_: object) -> None:
        if stop.requested:
            raise _Signalled

    handle = register_module_forward_pre_hook(check)
    try:
        yield
    finally:
        handle.remove()


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
    """The changing state of one stage: weights, their average, the optimizer, the step.

    Args:
        divided: each process holds a part of the state (see parallel.py); else each holds it whole.
    """

    def __init__(self, stage: Stage, accelerator: Accelerator, run: Run, divided: bool = False):
        self.stage, self.settings, self.accelerator, self.run = stage, stage.settings, accelerator, run
        self.divided = divided
        self._check()
        self.folder = run.folder / stage.name
        self.module, self.optimizer = prepared(stage.module, self.settings, accelerator, divided)
        self.trained = trained(stage.module)
        self.ema = EMAModel(
            self._parts(),
            decay=self.settings.ema,
            use_ema_warmup=True,
            power=0.75,
            foreach=accelerator.device.type == "cuda",  # a few kernels instead of one a weight
        )  # warm-up: the average forgets the random start
        self.ema.to(accelerator.device)
        self.step = 0
        self._resume()

    def _check(self) -> None:
        """What can't be computed is refused before anything is."""
        name, settings, processes = self.stage.name, self.settings, self.accelerator.num_processes
        if settings.batch_size % (processes * settings.accumulate):
            raise RunError(
                f"{name}.batch_size = {settings.batch_size} must be a multiple of the {processes} processes x "
                f"{settings.accumulate} parts"
            )
        if self.divided and settings.optimizer != "adamw":
            raise RunError(
                f"{name}.optimizer = {settings.optimizer} has no moments that processes can divide (FSDP); give adamw, "
                "or launch with scripts/accelerate/ddp.yaml"
            )

    def _parts(self) -> list[torch.Tensor]:
        """What this process holds of the weights that are trained, sharing their memory."""
        return [local(parameter) for parameter in self.trained]

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
        self.ema.copy_to(self._parts())

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
            if not stopping and (last or self.step % settings.validate_every == 0):
                stopping = self._agree(not self._look(stop))
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
            # Divided gradients are summed part by part: whole ones would take the memory that was to be saved.
            whole = part < parts - 1 and not self.divided
            with accelerator.no_sync(self.module) if whole else nullcontext():
                loss = self.stage.loss(
                    self.module, self.step, place, accelerator.num_processes * parts, accelerator.device
                )
                total += loss.detach() / parts
                if part == parts - 1:  # before it gets into the gradients of all
                    mean = accelerator.reduce(total, "mean").item()
                    self._check_finite("loss", mean)
                accelerator.backward(loss / parts)
        norm = gathered({"norm": accelerator.clip_grad_norm_(self.trained, self.settings.clip)})["norm"].item()
        self._check_finite("gradient", norm)  # before it gets into the weights, and they into a checkpoint
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.ema.step(self._parts())
        return mean, norm

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
        self.ema.store(self._parts())
        self.ema.copy_to(self._parts())
        module.eval()
        try:
            yield module
        finally:
            module.train()
            self.ema.restore(self._parts())
            reshard(module)

    def _look(self, stop: StopFlag) -> bool:
        """Validate and draw on the main process; the others wait, or hold out their parts by doing the same.

        Returns:
            False where a signal came meanwhile: what it gave so far is lost, since a signal's grace is short. Processes
            that hold out their parts can't turn away one by one: they look to the end.
        """
        stage, device, main = self.stage, self.accelerator.device, self.accelerator.is_main_process
        try:
            if main or self.divided:
                with self.averaged() as module, nullcontext() if self.divided else _ended_by(stop):
                    values, sheet = stage.validate(module, device), stage.sheet(module, device)
                self._report("validate", **values)
                if sheet is not None and main:
                    write_png(self.folder / "sheets" / f"step-{self.step:08d}.png", sheet)
        except _Signalled:
            pass
        return not stop.requested

    def _report(self, event: str, **values: float) -> None:
        if self.accelerator.is_main_process:
            self.run.log(f"{self.stage.name}/{event}", step=self.step, **values)
            self.accelerator.log({f"{self.stage.name}/{event}/{k}": v for k, v in values.items()}, step=self.step)

    def _save(self) -> None:
        state = self.state()
        if self.accelerator.is_main_process:
            save_checkpoint(self.folder / "checkpoints", self.step, state)
        self.accelerator.wait_for_everyone()

    def state(self) -> dict[str, torch.Tensor]:
        """Everything the next step depends on, by name, whole whatever the processes hold; all must ask together.

        Those but the main one get nothing.
        """
        tensors = {f"model/{name}": value for name, value in self.stage.module.state_dict().items()}
        averages = zip(self.ema.shadow_params, self.trained, strict=True)
        tensors |= {f"ema/{i:05d}": of_part(average, like) for i, (average, like) in enumerate(averages)}
        tensors["ema/steps"] = torch.tensor(self.ema.optimization_step)
        for i, moments in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer/{i:05d}/{name}": torch.as_tensor(value) for name, value in moments.items()}
        tensors["rng"] = torch.get_rng_state()
        tensors["steps"] = torch.tensor(self.settings.steps)
        return gathered(tensors, keep=self.accelerator.is_main_process)

    def _newest(self) -> Checkpoint | None:
        """The newest whole checkpoint. The main process looks for it: all must go on from the same one."""
        folder, accelerator = self.folder / "checkpoints", self.accelerator
        found = latest_checkpoint(folder) if accelerator.is_main_process else None
        if accelerator.num_processes == 1:
            return found
        step = torch.tensor(found.step + 1 if found else 0, device=accelerator.device)
        step = int(accelerator.reduce(step).item()) - 1
        return checkpoint_of(folder, step) if step >= 0 else None

    def _resume(self) -> None:
        """Take up the newest whole checkpoint, if there is one, of however many processes."""
        checkpoint = self._newest()
        if checkpoint is None:
            return
        tensors = checkpoint.tensors
        self._check_steps(checkpoint.step, int(tensors["steps"]))
        kinds = self.stage.module.state_dict()
        names = [name.removeprefix("model/") for name in tensors if name.startswith("model/")]
        self.stage.module.load_state_dict({name: of_whole(tensors[f"model/{name}"], kinds[name]) for name in names})
        for i, (shadow, like) in enumerate(zip(self.ema.shadow_params, self.trained, strict=True)):
            shadow.copy_(local(of_whole(tensors[f"ema/{i:05d}"], like)))
        self.ema.optimization_step = int(tensors["ema/steps"])
        self._resume_optimizer(tensors)
        torch.set_rng_state(tensors["rng"])
        self.step = checkpoint.step
        log.info("%s goes on from step %d", self.stage.name, self.step)

    def _resume_optimizer(self, tensors: Mapping[str, torch.Tensor]) -> None:
        moments: dict[int, dict[str, torch.Tensor | int]] = {}
        for key in (name for name in tensors if name.startswith("optimizer/")):
            _, index, name = key.split("/")
            value, like = tensors[key], self.trained[int(index)]
            if value.shape == like.shape:
                value = of_whole(value, like)
            # 8-bit Adam counts its steps in a plain int.
            whole = value.ndim == 0 and value.dtype == torch.int64
            moments.setdefault(int(index), {})[name] = int(value) if whole else value
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": moments})

    def _check_steps(self, step: int, before: int) -> None:
        """The number of steps may only change where that can't be seen in what was done."""
        settings, name = self.settings, self.stage.name
        limit = min(last_level_step(settings), last_level_step(settings.model_copy(update={"steps": before})))
        if before != settings.steps and step > limit:
            raise RunError(
                f"{name}.steps = {settings.steps} can't take the place of {before} at step {step}: with one of them "
                f"the learning rate falls after step {limit}; set {name}.steps={before}, or start= from its model"
            )
