"""What a run computes on: in which precision, for how long, on which processors."""

import json
from collections.abc import Sequence
from datetime import datetime
from itertools import pairwise

import torch
from accelerate import Accelerator
from accelerate.utils import KwargsHandler

from synthcxr.model.precision import bfloat16_is_faster
from synthcxr.runs import Run
from synthcxr.train.config import TrainConfig


def accelerator_of(config: TrainConfig, handlers: Sequence[KwargsHandler] = ()) -> Accelerator:
    """What a run's stages train through."""
    accelerator = Accelerator(
        mixed_precision="bf16" if _wants_bf16(config) else "no", cpu=config.device == "cpu", log_with="tensorboard",
        project_dir=config.output, kwargs_handlers=list(handlers),
    )  # fmt: skip
    accelerator.wait_for_everyone()  # one that refuses its settings at once must not leave others connecting to it
    return accelerator


def _wants_bf16(config: TrainConfig) -> bool:
    if config.precision != "auto":
        return config.precision == "bf16"
    return bfloat16_is_faster(cuda=config.device == "auto" and torch.cuda.is_available())


def hours(folder: Run) -> float:
    """Hours between the log's lines, without the time that an interrupted run lay still."""
    times, starts = [], set()
    for line in folder.log_path.read_text(encoding="utf-8").splitlines():
        entry = json.loads(line)
        if entry["event"] == "resume":
            starts.add(len(times))
        times.append(datetime.fromisoformat(entry["time"]))
    gaps = ((b - a).total_seconds() for i, (a, b) in enumerate(pairwise(times), 1) if i not in starts)
    return sum(gaps) / 3600


def processors(accelerator: Accelerator) -> str:
    if accelerator.device.type == "cuda":
        return f"{accelerator.num_processes} x {torch.cuda.get_device_name()}"
    return f"{torch.get_num_threads() * accelerator.num_processes} CPU cores"
