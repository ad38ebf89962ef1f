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
    parameters = list(parameters)
    fused = {"fused": True} if cls is torch.optim.AdamW and parameters[0].is_cuda else {}
    optimizer = cls(
        parameters, settings.learning_rate, betas=settings.betas, weight_decay=settings.weight_decay, **fused
    )
    optimizer.register_load_state_dict_post_hook(_laid_out)
    return optimizer


def _laid_out(optimizer: torch.optim.Optimizer) -> None:
    """Moments of a checkpoint in the order of memory of their weights, as they were before.

    A checkpoint's are contiguous, weights of convolutions may not be. Fused kernels go by memory and would pair the
    wrong numbers, or refuse; moments of 8 bits share a scale among neighbours in memory.
    """
    for parameter, state in optimizer.state.items():
        for name, moment in state.items():
            if isinstance(moment, torch.Tensor) and moment.shape == parameter.shape:
                if moment.stride() != parameter.stride():
                    state[name] = torch.empty_like(parameter, dtype=moment.dtype, device=moment.device).copy_(moment)
