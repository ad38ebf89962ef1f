"""The optimizer of a stage."""

import importlib
import logging
from collections.abc import Iterable

import torch
from torch import nn

from synthcxr.train.config import StageConfig

log = logging.getLogger(__name__)


def build_optimizer(parameters: Iterable[nn.Parameter], settings: StageConfig) -> torch.optim.Optimizer:
    """AdamW (Loshchilov and Hutter 2019); with moments of 8 bits (Dettmers et al. 2022) where asked for and there."""
    cls = torch.optim.AdamW
    if settings.optimizer == "adamw8bit":
        try:
            cls = importlib.import_module("bitsandbytes.optim").AdamW8bit
        except (ImportError, AttributeError, OSError, RuntimeError) as error:
            log.warning("8-bit Adam can't be loaded (%s); going on with AdamW", " ".join(str(error).split())[:120])
    return cls(parameters, settings.learning_rate, betas=settings.betas, weight_decay=settings.weight_decay)
