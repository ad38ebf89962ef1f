"""Who trains a cell: one process, or several GPUs together that `accelerate launch` has started."""

import os
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import nn


class Processes(Protocol):
    """What training asks of those who do it."""

    device: torch.device
    rank: int
    count: int

    @property
    def main(self) -> bool: ...
    def prepare(self, network: nn.Module, optimizer: torch.optim.Optimizer) -> tuple[Any, Any]: ...
    def backward(self, loss: torch.Tensor) -> None: ...
    def wait(self) -> None: ...


@dataclass(frozen=True)
class Alone:
    """One process on one device."""

    device: torch.device
    rank: int = 0
    count: int = 1

    @property
    def main(self) -> bool:
        """It's always the one that writes."""
        return True

    def prepare(self, network: nn.Module, optimizer: torch.optim.Optimizer) -> tuple[Any, Any]:
        """As they are."""
        return network, optimizer

    def backward(self, loss: torch.Tensor) -> None:
        """Gradients."""
        loss.backward()

    def wait(self) -> None:
        """For nobody."""


class Together:
    """This process of several, each with an equal share of every batch; gradients are averaged over them."""

    def __init__(self) -> None:
        from accelerate import Accelerator

        self._accelerator = Accelerator(cpu=not torch.cuda.is_available())
        self.device = self._accelerator.device
        self.rank, self.count = self._accelerator.process_index, self._accelerator.num_processes

    @property
    def main(self) -> bool:
        """Whether this is the process that writes."""
        return self._accelerator.is_main_process

    def prepare(self, network: nn.Module, optimizer: torch.optim.Optimizer) -> tuple[Any, Any]:
        """Wrapped so that gradients are averaged."""
        return self._accelerator.prepare(network, optimizer)

    def backward(self, loss: torch.Tensor) -> None:
        """Gradients, averaged over all processes."""
        self._accelerator.backward(loss)

    def wait(self) -> None:
        """For all processes."""
        self._accelerator.wait_for_everyone()


def launched() -> bool:
    """Whether `accelerate launch` (or torchrun) started several processes."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1
