"""How a module is spread over the processes of a run: whole in each (DDP), or divided among them (FSDP2).

Divided, each process holds its part of every weight, and of its gradient, average and moments; the weights of a block
are put together while it computes. accelerate does this on GPUs alone, so torch is asked for it here, with what
accelerate's launcher was told (scripts/accelerate/fsdp.yaml): two CPU processes, as in the tests, run what GPUs run.
"""

from collections.abc import Mapping

import torch
from accelerate import Accelerator, DistributedType
from accelerate.utils import FullyShardedDataParallelPlugin, parse_flag_from_env
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import CPUOffloadPolicy, FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from synthcxr.errors import RunError
from synthcxr.train.config import StageConfig
from synthcxr.train.optimizer import build_optimizer

KNOWN = (DistributedType.NO, DistributedType.MULTI_CPU, DistributedType.MULTI_GPU, DistributedType.FSDP)


def divides(accelerator: Accelerator) -> bool:
    """Whether the processes of this run were launched to divide a model among them.

    Raises:
        RunError: they were launched in a way that isn't supported.
    """
    if accelerator.distributed_type not in KNOWN:
        kind = accelerator.distributed_type.value
        raise RunError(f"{kind} isn't supported; launch with scripts/accelerate/ddp.yaml or fsdp.yaml")
    if accelerator.num_processes == 1 or not parse_flag_from_env("ACCELERATE_USE_FSDP"):
        return False
    told = FullyShardedDataParallelPlugin()  # of the launcher, through the environment
    wrong = {
        "fsdp_version: 1": told.fsdp_version != 2,
        "fsdp_offload_params: true": isinstance(told.cpu_offload, CPUOffloadPolicy),
        "fsdp_cpu_ram_efficient_loading: true": told.cpu_ram_efficient_loading,
        "fsdp_activation_checkpointing: true (base.gradient_checkpointing does that)": told.activation_checkpointing,
    }
    if refused := [setting for setting, there in wrong.items() if there]:
        raise RunError(f"{refused[0]} isn't supported; launch with scripts/accelerate/fsdp.yaml")
    return True


def prepared(
    module: nn.Module, settings: StageConfig, accelerator: Accelerator, divided: bool
) -> tuple[nn.Module, torch.optim.Optimizer]:
    """The module to call in place of this one, and the optimizer of what's trained of it.

    Args:
        divided: among the processes. The module is then changed in place, and is what's called.
    """
    if divided:
        _divide(module, accelerator)
        return module, build_optimizer(trained(module), settings)
    module.to(accelerator.device)
    return accelerator.prepare(module, build_optimizer(trained(module), settings))


def trained(module: nn.Module) -> list[nn.Parameter]:
    return [parameter for parameter in module.parameters() if parameter.requires_grad]


def _divide(module: nn.Module, accelerator: Accelerator) -> None:
    """Divide weights along their first dimension: block by block, so that no more than one is whole at a time."""
    half = accelerator.mixed_precision == "bf16"
    policy = MixedPrecisionPolicy(
        # What autocast would make of them, but for norms' weights; sums and results stay float32, times as they are.
        param_dtype=torch.bfloat16 if half else None, reduce_dtype=torch.float32, cast_forward_inputs=False,
    )  # fmt: skip
    mesh = init_device_mesh(accelerator.device.type, (accelerator.num_processes,))
    again = FullyShardedDataParallelPlugin().reshard_after_forward
    module.forward = accelerator.autocast()(module.forward)
    for unit in [*_blocks(module), module]:
        kind = type(unit)
        fully_shard(unit, mesh=mesh, reshard_after_forward=again, mp_policy=policy)
        # It has another class now; transformers looks up by the printed name which of a network's outputs are kept.
        type(unit).__module__, type(unit).__qualname__ = kind.__module__, kind.__qualname__
        if accelerator.device.type == "cpu":
            unit.set_force_sum_reduction_for_comms(True)  # gloo can't average


def _blocks(module: nn.Module) -> list[nn.Module]:
    """What its networks name as blocks, and the networks, which samplers call without the module; inner ones first."""
    units: set[nn.Module] = set()
    for network in [part for part in module.modules() if getattr(part, "_no_split_modules", None)]:
        blocks = tuple(network._no_split_modules)
        units |= {network, *(part for part in network.modules() if type(part).__name__ in blocks)}
    return [part for part in reversed(list(module.modules())) if part in units and any(True for _ in part.parameters())]


def reshard(module: nn.Module) -> None:
    """Let go of weights that were put together, so that the next forward pass sees the parts as they are by then."""
    for part in module.modules():
        if isinstance(part, FSDPModule):
            part.reshard()


def local(tensor: torch.Tensor) -> torch.Tensor:
    """This process's part of a weight, sharing its memory; a whole one is its own part."""
    return tensor.to_local().detach().requires_grad_(tensor.requires_grad) if isinstance(tensor, DTensor) else tensor


def of_part(part: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """A tensor divided as `like` is, of this process's part; a whole one is itself."""
    if not isinstance(like, DTensor):
        return part
    return DTensor.from_local(
        part, like.device_mesh, like.placements, run_check=False, shape=like.shape, stride=like.stride()
    )


def of_whole(whole: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """A tensor divided as `like` is, of one that every process has whole; where `like` is whole, itself."""
    if not isinstance(like, DTensor):
        return whole
    own = whole.to(like.device)
    return distribute_tensor(own, like.device_mesh, like.placements, src_data_rank=None)


def gathered(tensors: Mapping[str, torch.Tensor], keep: bool = True) -> dict[str, torch.Tensor]:
    """Whole tensors; those that were divided in main memory. All processes must ask for the same ones together.

    Args:
        keep: False gives nothing, for a process that is there for the others.
    """
    kept = {}
    for name, tensor in tensors.items():
        whole = tensor.detach().full_tensor().cpu() if isinstance(tensor, DTensor) else tensor
        if keep:
            kept[name] = whole
    return kept
