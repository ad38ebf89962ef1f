"""Where bfloat16 is the faster one."""

from typing import Literal

import torch

Precision = Literal["float32", "bfloat16", "auto"]


def settled(precision: Precision, cuda: bool) -> Precision:
    """What it comes to here: auto is bfloat16 where that is faster; `cuda` as in `bfloat16_is_faster`."""
    if precision != "auto":
        return precision
    return "bfloat16" if bfloat16_is_faster(cuda) else "float32"


def bfloat16_is_faster(cuda: bool) -> bool:
    """Whether the processors have instructions for it: emulated on a CPU, it takes three times as long as float32.

    Args:
        cuda: it's GPUs that will compute; where none can be asked from here, they're taken for ones that have them.
    """
    if cuda:
        return not torch.cuda.is_available() or torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
